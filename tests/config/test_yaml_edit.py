"""Somebody's YAML: one entry in, one entry out, and refusals where that cannot be done in place."""

import pytest

from mcp_gateway.config.yaml_edit import YamlError, line_of, parse, with_entry, without_entry

ENTRY = {"enabled": True, "type": "stdio", "cmd": "/opt/mcp gateway", "args": ["stdio", "--agent", "goose"]}

COMMENTED = """\
# Goose
GOOSE_MODEL: x  # the model

extensions:
  # the first one
  developer:
    enabled: true
    envs: {A: "b # no comment"}
    args:
      - one

# the end
other: |
  extensions:
    not: this
"""

TEXTS = [
    "",
    "GOOSE_MODEL: x",
    "extensions: {}\nb: 1\n",
    "extensions: {}  # none yet\nb: 1\n",
    "extensions:\nb: 1\n",
    "extensions: # here\n    a: {b: 1}\n",
    "extensions:\r\n  a:\r\n    b: 1\r\n",
    "---\nextensions:\n  a: 1\n",
    COMMENTED,
]


@pytest.mark.parametrize("text", TEXTS)
def test_an_entry_is_put_in_and_taken_out_and_all_else_stays(text: str) -> None:
    before = parse(text)
    edited = with_entry(text, "extensions", "gateway", ENTRY, "\r\n" if "\r\n" in text else "\n")
    assert parse(edited) == {**before, "extensions": {**(before.get("extensions") or {}), "gateway": ENTRY}}
    out = parse(without_entry(edited, "extensions", "gateway"))
    assert out == {**before, "extensions": before.get("extensions") or {}}


def test_every_line_but_the_new_ones_is_as_it_was() -> None:
    edited = with_entry(COMMENTED, "extensions", "gateway", ENTRY)
    assert [line for line in COMMENTED.splitlines() if line not in edited.splitlines()] == []
    assert without_entry(edited, "extensions", "gateway") == COMMENTED
    assert line_of(edited, "extensions", "gateway") == 5


def test_an_entry_that_is_there_is_replaced() -> None:
    edited = with_entry(COMMENTED, "extensions", "developer", ENTRY)
    assert parse(edited)["extensions"] == {"developer": ENTRY}


def test_an_entry_that_is_not_there_is_not_missed() -> None:
    assert without_entry(COMMENTED, "extensions", "nobody") == COMMENTED


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("extensions: {a: {b: 1}}\n", "by hand"),
        ("{extensions: {}}\n", "by hand"),
        ("- 1\n", "a mapping is expected"),
        ("extensions: [1]\n", "a mapping is expected"),
        ("a: [1\n", "expected"),
        ("a: !!python/object:os.system {}\n", "constructor"),
        ("a: 1\n---\nb: 1\n", "single document|another document"),
    ],
)
def test_what_cannot_be_edited_in_place_is_refused(text: str, said: str) -> None:
    with pytest.raises(YamlError, match=said):
        with_entry(text, "extensions", "gateway", ENTRY)


def test_the_line_of_a_syntax_error_is_told() -> None:
    with pytest.raises(YamlError) as raised:
        parse("a: 1\nb: [\n")
    assert raised.value.line == 3
