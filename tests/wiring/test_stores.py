"""What is kept on disk, opened."""

from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest

from fakes.in_process import configured
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.budgets import BudgetStore, Draw
from mcp_gateway.wiring.clock import utc_now
from mcp_gateway.wiring.stores import audit_reader, keys_of, logins_of, spent_budgets, started_tasks_of


def test_an_audit_that_is_not_there_is_no_empty_one(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable, match="does not exist"):
        audit_reader(configured(tmp_path))


def test_the_same_is_found_again_by_whoever_opens_it_next(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    with closing(keys_of(configuration)) as keys, closing(started_tasks_of(configuration)) as tasks:
        keys.create("reader", None, utc_now())
        token, _ = tasks.start("writer", "write", timedelta(minutes=1), utc_now())
    with closing(keys_of(configuration)) as keys, closing(started_tasks_of(configuration)) as tasks:
        assert [record.agent for record in keys.list()] == ["reader"]
        assert (started := tasks.verify(token, utc_now())) and started.agent == "writer"
    with closing(logins_of(configuration)) as logins:
        assert logins.people() == ()


def test_what_is_spent_is_told_since_when_it_was(tmp_path: Path) -> None:
    configuration = configured(tmp_path)
    assert spent_budgets(configuration, None) == []
    with closing(BudgetStore(configuration.settings.state)) as store:
        draw = Draw("daily", "reader", 1000, tokens=0, cost=0, most_calls=5)
        assert store.take([draw]).hold
    assert [row[:4] for row in spent_budgets(configuration, None)] == [("daily", "reader", 1000, 1)]
    assert spent_budgets(configuration, utc_now()) == []
