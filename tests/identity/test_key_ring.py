"""Which keys of a key set may check which signatures."""

import json
from typing import Any

import pytest
from joserfc.jwk import ECKey, OctKey, OKPKey

from fakes.issuer import ec, ed, jwk, rsa
from mcp_gateway.identity.key_ring import ALGORITHMS, MAX_KEYS, MAX_SET_BYTES, KeyRing, KeySetInvalid, read_key_set


def ring(*entries: Any) -> KeyRing:
    return read_key_set(json.dumps({"keys": entries}).encode())


def test_a_key_is_found_by_its_id_and_by_what_it_may_be_used_for() -> None:
    found = ring(jwk(ec("a"), kid="a"), jwk(rsa(), kid="b"), jwk(ed(), kid="c"))
    assert len(found.keys_for("ES256", "a")) == 1
    assert found.keys_for("RS256", "a") == ()
    assert len(found.keys_for("RS256", "b")) == len(found.keys_for("PS512", "b")) == 1
    assert len(found.keys_for("EdDSA", "c")) == len(found.keys_for("Ed25519", "c")) == 1
    assert found.keys_for("ES384", "a") == ()
    assert found.keys_for("ES256", "nobody") == ()


@pytest.mark.parametrize(
    "kid", ["../../dev/null", "a' OR '1'='1", "https://evil.example/jwks.json", "a\x00", "*", "a|b", "__class__"]
)
def test_what_an_id_says_leads_nowhere(kid: str) -> None:
    assert ring(jwk(ec("a"), kid="a")).keys_for("ES256", kid) == ()


def test_a_token_that_names_no_key_is_tried_with_few() -> None:
    assert len(ring(*(jwk(ec(str(n)), kid=str(n)) for n in range(9))).keys_for("ES256", None)) == 4


def test_a_key_without_an_id_serves_a_set_that_names_none() -> None:
    assert len(ring(jwk(ec("a"))).keys_for("ES256", "whatever")) == 1
    assert ring(jwk(ec("a")), jwk(ec("b"), kid="b")).keys_for("ES256", "whatever") == ()


def test_what_cannot_check_a_signature_of_ours_is_left_out() -> None:
    entries: list[Any] = [
        OctKey.import_key(b"s" * 32).as_dict(private=True),
        {**jwk(rsa()), "n": jwk(rsa())["n"][:171]},
        {**jwk(rsa()), "n": jwk(rsa())["n"] * 5},
        jwk(ECKey.generate_key("secp256k1")),
        jwk(OKPKey.generate_key("X25519")),
        jwk(ec("a"), use="enc"),
        jwk(ec("a"), key_ops=["sign"]),
        jwk(ec("a"), alg="HS256"),
        {"kty": "EC", "crv": "P-256"},
        {"kty": "EC", "crv": "P-256", "x": "AA", "y": "AA"},
        {"kty": "RSA", "n": 1, "e": []},
        {"kty": "none"},
        {},
        [],
        "key",
        None,
    ]
    for entry in entries:
        found = ring(entry, jwk(ec("good"), kid="good"))
        assert len(found) == 1, entry
        assert all(not found.keys_for(algorithm, "") for algorithm in ALGORITHMS)


def test_a_private_key_that_somebody_published_is_used_as_a_public_one() -> None:
    [key] = ring({**ec("a").as_dict(private=True), "kid": "a"}).keys_for("ES256", "a")
    assert not key.is_private


def test_a_key_that_says_its_algorithm_is_for_that_one_only() -> None:
    found = ring(jwk(rsa(), kid="a", alg="PS256"))
    assert found.keys_for("RS256", "a") == ()
    assert len(found.keys_for("PS256", "a")) == 1


@pytest.mark.parametrize(
    "document",
    [
        b"",
        b"<html>",
        b"[]",
        b"{}",
        b'{"keys": {}}',
        b'{"keys": [], "keys": []}',
        json.dumps({"keys": [{}] * (MAX_KEYS + 1)}).encode(),
        json.dumps({"keys": [jwk(ec("a"), kid="a"), jwk(ec("b"), kid="a")]}).encode(),
        b" " * MAX_SET_BYTES + b'{"keys": []}',
    ],
    ids=lambda document: str(document[:20]),
)
def test_a_document_that_is_no_key_set_or_too_much_of_one_is_refused_whole(document: bytes) -> None:
    with pytest.raises(KeySetInvalid):
        read_key_set(document)
