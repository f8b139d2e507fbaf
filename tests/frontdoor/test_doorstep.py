"""Checks on an HTTP request before anybody asks who sent it."""

from collections.abc import Iterable
from typing import Any

import pytest

from mcp_gateway.frontdoor import doorstep
from mcp_gateway.frontdoor.doorstep import MAX_HEADER_LINES, MAX_TARGET_BYTES, Doorstep, HttpRefusedError, accepts
from mcp_gateway.frontdoor.head import Head

BOTH = "application/json, text/event-stream"


def scope(*headers: tuple[str, str], path: str = "/mcp", query: bytes = b"", host: str | None = "localhost") -> Any:
    lines = [("host", host), *headers] if host is not None else list(headers)
    encoded = [(name.encode(), value.encode("latin-1")) for name, value in lines]
    return {"type": "http", "headers": encoded, "path": path, "raw_path": path.encode(), "query_string": query}


def status(refusal: Any) -> int | None:
    return None if refusal is None else refusal.status


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST:1", "127.0.0.1", "127.0.0.1:8080", "127.8.9.1", "[::1]:80"])
def test_loopback_names_are_ours_on_a_loopback_address(host: str) -> None:
    assert Doorstep().check(scope(host=host)) is None
    assert status(Doorstep(loopback=False).check(scope(host=host))) == 421


@pytest.mark.parametrize("host", [
    "evil.example", "localhost.evil.example", "evil.localhost", "localhost:1@evil", "127.0.0.1.evil.example", "",
    "localhost:", "localhost:123456", "[::1].evil", "::1", "0.0.0.1", "localhost ", "xn--localhost-", "loc\xe4lhost",
])  # fmt: skip
def test_a_host_that_is_not_ours_is_refused(host: str) -> None:
    assert status(Doorstep().check(scope(host=host))) == 421


def test_exactly_one_host_is_needed() -> None:
    assert status(Doorstep().check(scope(host=None))) == 400
    assert status(Doorstep().check(scope(("host", "localhost")))) == 400
    assert status(Doorstep().check(scope(("host", "evil.example")))) == 400


def test_an_operator_names_hosts_and_origins() -> None:
    step = Doorstep(allowed_hosts=["Gw.Example"], allowed_origins=["https://App.Example"], loopback=False)
    assert step.check(scope(host="gw.example:8443")) is None
    assert step.check(scope(("origin", "https://app.example"), host="GW.example")) is None
    assert status(step.check(scope(("origin", "https://app.example:8443"), host="gw.example"))) == 403
    assert status(step.check(scope(host="gw.example.evil"))) == 421


@pytest.mark.parametrize("origin", [
    "https://evil.example", "null", "", "http://localhost.evil.com", "http://localhost:1@evil", "file://",
    "http://localhost/", "http://localhost:1/x", "chrome-extension://localhost", "http://127.0.0.1.evil", "localhost",
    " http://localhost", "http://[::1]x",
])  # fmt: skip
def test_a_page_of_somebody_else_is_refused(origin: str) -> None:
    assert status(Doorstep().check(scope(("origin", origin)))) == 403


def test_a_page_of_this_machine_is_let_in_and_two_origins_never() -> None:
    mine = ("origin", "http://localhost:6274")
    assert Doorstep().check(scope(mine)) is None
    assert status(Doorstep().check(scope(mine, mine))) == 403
    assert status(Doorstep(loopback=False, allowed_hosts=["localhost"]).check(scope(mine))) == 403


def test_headers_and_targets_have_bounds() -> None:
    step = Doorstep(max_header_bytes=1000)
    assert status(step.check(scope(("a", "x" * 1000)))) == 431
    assert status(step.check(scope(*[("a", "")] * MAX_HEADER_LINES))) == 431
    assert status(step.check(scope(path="/" + "x" * MAX_TARGET_BYTES))) == 414
    assert status(step.check(scope(query=b"x" * MAX_TARGET_BYTES))) == 414


@pytest.mark.parametrize("types", [
    [], ["text/plain"], ["application/x-www-form-urlencoded"], ["application/jsonp"], ["application/json-rpc"], [""],
    ["application/json, text/plain"], ["application/json", "application/json"], ["text/plain; application/json"],
])  # fmt: skip
def test_only_one_json_content_type_is_accepted(types: list[str]) -> None:
    headers = [("accept", BOTH), *(("content-type", each) for each in types)]
    assert status(Doorstep().check_post(scope(*headers))) == 415


@pytest.mark.parametrize("given", ["application/json", "Application/JSON", "application/json ; charset=utf-8"])
def test_json_is_json_however_it_is_written(given: str) -> None:
    assert Doorstep().check_post(scope(("accept", BOTH), ("content-type", given))) is None


@pytest.mark.parametrize("encoding", ["gzip", "br", "identity, gzip", "x"])
def test_compressed_bodies_are_refused(encoding: str) -> None:
    headers = [("accept", BOTH), ("content-type", "application/json"), ("content-encoding", encoding)]
    assert status(Doorstep().check_post(scope(*headers))) == 415


@pytest.mark.parametrize(
    ("given", "is_enough"),
    [
        ([BOTH], True),
        (["*/*"], True),
        (["application/*, text/*"], True),
        (["application/json", "text/event-stream;q=0.5"], True),
        (["TEXT/EVENT-STREAM, Application/JSON"], True),
        (["application/json"], False),
        (["text/event-stream"], False),
        ([], False),
        (["application/jsonx, text/event-streams"], False),
    ],
)
def test_a_client_must_be_able_to_read_both_kinds_of_answer(given: list[str], is_enough: bool) -> None:
    headers = [("content-type", "application/json"), *(("accept", each) for each in given)]
    assert status(Doorstep().check_post(scope(*headers))) == (None if is_enough else 406)


def test_accepting_nothing_in_particular_is_accepting_nothing() -> None:
    assert not accepts(Head([]).lines, "application/json")


def receiving(*parts: bytes, then: str = "http.request") -> Any:
    messages = [{"type": "http.request", "body": part, "more_body": True} for part in parts]
    messages.append({"type": then, "body": b"", "more_body": False})
    rest: Iterable[Any] = iter(messages)

    async def receive() -> Any:
        return next(rest)  # type: ignore[call-overload]

    return receive


async def test_a_body_in_pieces_is_one_body() -> None:
    assert await Doorstep().read_body(scope(), receiving(b"{", b"", b"}")) == b"{}"


async def test_a_body_may_be_exactly_as_large_as_allowed() -> None:
    step = Doorstep(max_body_bytes=4)
    assert await step.read_body(scope(("content-length", "4")), receiving(b"1234")) == b"1234"
    assert await step.read_body(scope(), receiving(b"12", b"34")) == b"1234"


@pytest.mark.parametrize("length", ["5", "99999999999999999999", "9" * 5000, "-1", "+4", "4x", "", "\xb2", "1e1"])
async def test_a_declared_length_beyond_the_limit_or_beyond_sense_is_refused_unread(length: str) -> None:
    async def receive() -> Any:
        pytest.fail("the body was read")

    with pytest.raises(HttpRefusedError) as refused:
        await Doorstep(max_body_bytes=4).read_body(scope(("content-length", length)), receive)
    assert refused.value.refusal.status == 413


async def test_an_undeclared_body_is_cut_off_at_the_limit() -> None:
    pieces = [b"12"] * 3 + [b"never read"]
    read = []

    async def receive() -> Any:
        read.append(pieces[len(read)])
        return {"type": "http.request", "body": read[-1], "more_body": True}

    with pytest.raises(HttpRefusedError) as refused:
        await Doorstep(max_body_bytes=4).read_body(scope(), receive)
    assert refused.value.refusal.status == 413
    assert len(read) == 3


async def test_a_body_whose_sender_goes_away_is_no_body() -> None:
    with pytest.raises(HttpRefusedError) as refused:
        await Doorstep().read_body(scope(), receiving(b"{", then="http.disconnect"))
    assert refused.value.refusal.status == 400


async def test_a_body_that_takes_too_long_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doorstep, "BODY_TIMEOUT_S", 0.01)

    async def never() -> Any:
        import anyio

        await anyio.sleep_forever()

    with pytest.raises(HttpRefusedError) as refused:
        await Doorstep().read_body(scope(), never)
    assert refused.value.refusal.status == 408


def test_a_refusal_is_counted_under_its_status() -> None:
    refusal = Doorstep().check(scope(host="evil.example"))
    assert refusal is not None
    assert refusal.reason == "http_421"
    assert "evil" not in refusal.text
