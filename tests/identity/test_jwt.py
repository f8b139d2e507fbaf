"""What a JWT has to be before a word of it is believed."""

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from joserfc.jwk import Key

from fakes.issuer import FakeIssuer, ec, ed, jwk, rsa, signed, signed_by_secret, unsigned
from mcp_gateway.identity.faults import Fault
from mcp_gateway.identity.jwt import (
    Rules,
    TokenRefused,
    audiences_of,
    check_claims,
    check_header,
    check_signature,
    looks_like_jwt,
    read_jwt,
)

IDP = FakeIssuer()
RULES = Rules(IDP.issuer, frozenset({"ES256", "RS256", "EdDSA"}), frozenset({"at+jwt"}))
NOW = 1_800_000_000.0


def fault_of(text: str, key: Key | None = None, rules: Rules = RULES, now_s: float | None = None) -> Fault | None:
    """Why a token is refused; None: it is not."""
    try:
        token = read_jwt(text)
        check_header(token, rules)
        check_claims(token.claims, rules, time.time() if now_s is None else now_s)
        check_signature(token, key or ec("k1"))
    except TokenRefused as e:
        return e.fault
    return None


@pytest.mark.parametrize(("alg", "key"), [("ES256", ec("k1")), ("RS256", rsa()), ("EdDSA", ed())])
def test_a_good_token_is_good(alg: str, key: Key) -> None:
    assert fault_of(signed(IDP.claims(), key, alg=alg, typ="at+jwt"), key) is None
    assert fault_of(signed(IDP.claims(), key, alg=alg, typ="application/AT+JWT"), key) is None


@pytest.mark.parametrize(
    "alg", ["none", "None", "NONE", "nOnE", "HS256", "HS384", "ES512", "PS256", "", None, 1, ["ES256"]]
)
def test_an_algorithm_that_is_not_on_the_list_is_refused(alg: Any) -> None:
    assert fault_of(unsigned(IDP.claims(), "AAAA", alg=alg)) is Fault.ALGORITHM


def test_a_token_without_a_signature_is_refused() -> None:
    good = IDP.token()
    assert fault_of(good.rpartition(".")[0] + ".") is Fault.MALFORMED
    assert fault_of(good.rpartition(".")[0]) is Fault.MALFORMED
    assert fault_of(unsigned(IDP.claims(), alg="none")) is Fault.MALFORMED


def test_a_signature_by_the_public_key_as_a_shared_secret_is_refused_even_where_the_list_had_it() -> None:
    public = rsa().as_pem(private=False)
    forged = signed_by_secret(IDP.claims(), public)
    assert fault_of(forged, rsa()) is Fault.ALGORITHM
    lax = Rules(IDP.issuer, frozenset({"HS256"}), RULES.types)
    assert fault_of(forged, rsa(), lax) is Fault.SIGNATURE


def test_another_keys_signature_and_one_bit_more_or_less_are_refused() -> None:
    assert fault_of(signed(IDP.claims(), ec("thief"), typ="at+jwt")) is Fault.SIGNATURE
    head, claims, signature = IDP.token().split(".")
    swapped = signed(IDP.claims(sub="root"), ec("thief")).split(".")[1]
    assert fault_of(f"{head}.{swapped}.{signature}") is Fault.SIGNATURE
    assert fault_of(f"{head}.{claims}.{signature[:-4]}AAAA") is Fault.SIGNATURE
    assert fault_of(f"{head}.{claims}.{signature}AAAA") is Fault.SIGNATURE


def test_a_key_that_the_token_brings_along_is_not_looked_at() -> None:
    thief = ec("thief")
    for header in ({"jwk": jwk(thief)}, {"jku": "https://evil.example/jwks"}, {"x5u": "https://evil.example/x"}):
        assert fault_of(signed(IDP.claims(), thief, typ="at+jwt", **header)) is Fault.SIGNATURE


@pytest.mark.parametrize(
    "header",
    [{"crit": ["exp"]}, {"crit": []}, {"b64": False}, {"zip": "DEF"}, {"kid": 1}, {"kid": ""}, {"kid": "x" * 257}],
)
def test_a_header_that_changes_the_meaning_is_refused(header: Any) -> None:
    assert fault_of(unsigned(IDP.claims(), "AAAA", alg="ES256", **header)) is Fault.HEADER


@pytest.mark.parametrize(
    "typ", ["JWT", "id_token", "rt+jwt", "logout+jwt", "dpop+jwt", "at+jwt ", "", None, 1, ["at+jwt"]]
)
def test_another_kind_of_jwt_is_refused(typ: Any) -> None:
    assert fault_of(unsigned(IDP.claims(), "AAAA", alg="ES256", typ=typ)) is Fault.TYPE


@pytest.mark.parametrize(
    "iss", ["https://idp.example/", "https://IDP.example", "http://idp.example", "", None, 1, ["https://idp.example"]]
)
def test_an_issuer_is_compared_to_the_byte(iss: Any) -> None:
    assert fault_of(IDP.token(iss=iss)) is Fault.ISSUER


@pytest.mark.parametrize("exp", [None, "1900000000", True, 1e308, 253_402_300_800, -1, [1], {}])
def test_a_token_has_to_end_at_a_time(exp: Any) -> None:
    assert fault_of(IDP.token(exp=exp), now_s=NOW) is Fault.CLAIMS


@pytest.mark.parametrize("literal", [b"NaN", b"Infinity", b"1e999", b"-0x1"])
def test_numbers_that_json_does_not_know_are_refused(literal: bytes) -> None:
    claims = b'{"iss":"https://idp.example","aud":"x","sub":"a","exp":' + literal + b"}"
    assert fault_of(signed(claims, ec("k1"), typ="at+jwt")) in (Fault.MALFORMED, Fault.CLAIMS)


def test_clocks_may_differ_by_the_leeway_and_no_more() -> None:
    for claim, inside, outside, fault in (
        ("exp", NOW - 59, NOW - 61, Fault.EXPIRED),
        ("nbf", NOW + 59, NOW + 61, Fault.NOT_YET),
        ("iat", NOW + 59, NOW + 61, Fault.NOT_YET),
    ):
        good = {"exp": NOW + 100, "iat": NOW}
        assert fault_of(IDP.token(**{**good, claim: inside}), now_s=NOW) is None
        assert fault_of(IDP.token(**{**good, claim: outside}), now_s=NOW) is fault


def test_a_member_named_twice_is_refused_wherever_it_stands() -> None:
    twice = b'{"iss":"https://idp.example","sub":"alice","sub":"root","exp":1900000000}'
    assert fault_of(signed(twice, ec("k1"), typ="at+jwt")) is Fault.MALFORMED


@pytest.mark.parametrize(
    "text", ["", ".", "..", "a.b.c", "a.b.c.d.e", "e30.e30.", "e30.W10.AAAA", "é.é.é", "e30=.e30=.AAAA", "e 30.e30.AA"]
)
def test_what_is_no_compact_jws_is_refused(text: str) -> None:
    assert fault_of(text) in (Fault.MALFORMED, Fault.ALGORITHM)


@given(st.text(max_size=200))
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    assert fault_of(text) is not None
    looks_like_jwt(text)


@given(st.binary(min_size=1, max_size=40), st.integers(0, 400))
def test_no_altered_token_is_believed(noise: bytes, at: int) -> None:
    good = IDP.token().encode()
    altered = good[: at % len(good)] + noise + good[at % len(good) + len(noise) :]
    if altered != good:
        assert fault_of(altered.decode("latin-1")) is not None


@pytest.mark.parametrize("aud", [None, "", [], [1], {"a": 1}, 1, True])
def test_an_audience_is_a_text_or_texts(aud: Any) -> None:
    if aud == "":
        assert audiences_of({"aud": aud}) == {""}
        return
    with pytest.raises(TokenRefused):
        audiences_of({"aud": aud})
