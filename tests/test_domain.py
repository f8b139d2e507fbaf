"""The nouns: what can be read off them, and what they never show."""

import pytest

from mcp_gateway.domain import Credential, Decision, Effect, Kind, Reason, Request, Target, Verb


def _request(kind: Kind, name: str, arguments: object) -> Request:
    return Request("r-1", Verb.CALL, "tools/call", kind, name, {"arguments": arguments})


def test_a_credential_shows_its_headers_names_and_never_what_they_hold() -> None:
    shown = repr(Credential({"Authorization": "Bearer s3cret"}))
    assert "Authorization" in shown
    assert "s3cret" not in shown


def test_conditions_see_the_arguments_of_a_call() -> None:
    assert _request(Kind.TOOL, "crm__get", {"id": 1}).arguments == {"id": 1}


@pytest.mark.parametrize("arguments", [None, [], "id=1"])
def test_arguments_that_are_no_object_are_no_arguments(arguments: object) -> None:
    assert dict(_request(Kind.PROMPT, "crm__hello", arguments).arguments) == {}


def test_of_a_resource_conditions_see_the_uri() -> None:
    assert _request(Kind.RESOURCE, "file:///a", {"uri": "file:///b"}).arguments == {"uri": "file:///a"}


def test_a_policy_names_a_target_by_its_upstream_and_its_own_name() -> None:
    assert Target(Kind.TOOL, "crm", "get", "shop__get", {}, "").key == "crm/get"


def test_what_depends_on_arguments_is_listed_and_not_allowed() -> None:
    decision = Decision(Effect.DEPENDS, Reason.GRANT_DEPENDS)
    assert decision.visible
    assert not decision.allowed


def test_what_is_denied_is_neither_listed_nor_allowed() -> None:
    decision = Decision(Effect.DENIED, Reason.NO_GRANT)
    assert not decision.visible
    assert not decision.allowed
