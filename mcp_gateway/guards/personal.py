"""Personal data in texts: what looks like it and also adds up (checksums, country lengths, assigned ranges).

Recognisers are patterns that take time in proportion to the text, each with a check that throws out what only looks
alike. They are signals with known limits: names, addresses and dates of birth are not found.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from ipaddress import ip_address
from typing import Final

from mcp_gateway.guards.detect import Found, Shape, found_by

# ISO 13616 registry: how long an IBAN of each country is.
_IBAN_LENGTHS: Final = {
    "AD": 24, "AE": 23, "AL": 28, "AT": 20, "AZ": 28, "BA": 20, "BE": 16, "BG": 22, "BH": 22, "BR": 29, "CH": 21,
    "CR": 22, "CY": 28, "CZ": 24, "DE": 22, "DK": 18, "DO": 28, "EE": 20, "EG": 29, "ES": 24, "FI": 18, "FO": 18,
    "FR": 27, "GB": 22, "GE": 22, "GI": 23, "GL": 18, "GR": 27, "GT": 28, "HR": 21, "HU": 28, "IE": 22, "IL": 23,
    "IQ": 23, "IS": 26, "IT": 27, "JO": 30, "KW": 30, "KZ": 20, "LB": 28, "LI": 21, "LT": 20, "LU": 20, "LV": 21,
    "MC": 27, "MD": 24, "ME": 22, "MK": 19, "MR": 27, "MT": 31, "MU": 30, "NL": 18, "NO": 15, "PK": 24, "PL": 28,
    "PS": 29, "PT": 25, "QA": 29, "RO": 24, "RS": 22, "SA": 24, "SE": 24, "SI": 19, "SK": 24, "SM": 27, "TN": 24,
    "TR": 26, "UA": 29, "VG": 24, "XK": 20,
}  # fmt: skip
# First digits that card networks have been assigned.
_CARD_PREFIX: Final = re.compile(r"4|5[1-5]|2(?:22[1-9]|2[3-9]|[3-6]|7[01]|720)|3[47]|3(?:0[0-5]|[689])|35|6")


def _is_card(text: str) -> bool:
    digits = [int(letter) for letter in text if letter.isdigit()]
    doubled = [sum(divmod(2 * digit, 10)) for digit in digits[-2::-2]]
    return len(set(digits)) > 1 and (sum(doubled) + sum(digits[-1::-2])) % 10 == 0 and bool(_CARD_PREFIX.match(text))


def _iban_in(text: str) -> int:
    """How many characters of `text` are an IBAN; 0: none."""
    length = _IBAN_LENGTHS.get(text[:2].upper(), 0)
    taken = 0
    letters = ""
    while len(letters) < length and taken < len(text):
        letters += text[taken].strip()
        taken += 1
    if not length or len(letters) < length or text[taken : taken + 1].isalnum():
        return 0
    number = "".join(str(int(letter, 36)) for letter in (letters[4:] + letters[:4]).upper())
    return taken if int(number) % 97 == 1 else 0


def _is_address(text: str) -> bool:
    try:
        return not ip_address(text).is_unspecified
    except ValueError:
        return False


def _whole(check: Callable[[str], bool]) -> Callable[[str], int]:
    return lambda text: len(text) if check(text) else 0


_SHAPES: Final = (
    Shape("email", re.compile(r"(?<![\w.+-])[\w.%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}(?![\w-])"), "@"),
    Shape("phone", re.compile(r"(?<![\w+])\+[1-9](?:[ ().-]{0,2}\d){7,14}(?!\d)"), "+"),
    Shape("phone", re.compile(r"(?<![\w+.-])(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?![\w-])")),
    Shape("card", re.compile(r"(?<![\d.-])\d(?:[ -]?\d){12,18}(?![\d-])"), measure=_whole(_is_card)),
    Shape("iban", re.compile(r"\b[A-Za-z]{2}\d{2}(?: ?[A-Za-z0-9]){11,40}"), measure=_iban_in),
    Shape("us-ssn", re.compile(r"(?<![\d-])(?!000|666|9)\d{3}([- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\d-])")),
    Shape("uk-nino", re.compile(r"\b[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?: ?\d{2}){3} ?[A-D]\b")),
    Shape("ip", re.compile(r"(?<![\w.:])(?:\d{1,3}\.){3}\d{1,3}(?![\w.:])"), ".", _whole(_is_address)),
    Shape("ip", re.compile(r"(?<![\w:.])[0-9A-Fa-f:]{2,39}:[0-9A-Fa-f:]{1,39}(?![\w:])"), ":", _whole(_is_address)),
)


class PersonalData:
    """Finds e-mail addresses, phone numbers, payment cards, bank accounts, national numbers, IP addresses."""

    name = "personal-data"
    kinds = tuple(dict.fromkeys(shape.kind for shape in _SHAPES))

    def scan(self, text: str) -> list[Found]:
        """What there is in one text."""
        return found_by(_SHAPES, text)
