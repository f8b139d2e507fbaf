"""`kill -9` at random moments of renewals, against a real authorization server: what it can cost, and what never.

MCP_GATEWAY_TEST_KILLS says how often (40): 1,000 take about eight minutes each.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from fakes.killed_renewals import TOKEN_LIFE_S, Rounds, used_again, uses_of
from fakes.node import requires_node
from fakes.oidc_guarded import guarded_servers, oidc_provider

pytestmark = [pytest.mark.slow, requires_node]

KILLS = int(os.environ.get("MCP_GATEWAY_TEST_KILLS", "40"))


async def test_no_kill_during_renewals_costs_a_login_where_refresh_tokens_stay(tmp_path: Path) -> None:
    async with oidc_provider(TOKEN_LIFE_S, rotates=False) as issuer, guarded_servers(issuer, 1) as [server]:
        rounds = Rounds(tmp_path / "s", server, seed=1)
        tally = await rounds.run(KILLS)
        uses = await uses_of(issuer)
    assert (tally.lost, tally.garbled) == ([], []), tally
    assert tally.kills >= KILLS
    assert {status for _, status in uses} == {200}
    assert tally.cut_off > KILLS / 10, "hardly a kill met a renewal: the test shows nothing"


async def test_where_they_rotate_a_kill_costs_a_login_only_if_it_lost_an_answer_and_that_is_said(
    tmp_path: Path,
) -> None:
    async with oidc_provider(TOKEN_LIFE_S, rotates=True) as issuer, guarded_servers(issuer, 1) as [server]:
        rounds = Rounds(tmp_path / "s", server, seed=2)
        tally = await rounds.run(KILLS)
        uses = await uses_of(issuer)
    assert tally.kills >= KILLS
    assert tally.garbled == [], "a login was kept that does not work"
    assert [said for said in tally.lost if "after a renewal that was cut off" not in said] == []
    assert len(tally.lost) <= tally.cut_off
    # No token is used twice but by a process that finds the note of one that was killed.
    assert used_again(uses) <= tally.cut_off
    taken = [token for token, status in uses if status == 200]
    assert len(set(taken)) == len(taken), "the server took a token twice, though it rotates"
    assert tally.cut_off > KILLS / 10, "hardly a kill met a renewal: the test shows nothing"
