"""The defaults of what is shown are the careful ones."""

from math import inf

from mcp_gateway.domain import Strength
from mcp_gateway.identity.shown import Identity, Shown


def test_nothing_is_shown_unless_it_was() -> None:
    shown = Shown([])
    assert (shown.values("dpop"), shown.peer, shown.task) == ([], "", None)


def test_an_identity_has_no_person_unless_somebody_said_so() -> None:
    identity = Identity("a", Strength.API_KEY)
    assert (identity.person, identity.expires_at, dict(identity.claims)) == (None, inf, {})
