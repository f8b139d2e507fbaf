"""Names that people and models would take for one another.

`skeleton` folds what a reader does not see: case, separators, digits that pass for letters. Names are never compared so
when something is looked up, only when it is asked whether two could be mixed up. After Unicode TR39, "Confusable
Detection", for the characters that names may have here.
"""

from __future__ import annotations

from typing import Final

_FOLDED: Final = str.maketrans({"0": "o", "1": "l", "i": "l", "5": "s", "-": None, "_": None, ".": None, " ": None})
_PAIRS: Final = (("rn", "m"), ("vv", "w"), ("cl", "d"))


def skeleton(name: str) -> str:
    """What is left of a name when everything a reader may overlook is folded.

    >>> skeleton("Get-Issue") == skeleton("get_lssue"), skeleton("get_issue") == skeleton("get_issues")
    (True, False)
    """
    folded = name.casefold().translate(_FOLDED)
    for pair, like in _PAIRS:
        folded = folded.replace(pair, like)
    return folded
