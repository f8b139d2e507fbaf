"""Fetching from addresses that strangers name: what is refused, and what is bounded."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
from starlette.types import Receive, Scope, Send

from fakes.served import serving
from mcp_gateway.netguard import Allowed, Fetcher, FetchFailed, url_problem

LOOPBACK = Allowed.of(["127.0.0.0/8"])

NOT_PUBLIC = [
    *("127.0.0.1", "10.1.2.3", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.1", "224.0.0.1"),
    *("255.255.255.255", "192.0.2.1", "198.18.0.1", "::1", "::", "::7f00:1", "::ffff:127.0.0.1", "::ffff:10.0.0.1"),
    *("fe80::1", "fe80::1%lo", "fc00::1", "fec0::1", "ff02::1", "2001:db8::1", "2002:a00:1::", "2002:7f00:1::1"),
    *("64:ff9b::7f00:1", "64:ff9b::a9fe:a9fe", "64:ff9b:1::808:808", "2001::1", "not an address", ""),
]


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_an_address_that_is_not_public_is_refused(address: str) -> None:
    assert not Allowed().admits(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "2606:4700::1111", "64:ff9b::101:101", "::ffff:1.1.1.1"])
def test_a_public_address_is_admitted(address: str) -> None:
    assert Allowed().admits(address)


def test_what_an_operator_allows_is_admitted_and_nothing_beside_it() -> None:
    allowed = Allowed.of(["10.0.0.0/8", "fd00::/8", "idp.internal"])
    assert allowed.admits("10.9.9.9")
    assert allowed.admits("fd00::1")
    assert not allowed.admits("192.168.0.1")
    assert allowed.admits("192.168.0.1", "IDP.internal")
    assert not allowed.admits("192.168.0.1", "other.internal")


@pytest.mark.parametrize("address", [each for each in NOT_PUBLIC if each and " " not in each])
def test_an_address_that_the_operator_wrote_is_what_they_meant_and_none_that_a_name_leads_to(address: str) -> None:
    assert Allowed().admits_written(address, address)
    assert not Allowed().admits_written(address, "crm.example")


def test_a_name_the_operator_wrote_may_lead_where_they_allowed_it_to() -> None:
    allowed = Allowed.of(["10.0.0.0/8", "idp.internal"])
    assert allowed.admits_written("10.1.1.1", "crm.internal")
    assert not allowed.admits_written("192.168.1.1", "crm.internal")
    assert allowed.admits_written("192.168.1.1", "idp.internal")
    assert allowed.admits_written("9.9.9.9", "crm.example")
    assert not allowed.admits_written("127.0.0.1", "127.1")


def test_localhost_is_this_machine_and_nothing_else() -> None:
    assert Allowed().admits_written("::1", "localhost") and Allowed().admits_written("127.0.0.1", "LOCALHOST")
    assert not Allowed().admits_written("10.0.0.1", "localhost")
    assert not Allowed().admits_written("9.9.9.9", "localhost")


@pytest.mark.parametrize("entry", ["10.0.0.1/8", "*", "", "a b", "http://idp", "10.0.0", "idp:80", "-a"])
def test_an_entry_that_is_neither_network_nor_name_is_a_complaint(entry: str) -> None:
    with pytest.raises(ValueError, match="neither"):
        Allowed.of([entry])


@pytest.mark.parametrize(
    "url",
    [
        *(
            "http://idp.example/",
            "ftp://idp.example/",
            "file:///etc/passwd",
            "https://",
            "//idp.example",
            "https://a b/",
        ),
        *("https://u:p@idp.example/", "https://idp.example/#x", "https://idp.example\\@evil/", "https://a:99999/", ""),
        "https://a/" + "a" * 2048,
    ],
)
def test_a_url_that_is_no_plain_https_one_is_refused(url: str) -> None:
    assert url_problem(url) is not None


def test_plain_http_is_for_this_machine_and_hosts_the_operator_named() -> None:
    assert url_problem("http://127.0.0.1:1/x") is None
    assert url_problem("http://[::1]/x") is None
    assert url_problem("http://idp.internal/x", Allowed.of(["idp.internal"])) is None
    assert url_problem("http://idp.internal/x", LOOPBACK) is not None


async def test_what_listens_on_loopback_is_reached_only_where_it_is_allowed() -> None:
    async with answering(b'{"a": 1}') as origin, fetching(LOOPBACK) as fetcher:
        answer = await fetcher.get(f"{origin}/x")
        assert (answer.status, answer.body) == (200, b'{"a": 1}')
        async with fetching(Allowed()) as careful:
            with pytest.raises(FetchFailed, match="allow_addresses"):
                await careful.get(f"{origin}/x")


async def test_a_name_that_leads_to_a_private_address_is_refused_when_it_is_connected_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked = []

    async def rebound(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port))]

    async with answering(b"{}") as origin, fetching(Allowed()) as fetcher:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", rebound, raising=False)
        with pytest.raises(FetchFailed, match="no address"):
            await fetcher.get(origin.replace("http://127.0.0.1", "https://idp.example"))
    assert asked == ["idp.example"]


async def test_a_redirect_is_an_answer_and_is_not_followed() -> None:
    async with answering(b"", 302, [(b"location", b"http://127.0.0.1:1/")]) as origin, fetching(LOOPBACK) as fetcher:
        answer = await fetcher.get(origin)
        assert (answer.status, answer.headers["location"]) == (302, "http://127.0.0.1:1/")


async def test_an_answer_without_end_is_cut_off() -> None:
    async with answering(b"x" * 70_000) as origin, fetching(LOOPBACK) as fetcher:
        with pytest.raises(FetchFailed, match="more than 65536"):
            await fetcher.get(origin, max_bytes=65536)


async def test_a_compressed_answer_is_not_taken() -> None:
    async with answering(b"", 200, [(b"content-encoding", b"gzip")]) as origin, fetching(LOOPBACK) as fetcher:
        with pytest.raises(FetchFailed, match="compressed"):
            await fetcher.get(origin)


async def test_a_server_that_never_answers_is_given_up() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read()
        writer.close()

    server = await asyncio.start_server(silent, "127.0.0.1", 0)
    async with server, fetching(LOOPBACK, timeout_s=0.1) as fetcher:
        with pytest.raises(FetchFailed, match="within"):
            await fetcher.get(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/")


async def test_nobody_there_and_a_name_that_does_not_exist_are_failures_without_details() -> None:
    async with fetching(LOOPBACK) as fetcher:
        with pytest.raises(FetchFailed):
            await fetcher.get("http://127.0.0.1:9/secret")
        with pytest.raises(FetchFailed) as failed:
            await fetcher.get("https://nowhere.invalid/secret")
    assert "secret" not in str(failed.value)


async def test_a_form_arrives_as_a_form() -> None:
    seen: dict[str, object] = {}

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        seen["body"] = (await receive())["body"]
        seen["headers"] = dict(scope["headers"])
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"{}"})

    async with serving(app) as origin, fetching(LOOPBACK) as fetcher:
        await fetcher.post_form(f"{origin}/token", {"token": "a b&c"}, {"Authorization": "Basic x"})
    assert seen["body"] == b"token=a+b%26c"
    headers = seen["headers"]
    assert isinstance(headers, dict)
    assert headers[b"content-type"] == b"application/x-www-form-urlencoded"
    assert headers[b"authorization"] == b"Basic x"


@asynccontextmanager
async def answering(
    body: bytes, status: int = 200, headers: list[tuple[bytes, bytes]] | None = None
) -> AsyncIterator[str]:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": status, "headers": headers or []})
        await send({"type": "http.response.body", "body": body})

    async with serving(app) as origin:
        yield origin


@asynccontextmanager
async def fetching(allowed: Allowed, timeout_s: float = 5) -> AsyncIterator[Fetcher]:
    fetcher = Fetcher(allowed, timeout_s=timeout_s)
    try:
        yield fetcher
    finally:
        await fetcher.aclose()
