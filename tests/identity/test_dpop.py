"""What is remembered of proofs, and what is not accepted where it cannot be. The rest is in test_tokens."""

import pytest

from fakes.issuer import RESOURCE, ec, proof
from mcp_gateway.errors import IdentityUnavailable
from mcp_gateway.identity import dpop
from mcp_gateway.identity.dpop import CLOCKS_DIFFER_S, MAX_AGE_S, NONCE_S, Asked, NonceNeeded, Proofs
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import TokenRefused

NOW = 1_800_000_000.0
ASKED = Asked("POST", RESOURCE)


def use(proofs: Proofs, key: str = "holder", now_s: float = NOW, text: str = "", **claims: object) -> str:
    text = text or proof(ec(key), "token", iat=int(now_s), **claims)
    proofs.check([text], "token", ec(key).thumbprint(), ASKED, now_s)
    return text


def test_a_proof_is_remembered_for_as_long_as_it_would_be_accepted() -> None:
    proofs = Proofs()
    text = proof(ec("holder"), "token", iat=int(NOW + CLOCKS_DIFFER_S - 1))
    use(proofs, text=text)
    for later_s in (0.0, MAX_AGE_S / 2, MAX_AGE_S + CLOCKS_DIFFER_S - 1.5):
        with pytest.raises(TokenRefused) as refused:
            use(proofs, text=text, now_s=NOW + later_s)
        assert refused.value.fault is Fault.REPLAYED
    with pytest.raises(TokenRefused) as refused:
        use(proofs, text=text, now_s=NOW + MAX_AGE_S + CLOCKS_DIFFER_S)
    assert refused.value.fault is Fault.PROOF


def test_used_proofs_are_forgotten_when_they_are_too_old() -> None:
    proofs = Proofs()
    for n in range(100):
        use(proofs, now_s=NOW + n * 10)
    assert len(proofs._used) <= (MAX_AGE_S + CLOCKS_DIFFER_S) / 10 + 1
    assert proofs._used_by == {ec("holder").thumbprint(): len(proofs._used)}


def test_two_holders_may_use_the_same_jti() -> None:
    proofs = Proofs()
    use(proofs, "one", jti="same")
    use(proofs, "two", jti="same")


def test_where_no_more_can_be_remembered_nothing_more_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dpop, "MAX_USED", 3)
    monkeypatch.setattr(dpop, "MAX_USED_PER_KEY", 2)
    proofs = Proofs()
    use(proofs)
    use(proofs)
    with pytest.raises(IdentityUnavailable):
        use(proofs)
    use(proofs, "another")  # one holder does not use up the room of all
    with pytest.raises(IdentityUnavailable):
        use(proofs, "a third")
    use(proofs, now_s=NOW + MAX_AGE_S + CLOCKS_DIFFER_S)


def test_a_nonce_is_good_for_its_period_and_the_next() -> None:
    proofs = Proofs(wants_nonce=True)
    nonce = proofs.nonce(NOW)
    use(proofs, nonce=nonce)
    use(proofs, nonce=nonce, now_s=NOW + NONCE_S)
    for given, now_s in ((nonce, NOW + 2 * NONCE_S), ("", NOW), (None, NOW), (Proofs().nonce(NOW), NOW)):
        with pytest.raises(NonceNeeded) as refused:
            use(proofs, nonce=given, now_s=now_s)
        assert refused.value.nonce == proofs.nonce(now_s)


def test_the_query_of_an_address_does_not_count() -> None:
    use(Proofs(), htu=f"{RESOURCE}?a=1#b")


def test_a_proof_from_before_the_process_began_is_refused_for_nobody_knows_its_uses() -> None:
    proofs = Proofs(since_s=NOW - 0.5)
    with pytest.raises(TokenRefused) as refused:
        use(proofs, text=proof(ec("holder"), "token", iat=int(NOW) - 1))
    assert refused.value.fault is Fault.PROOF
    use(proofs)
