"""What a call carries: passed on, masked, or ended."""

import base64
from typing import Any

import anyio
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.audit.redact import RULES
from mcp_gateway.domain import Action, Inspection, Stage
from mcp_gateway.errors import Blocked
from mcp_gateway.guards.content import LONG_TEXT, Content, Looked, strongest
from mcp_gateway.guards.detect import KnownSecrets
from mcp_gateway.guards.injection import Injection
from mcp_gateway.guards.personal import PersonalData

CONTENT = Content([KnownSecrets(RULES), PersonalData(), Injection()])
CARD = "4111 1111 1111 1111"
BOTH = frozenset(Stage)


def guard(action: Action, *find: str, stages: frozenset[Stage] = BOTH, min_score: float = 0.5) -> Inspection:
    return Inspection("guards.toml:1", find or ("personal-data",), stages, action, min_score)


async def look(value: Any, *guards: Inspection, stage: Stage = Stage.ARGUMENTS) -> Looked:
    return await CONTENT.look(guards, stage, value)


async def test_nothing_is_copied_where_nothing_is_found() -> None:
    value = {"a": ["plain", {"b": 1}], "c": None}
    looked = await look(value, guard(Action.MASK))
    assert looked.value is value
    assert looked.findings == ()


async def test_what_is_found_is_masked_wherever_it_stands() -> None:
    value = {"a": [f"card {CARD}.", {"to": "x@y.org"}], "n": 4111111111111111, "kept": 7}
    looked = await look(value, guard(Action.MASK))
    assert looked.value == {
        "a": ["card [masked:personal-data/card].", {"to": "[masked:personal-data/email]"}],
        "n": "[masked:personal-data/card]",
        "kept": 7,
    }
    (finding,) = looked.findings
    assert finding.counts == {"personal-data/card": 2, "personal-data/email": 1}


async def test_an_encoded_secret_is_masked_with_its_whole_word() -> None:
    word = base64.b64encode(f"the card is {CARD}".encode()).decode()
    looked = await look({"q": f"see {word} there"}, guard(Action.MASK))
    assert looked.value == {"q": "see [masked:personal-data/card] there"}


async def test_a_member_s_name_is_looked_at_too_and_no_member_is_lost() -> None:
    looked = await look({"a@b.org": 1, "c@d.org": 2}, guard(Action.MASK))
    assert sorted(looked.value.values()) == [1, 2]
    assert not any("@" in name for name in looked.value)


async def test_a_block_ends_the_call_and_says_the_kind_but_not_the_text() -> None:
    with pytest.raises(Blocked, match="personal-data: card") as refusal:
        await look({"q": CARD}, guard(Action.BLOCK))
    assert "4111" not in str(refusal.value)
    assert refusal.value.findings[0].counts == {"personal-data/card": 1}


async def test_the_strongest_action_wins_in_any_order() -> None:
    guards = [guard(Action.ALERT), guard(Action.MASK), guard(Action.BLOCK)]
    for order in (guards, guards[::-1]):
        with pytest.raises(Blocked):
            await look({"q": CARD}, *order)
    assert strongest([Action.MASK, Action.ALERT]) is Action.MASK
    assert strongest([]) is None


async def test_an_alert_changes_nothing_and_is_told() -> None:
    value = {"q": CARD}
    looked = await look(value, guard(Action.ALERT))
    assert looked.value is value
    assert looked.findings[0].action is Action.ALERT


async def test_a_guard_for_results_does_not_look_at_arguments() -> None:
    only_results = guard(Action.BLOCK, stages=frozenset({Stage.RESULTS}))
    await look({"q": CARD}, only_results)
    with pytest.raises(Blocked, match="came back"):
        await look({"q": CARD}, only_results, stage=Stage.RESULTS)


async def test_a_guard_may_care_for_one_kind_and_for_sure_findings_only() -> None:
    text = {"q": f"{CARD} x@y.org new instructions follow"}
    looked = await look(
        text, guard(Action.MASK, "personal-data/email"), guard(Action.ALERT, "injection", min_score=0.7)
    )
    assert looked.value == {"q": f"{CARD} [masked:personal-data/email] new instructions follow"}
    assert [dict(finding.counts) for finding in looked.findings] == [{"personal-data/email": 1}]


async def test_a_detector_that_is_gone_blocks() -> None:
    with pytest.raises(Blocked, match="there is no detector"):
        await look({"q": "plain"}, guard(Action.ALERT, "toxicity"))


async def test_a_long_text_is_looked_at_while_other_calls_go_on() -> None:
    text = "word " * LONG_TEXT + CARD
    went_on = anyio.Event()

    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_set, went_on)
        looked = await look({"q": text}, guard(Action.MASK))
        assert went_on.is_set()
    assert looked.value["q"].endswith("[masked:personal-data/card]")


async def _set(event: anyio.Event) -> None:
    event.set()


PIECES = st.sampled_from(["plain", CARD, "x@y.org", base64.b64encode(CARD.encode()).decode(), "%34111 1111 1111 1111"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.lists(PIECES, max_size=4).map(" ".join),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=8,
)


@given(VALUES)
async def test_what_was_masked_once_holds_nothing_more(value: Any) -> None:
    masked = (await look({"v": value}, guard(Action.MASK))).value
    assert (await look(masked, guard(Action.MASK))).findings == ()
