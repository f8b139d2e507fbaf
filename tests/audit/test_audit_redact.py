"""Secrets never get as far as a row."""

import base64
import time
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mcp_gateway.audit import redact
from mcp_gateway.audit.redact import TRUNCATED, may_hold_secret, redacted, redacted_text

SECRETS = {
    "bearer": "Authorization: Bearer CANARYcanary1234",
    "basic": "Basic Q0FOQVJZOmNhbmFyeQ==",
    "openai-anthropic": "sk-ant-CANARYcanary123456",
    "github": "ghp_CANARYcanary1234567890",
    "github (fine)": "github_pat_CANARYcanary12345_67890",
    "gitlab": "glpat-CANARYcanary12345678",
    "aws": "AKIACANARYCANARY1234",
    "slack": "xoxb-CANARY-canary-1234",
    "google": "AIzaCANARYcanaryCANARYcanaryCANARYcanary",
    "jwt": "eyJhbGciOiJCANARY.eyJzdWIiOiJCANARY.CANARYsignature",
    "pem": "-----BEGIN RSA PRIVATE KEY-----\nCANARY\ncanary=\n-----END RSA PRIVATE KEY-----",
    "pem (cut)": "-----BEGIN PRIVATE KEY-----\nCANARY\ncanary",
    "url-password": "postgres://admin:CANARY@db.internal/x",
    "cookie": "Cookie: session=CANARY; other=CANARY",
    "stripe": "sk_live_CANARYcanary1234",
    "npm": "npm_CANARYcanaryCANARYcanary12",
    "gateway-key": "mgw_CANARYcanary_CANARYcanaryCANARYcanaryCANARYca123456",
    "gateway-task": "mgt_CANARYcanary_CANARYcanaryCANARYcanaryCANARYca123456",
    "assignment": "https://example.test/?q=1&api_key=CANARYcanary&x=2",
    "password=": "login with password=CANARY now",
}

secrets = pytest.mark.parametrize("text", SECRETS.values(), ids=SECRETS.keys())


@secrets
def test_a_secret_is_taken_out_of_text(text: str) -> None:
    clean, rules = redacted_text(f"before {text}\nafter")
    assert "CANARY" not in clean
    assert clean.startswith("before ")
    assert rules


@secrets
def test_a_secret_is_found_wherever_it_stands(text: str) -> None:
    places: list[Any] = [
        {"note": text},
        {"list": [{"deep": [text]}]},
        {"body": orjson.dumps({"inner": text}).decode()},
        {"body": orjson.dumps({"inner": orjson.dumps({"innermost": text}).decode()}).decode()},
        {text: 1},
        {"attachment": base64.b64encode(f"some {text} here".encode()).decode()},
    ]
    for place in places:
        assert may_hold_secret(orjson.dumps(place)), place
        clean, found = redacted(place, 10_000)
        assert b"CANARY" not in orjson.dumps(clean), place
        assert found
        if "attachment" in place:
            assert clean["attachment"].startswith("[redacted:base64:")


@pytest.mark.parametrize(
    "name", ["password", "PASSWORD", "db_password", "apiKey", "api-key", "X-Api-Key", "client_secret", "accessToken"]
)
def test_whatever_stands_under_a_secret_name_is_taken_out(name: str) -> None:
    for value in ("CANARY", 12345, ["CANARY"], {"x": "CANARY"}):
        clean, found = redacted({"a": {name: value}}, 10_000)
        assert clean["a"][name] == "[redacted:member]"
        assert found == [{"path": f"$.a.{name}", "rule": "member"}]
        assert may_hold_secret(orjson.dumps({name: value}))


def test_ordinary_content_stays_as_it_is() -> None:
    value = {
        "path": "/srv/project/src/main.py",
        "max_tokens": 100,
        "sha": "0123456789abcdef" * 4,
        "uuid": "6f9619ff-8b86-d011-b42d-00c04fc964ff",
        "text": "The tokenizer splits words; tasks are basic-ish. risk-free",
        "nested": '{"a": [1, 2]}',
    }
    assert redacted(value, 10_000) == (value, [])


def test_a_large_value_is_cut_and_says_where() -> None:
    clean, found = redacted({"small": 1, "content": "A" * 1_000_000, "more": [1] * 1000}, 500)
    assert len(orjson.dumps(clean)) < 1000
    assert clean["small"] == 1
    assert "1000000 characters" in clean["content"]
    assert {"path": "$.content", "rule": TRUNCATED} in found


def test_a_secret_across_the_cut_does_not_stay_by_half() -> None:
    for before in range(60, 130):
        clean, _ = redacted({"content": "x " * before + "sk-ant-CANARYcanary123456 " + "y" * 500}, 200)
        assert "CANARY" not in str(clean)


def test_nesting_without_end_is_cut() -> None:
    value: Any = "leaf"
    for _ in range(5000):
        value = [value]
    clean, found = redacted({"x": value}, 10_000)
    assert found
    orjson.dumps(clean)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers(-100, 100) | st.text(max_size=40),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=20), inner, max_size=4),
        max_leaves=20,
    ),
    st.sampled_from(list(SECRETS.values())),
)
def test_the_quick_look_never_misses_what_the_long_one_finds(value: Any, secret: str) -> None:
    for candidate in ({"v": value}, {"v": value, "s": secret}):
        if redacted(candidate, 1_000_000)[1]:
            assert may_hold_secret(orjson.dumps(candidate))


def test_every_mark_of_a_secret_is_seen_wherever_it_stands() -> None:
    for marker in redact._MARKERS:
        for text in (marker, f"x{marker.upper()}y", "ä " * 5000 + marker):
            assert may_hold_secret(text.encode()), marker
    assert not may_hold_secret(("a-b_c.d/e:f key pass auth " * 500).encode())


def test_half_of_a_surrogate_pair_hides_nothing() -> None:
    assert "abcdef123456" not in redacted_text("\ud800 Authorization: Bearer abcdef123456")[0]


@pytest.mark.parametrize(
    "evil",
    [
        "eyJ-" * 50_000, "eyJaaaaaa." * 20_000, "bearer " * 30_000, "-----BEGIN A PRIVATE KEY" * 9_000, "://" * 70_000,
        "http://aaaaaaaaaaa" * 11_000, "a_" * 100_000 + "=", "password" * 25_000, "token=" * 30_000, "SG." * 60_000,
        "cookie:" * 28_000, "a" * 200_000, "api_" * 50_000, "{[" * 100_000, "sk-" * 60_000, "[" * 200_000,
    ],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_no_text_makes_redaction_slow(evil: str) -> None:
    begin = time.process_time()
    redacted({"x": evil}, 1_000_000)
    may_hold_secret(evil.encode())
    assert time.process_time() - begin < 1.0  # 200 kB; a quadratic pattern takes minutes


@pytest.mark.parametrize("secret", SECRETS.values(), ids=SECRETS)
def test_a_cut_text_shows_the_same_however_far_it_was_looked_at(secret: str, monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("a word " * 50 + secret + " a word" * 1000, 350 + before) for before in range(len(secret) + 1)]
    quick = [redacted(text, room)[0] for text, room in texts]
    monkeypatch.setattr(redact, "_may_begin_a_secret", lambda text: True)
    assert quick == [redacted(text, room)[0] for text, room in texts]
