"""The generated parts of docs/reference: what the code itself knows, as Markdown."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from mcp_gateway.metrics import FAMILIES
from tools.source import PACKAGE, ErrorClass, error_classes, members, source_files

FAULTS: Final = {
    "GatewayError": "nobody in particular",
    "AgentError": "the agent's",
    "UpstreamError": "an upstream's",
    "OperatorError": "the operator's",
    "_Complaints": "the operator's",
}
"""The classes of errors.py that only group others, and whose fault those are."""

_CODE: Final = re.compile(r"\bGW-[A-Z0-9]+(?:-[A-Z0-9]+)*\b")


def error_table() -> str:
    """A table of the classes of errors.py that are raised themselves, by whose fault they are."""
    rows = [
        f"| [`{error.code}`](#{error.code.lower()}) | `{error.name}` | {_fault_of(error)} | {_paragraph(error)} |"
        for error in _raised_ones()
    ]
    return "\n".join(["| code | raised as | whose fault | what it is |", "|---|---|---|---|", *rows])


def enum_table(heading: str, enum: str, file: str = "domain.py") -> str:
    """A table of an enum's values and the comments beside them."""
    rows = [
        f"| `{member.value}` | {member.comment or _said_plainly(member.value)} |"
        for member in members(PACKAGE / file, enum)
    ]
    return "\n".join([f"| {heading} | means |", "|---|---|", *rows])


def metric_table() -> str:
    """A table of the metrics there are."""
    rows = [f"| `{f.name}` | {f.kind} | {_marked(f.labels)} | {f.says} |" for f in FAMILIES]
    return "\n".join(["| name | kind | labels | says |", "|---|---|---|---|", *rows])


def codes_in_use() -> set[str]:
    """Every code that stands in the source, but for those of classes that only group others."""
    raised = {error.name for error in _raised_ones()}
    grouping = {error.code for error in error_classes(PACKAGE / "errors.py") if error.name not in raised}
    found = {code for path in source_files() for code in _CODE.findall(path.read_text(encoding="utf-8"))}
    return found - grouping


def _raised_ones() -> list[ErrorClass]:
    return [error for error in error_classes(PACKAGE / "errors.py") if error.name not in FAULTS]


def _fault_of(error: ErrorClass) -> str:
    bases = {each.name: each.base for each in error_classes(PACKAGE / "errors.py")}
    base = error.base
    while base not in FAULTS:
        base = bases[base]
    return FAULTS[base]


def _paragraph(error: ErrorClass) -> str:
    return " ".join(error.docstring.partition("\n\n")[0].split())


def _marked(words: Sequence[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)


def _said_plainly(value: str) -> str:
    return value.replace("_", " ")
