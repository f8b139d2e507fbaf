"""Detectors that answer from elsewhere, asked once about everything in one value."""

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import pytest

from mcp_gateway.domain import Action, Inspection, Stage
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.content import LONG_TEXT, Content
from mcp_gateway.guards.detect import Found, Unjudged
from mcp_gateway.guards.judged import readings
from mcp_gateway.guards.personal import PersonalData

BOTH = frozenset(Stage)


@dataclass
class Judge:
    """Finds the word `grumble`; silent if it is told to be."""

    name: str = "ours"
    kinds: tuple[str, ...] = ("abuse",)
    silent: Unjudged | None = None
    score: float = 0.9
    asked: list[Sequence[str]] = field(default_factory=list)

    async def judge(self, stage: Stage, texts: Sequence[str]) -> Mapping[str, Sequence[Found]]:
        self.asked.append(texts)
        if self.silent is not None:
            raise self.silent
        places = {text: text.find("grumble") for text in texts}
        return {text: [Found("abuse", at, at + 7, self.score)] for text, at in places.items() if at >= 0}


def guard(action: Action, *find: str, min_score: float = 0.5) -> Inspection:
    return Inspection("guards.toml:1", find or ("ours",), BOTH, action, min_score)


async def test_what_it_finds_is_masked_and_counted_like_anybody_s() -> None:
    judge = Judge()
    looked = await Content([judge, PersonalData()]).look(
        [guard(Action.MASK, "ours", "personal-data")], Stage.ARGUMENTS, {"a": "so grumble", "b": ["to x@y.org"]}
    )
    assert looked.value == {"a": "so [masked:ours/abuse]", "b": ["to [masked:personal-data/email]"]}
    assert looked.findings[0].counts == {"ours/abuse": 1, "personal-data/email": 1}
    assert judge.asked == [["so grumble", "to x@y.org"]]


async def test_what_is_encoded_is_shown_to_it_decoded_and_masked_as_a_word() -> None:
    word = base64.b64encode(b"you grumble a lot").decode()
    looked = await Content([Judge()]).look([guard(Action.MASK)], Stage.RESULTS, {"q": f"see {word} there"})
    assert looked.value == {"q": "see [masked:ours/abuse] there"}


async def test_only_calls_that_ask_for_it_pay() -> None:
    judge = Judge()
    await Content([judge, PersonalData()]).look([guard(Action.BLOCK, "personal-data")], Stage.ARGUMENTS, {"q": "hi"})
    assert judge.asked == []


async def test_a_kind_and_a_score_are_chosen_as_of_any_detector() -> None:
    content = Content([Judge(score=0.6)])
    looked = await content.look([guard(Action.BLOCK, min_score=0.7)], Stage.ARGUMENTS, "grumble")
    assert looked.findings == ()
    with pytest.raises(Blocked, match="ours: abuse"):
        await content.look([guard(Action.BLOCK, "ours/abuse")], Stage.ARGUMENTS, "grumble")


@pytest.mark.parametrize("action", [Action.MASK, Action.BLOCK])
async def test_what_was_not_judged_does_not_pass(action: Action) -> None:
    content = Content([Judge(silent=Unjudged("it is away"))])
    with pytest.raises(Blocked, match="cannot be judged") as refusal:
        await content.look([guard(action)], Stage.ARGUMENTS, "harmless")
    assert refusal.value.findings[0].counts == {"ours/unjudged": 1}
    assert "away" not in str(refusal.value)


async def test_a_guard_that_only_alerts_says_that_nothing_was_judged() -> None:
    content = Content([Judge(silent=Unjudged("it is away"))])
    (finding,) = (await content.look([guard(Action.ALERT)], Stage.ARGUMENTS, "harmless")).findings
    assert (finding.action, finding.counts) == (Action.ALERT, {"ours/unjudged": 1})


async def test_what_may_pass_unseen_passes_and_that_is_told() -> None:
    content = Content([Judge(silent=Unjudged("it is away", passes=True))])
    looked = await content.look([guard(Action.BLOCK)], Stage.ARGUMENTS, "harmless")
    (finding,) = looked.findings
    assert (looked.value, finding.action, finding.counts) == ("harmless", Action.ALERT, {"ours/unjudged": 1})


async def test_one_that_may_not_be_passed_over_counts_beside_one_that_may() -> None:
    lenient, strict = Judge("a", silent=Unjudged("", passes=True)), Judge("b", silent=Unjudged(""))
    with pytest.raises(Blocked):
        await Content([lenient, strict]).look([guard(Action.BLOCK, "a", "b")], Stage.ARGUMENTS, "harmless")


async def test_a_long_value_is_judged_too() -> None:
    text = "word " * LONG_TEXT + "grumble"
    looked = await Content([Judge()]).look([guard(Action.MASK)], Stage.ARGUMENTS, [text])
    assert looked.value[0].endswith("[masked:ours/abuse]")


def test_plain_names_of_members_are_not_shown_and_odd_ones_are() -> None:
    assert readings({"role": "user", "you grumble": [1, None, True]}) == ["you grumble", "user"]
