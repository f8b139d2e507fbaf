"""Errors by whose fault: each has a code, an owner, and says no more than it may."""

import pytest

from mcp_gateway import errors
from mcp_gateway.domain import Decision, Effect, Reason
from mcp_gateway.errors import (
    AgentError,
    Complaint,
    ConfigInvalid,
    GatewayError,
    NotAvailable,
    OperatorError,
    UpstreamError,
)

PUBLIC = [kind for name, kind in vars(errors).items() if isinstance(kind, type) and name[0] != "_"]
KINDS = [kind for kind in PUBLIC if issubclass(kind, GatewayError)]


def test_every_error_has_a_code_of_its_own() -> None:
    codes = [kind.code for kind in KINDS]
    assert len(set(codes)) == len(codes)


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_is_exactly_one_partys_fault(kind: type[GatewayError]) -> None:
    if kind is not GatewayError:
        assert sum(issubclass(kind, owner) for owner in (AgentError, UpstreamError, OperatorError)) == 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_error_stands_in_the_tree_that_the_file_draws(kind: type[GatewayError]) -> None:
    assert kind.__name__ in (errors.__doc__ or "")


def test_what_is_not_available_says_only_the_name_the_agent_sent() -> None:
    decision = Decision(Effect.DENIED, Reason.DENY, grant="a.toml:3", message="not while answering tickets")
    assert str(NotAvailable("crm__delete", decision)) == "crm__delete"


def test_a_complaint_names_the_place_the_fault_and_the_fix() -> None:
    assert str(Complaint("a.toml", 3, "unknown key 'taks'", "did you mean 'tasks'?")) == (
        "a.toml:3: unknown key 'taks' (did you mean 'tasks'?)"
    )


def test_every_complaint_is_carried_not_only_the_first() -> None:
    error = ConfigInvalid([Complaint("a.toml", 1, "one"), Complaint("a.toml", 2, "two")])
    assert [complaint.line for complaint in error.complaints] == [1, 2]
    assert str(error) == "a.toml:1: one\na.toml:2: two"
