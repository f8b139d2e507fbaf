"""Approvals as rows; what they are good for is shown in test_storage_transactions."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from mcp_gateway.storage.approvals import ASKED_FOR, GOOD_FOR, Binding, answer, approval, approval_for, approvals
from mcp_gateway.storage.transactions import TransactionStore

BINDING = Binding("d", "bot", "carol", "work", "abc", "u/send", "{}", "sha")


def test_a_question_is_kept_with_all_a_person_has_to_know(tmp_path: Path) -> None:
    with closing(TransactionStore(tmp_path)) as store, store.transaction() as db:
        asked = approval_for(db, BINDING, "p:1", 5)
        found = approval(db, asked.id, 6)
        assert found is not None
        assert (found.agent, found.person, found.task, found.started) == ("bot", "carol", "work", "abc")
        assert (found.target, found.args, found.grant, found.asked_at) == ("u/send", "{}", "p:1", 5)
        assert approvals(db, 6) == [found]
        assert approvals(db, 5 + ASKED_FOR) == []
        assert [each.state for each in approvals(db, 5 + ASKED_FOR, all_of_them=True)] == ["expired"]


def test_an_answer_says_who_gave_it_and_ends(tmp_path: Path) -> None:
    with closing(TransactionStore(tmp_path)) as store, store.transaction() as db:
        asked = approval_for(db, BINDING, "p:1", 5)
        assert answer(db, asked.id, yes=True, by="carol", now=7)
        found = approval(db, asked.id, 8)
        assert found is not None
        assert (found.state, found.answered_by, found.answered_at) == ("approved", "carol", 7)
        assert found.expires_at == 7 + GOOD_FOR
        assert approval_for(db, BINDING, "p:1", 9).state == "approved"
