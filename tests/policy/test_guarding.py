"""Guards as they are written."""

import pytest

from mcp_gateway.domain import Action, Holding, Inspection, Stage
from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.reach import Reach


def policy(text: str) -> Policy:
    return compile_policy(from_sources({"policies/p.toml": text}))


def test_what_is_left_out_has_the_widest_meaning() -> None:
    (guard,) = policy('[[guard]]\nfind = ["secrets"]\nthen = "mask"').guards
    assert guard.inspection == Inspection("policies/p.toml:1", ("secrets",), frozenset(Stage), Action.MASK, 0.5)
    assert (guard.reach, guard.condition) == (Reach(), None)


def test_a_stream_is_held_whole_unless_the_guard_says_otherwise() -> None:
    (guard,) = policy('[[guard]]\nfind = ["secrets"]\nthen = "mask"\nheld = "windows"').guards
    assert guard.inspection.held is Holding.WINDOWS


def test_the_order_of_files_and_tables_does_not_matter() -> None:
    one, two = '[[guard]]\nfind = ["secrets"]\nthen = "mask"\n', '[[guard]]\nfind = ["injection"]\nthen = "alert"\n'
    sources = {"policies/a.toml": one, "policies/b.toml": two}
    backwards = dict(reversed(sources.items()))
    assert compile_policy(from_sources(sources)).guards == compile_policy(from_sources(backwards)).guards


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ('find = []\nthen = "mask"', "'find' is empty"),
        ('then = "mask"', "'find' is missing"),
        ('find = ["secrets"]', "'then' is missing"),
        ('find = ["secrets"]\nthen = "drop"', "'drop' is none of: alert, mask, block"),
        ('find = ["secrets"]\nthen = "mask"\nin = ["answers"]', "'answers' is none of: arguments, results"),
        ('find = ["secrets"]\nthen = "mask"\nmin_score = 2', "'min_score' must be a number between 0 and 1"),
        ('find = ["secrets"]\nthen = "mask"\nmin_score = "x"', "'min_score' must be a number between 0 and 1"),
        ('find = ["secrets"]\nthen = "mask"\nheld = "half"', "'half' is none of: whole, windows"),
        ('find = ["secrets"]\nthen = "mask"\nwhere = "x"', "unknown key"),
    ],
)
def test_a_guard_that_cannot_be_read_is_complained_about(line: str, complaint: str) -> None:
    with pytest.raises(PolicyInvalid, match=complaint) as invalid:
        policy(f"[[guard]]\n{line}\n")
    assert "policies/p.toml:" in str(invalid.value)
