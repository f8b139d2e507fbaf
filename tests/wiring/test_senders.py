"""What is learned of the health of APIs outlives a reload, for as long as they stay the same."""

import time
from pathlib import Path

import pytest

from fakes.in_process import configured
from fakes.ports import free_port
from mcp_gateway.domain import Caller, Credential, HttpPart, Kind, Request, Target, Verb
from mcp_gateway.errors import BadRequest, Unreachable
from mcp_gateway.frontdoor.http_relay import HttpRelay
from mcp_gateway.models.kept import KeptThings
from mcp_gateway.rest.breaker import FAILURES_UNTIL_OPEN
from mcp_gateway.upstreams.routes import RouteSender
from mcp_gateway.wiring.senders import Senders

TARGET = Target(Kind.ROUTE, "orders", "**", "orders", {}, "")


async def no_credential(caller: Caller, upstream: str) -> Credential:
    return Credential()


async def nowhere(message: object) -> None:
    raise AssertionError(message)


async def send(sender: RouteSender) -> None:
    http = HttpPart("/v1/orders", {}, b"", None, HttpRelay(nowhere, {}, lambda error: b""))
    params = {"arguments": {"method": "GET"}}
    await sender.send(
        Caller("reader", "read"), TARGET, Request("r", Verb.ROUTE, "route", Kind.ROUTE, "GET /", params, http=http)
    )


async def test_an_api_that_keeps_failing_is_left_alone_after_a_reload_too_until_it_is_another_one(
    tmp_path: Path,
) -> None:
    text = f'[servers.orders]\nrest = "http://127.0.0.1:{free_port()}"\ninclude = ["* **"]\n'
    configuration = configured(tmp_path, text)
    senders = Senders(configuration.settings, no_credential, KeptThings(tmp_path, b"k" * 32, time.time))
    sender = senders.of_routes(configuration.servers)
    for _ in range(FAILURES_UNTIL_OPEN):
        with pytest.raises(Unreachable):
            await send(sender)
    with pytest.raises(Unreachable, match="keeps failing"):
        await send(senders.of_routes(configured(tmp_path, text + '[servers.two]\ncommand = ["true"]\n').servers))
    with pytest.raises(Unreachable, match=r"^(?!.*keeps failing)"):
        await send(senders.of_routes(configured(tmp_path, text + "timeout_s = 1\n").servers))
    with pytest.raises(BadRequest):
        await send(senders.of_routes(()))
    await senders.close()


async def test_a_name_that_leads_to_this_machine_is_sent_nothing(tmp_path: Path) -> None:
    configuration = configured(tmp_path, '[servers.orders]\nrest = "http://127.1:1"\ninclude = ["* **"]\n')
    senders = Senders(configuration.settings, no_credential, KeptThings(tmp_path, b"k" * 32, time.time))
    with pytest.raises(Unreachable, match="not public"):
        await send(senders.of_routes(configuration.servers))
    await senders.close()
