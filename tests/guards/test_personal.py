"""Personal data: found where it adds up, passed over where it only looks alike."""

import time

import pytest

from mcp_gateway.guards.personal import PersonalData

FOUND = {
    "write to jo.smith+x@mail.example.org, please": ("email", "jo.smith+x@mail.example.org"),
    "call +49 30 1234567 now": ("phone", "+49 30 1234567"),
    "call (555) 123-4567 now": ("phone", "(555) 123-4567"),
    "card 4111-1111-1111-1111": ("card", "4111-1111-1111-1111"),
    "card 5500000000000004.": ("card", "5500000000000004"),
    "amex 378282246310005": ("card", "378282246310005"),
    "to DE89 3704 0044 0532 0130 00 today": ("iban", "DE89 3704 0044 0532 0130 00"),
    "to GB82WEST12345698765432": ("iban", "GB82WEST12345698765432"),
    "ssn 123-45-6789": ("us-ssn", "123-45-6789"),
    "nino AB 12 34 56 C": ("uk-nino", "AB 12 34 56 C"),
    "from 192.0.2.7 at noon": ("ip", "192.0.2.7"),
    "from 2001:db8::7 at noon": ("ip", "2001:db8::7"),
}
ONLY_ALIKE = [
    "card 4111-1111-1111-1112",  # Luhn
    "order 9999999999999995",  # Luhn holds, no network has that prefix
    "0000000000000000",
    "to DE89 3704 0044 0532 0130 01",  # mod 97
    "to XX82WEST12345698765432",  # no such country
    "GB82WEST123456987654321",  # too long
    "version 1.2.3.4.5 of 2026-11-21 at 12:30:45",
    "999.1.2.3",
    "000-12-3456 and 666-12-3456 and 123-00-4567",
    "user@localhost",
    "1234567 tonnes + 12",
]


def found(text: str) -> list[tuple[str, str]]:
    return [(each.kind, text[each.start : each.end]) for each in PersonalData().scan(text)]


@pytest.mark.parametrize("text", FOUND)
def test_personal_data_is_found_where_it_stands(text: str) -> None:
    assert found(text) == [FOUND[text]]


@pytest.mark.parametrize("text", ONLY_ALIKE)
def test_what_only_looks_alike_is_passed_over(text: str) -> None:
    assert found(text) == []


@pytest.mark.parametrize("piece", ["1 ", "1", "a@", "a.b", "DE12 ", "12:", ".", "(555) ", "+1 "])
def test_no_text_takes_more_than_time_in_proportion(piece: str) -> None:
    def seconds(length: int) -> float:
        text, found = piece * (length // len(piece)), []
        for _ in range(3):
            began = time.process_time()
            PersonalData().scan(text)
            found.append(time.process_time() - began)
        return min(found)

    assert seconds(160_000) < 60 * max(seconds(16_000), 0.002)
