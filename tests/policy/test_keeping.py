"""What calls carry, kept because a policy says so."""

import pytest

from mcp_gateway.domain import Caller, Keeping, Kind, Stage, Target
from mcp_gateway.errors import PolicyInvalid
from mcp_gateway.policy.compile import Policy, compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.policy.keeping import keeping

TOOL = Target(Kind.TOOL, "crm", "get", "crm__get", {}, "")
DAY_S = 86_400.0


def policy(text: str) -> Policy:
    return compile_policy(from_sources({"policies/p.toml": text}))


def kept(text: str, agent: str = "bot", task: str = "work") -> Keeping | None:
    return keeping(policy(text).keeps, Caller(agent, task), TOOL)


def test_nothing_is_kept_unless_the_policy_says_so() -> None:
    assert policy("").keeps == ()
    assert kept("") is None


def test_both_halves_are_kept_where_it_does_not_say_which() -> None:
    assert kept('[[keep]]\nfor = "30d"') == Keeping({Stage.ARGUMENTS: 30 * DAY_S, Stage.RESULTS: 30 * DAY_S})
    assert kept('[[keep]]\nfor = "1h"\nwhat = ["results"]') == Keeping({Stage.RESULTS: 3600.0})


def test_it_is_for_whom_and_what_it_says() -> None:
    written = '[[keep]]\nfor = "1d"\ntasks = ["work"]\nagents = ["bot"]\ntools = ["crm/*"]\nreason = "because"'
    assert kept(written) is not None
    assert kept(written, agent="other") is None
    assert kept(written, task="other") is None
    assert kept(written.replace("crm/*", "mail/*")) is None


def test_the_shortest_time_of_each_part_holds_in_any_order() -> None:
    one, two = '[[keep]]\nfor = "30d"\n', '[[keep]]\nfor = "1d"\nwhat = ["arguments"]\n'
    expected = Keeping({Stage.ARGUMENTS: DAY_S, Stage.RESULTS: 30 * DAY_S})
    assert kept(one + two) == kept(two + one) == expected


def test_a_file_in_shadow_keeps_nothing() -> None:
    assert kept('mode = "shadow"\n[[keep]]\nfor = "30d"\n') is None


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        ("", "'for' is missing"),
        ('for = "ever"', "'for'"),
        ('for = "99999d"', "'for'"),
        ('for = "1d"\nwhat = ["prompts"]', "'prompts' is none of: arguments, results"),
        ('for = "1d"\nhow = "x"', "unknown key"),
    ],
)
def test_one_that_cannot_be_read_is_complained_about(line: str, complaint: str) -> None:
    with pytest.raises(PolicyInvalid, match=complaint) as invalid:
        policy(f"[[keep]]\n{line}\n")
    assert "policies/p.toml:" in str(invalid.value)
