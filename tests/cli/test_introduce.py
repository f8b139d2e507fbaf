"""What `serve` says of itself, where a whole `serve` is more than needed."""

import os
import socket
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from fakes.gateway_process import write_files
from fakes.operator_files import FILES, POLICY
from mcp_gateway.cli.introduce import MAX_LINES, Introduction, agents, how_to_connect, upstreams, url_of
from mcp_gateway.cli.output import PIPED_WIDTH, out
from mcp_gateway.config.servers import load
from mcp_gateway.domain import UpstreamState, UpstreamStatus
from mcp_gateway.policy.compile import compile_policy
from mcp_gateway.policy.document import from_sources
from mcp_gateway.wiring import running


def test_an_ipv6_address_is_put_in_brackets() -> None:
    listener: Any = SimpleNamespace(getsockname=lambda: ("::1", 8765, 0, 0))
    assert url_of(listener) == "http://[::1]:8765/mcp"
    with closing(socket.create_server(("127.0.0.1", 0))) as real:
        assert url_of(real) == f"http://127.0.0.1:{real.getsockname()[1]}/mcp"


async def told_of(folder: Path, files: dict[str, str], look: Any, **keys: Any) -> Any:
    write_files(folder, files)
    async with running(lambda: load(folder / "servers.toml", os.environ)) as parts:
        await parts.settled(10)
        return look(Introduction(parts, keys.get("keys", set()), "http://127.0.0.1:1/mcp"))


async def test_the_commands_can_be_pasted_as_the_program_was_called(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [".venv/bin/mcp-gateway", "serve"])
    lines = await told_of(tmp_path, FILES, lambda told: list(how_to_connect(told)), keys={"writer"})
    config = tmp_path / "servers.toml"
    assert lines == [
        'claude mcp add --transport http gateway http://127.0.0.1:1/mcp --header "Authorization: Bearer KEY"',
        "or without HTTP and key, as a command that the agent's program starts:",
        f"{tmp_path}/.venv/bin/mcp-gateway stdio --agent writer --config {config}",
        "",
        f"What happens: .venv/bin/mcp-gateway log --follow --config {config}     Stop: Ctrl-C",
    ]


async def test_an_anonymous_agent_is_named(tmp_path: Path) -> None:
    files = {**FILES, "servers.toml": '[gateway]\nanonymous = "reader"\n'}
    lines = await told_of(tmp_path, files, lambda told: list(how_to_connect(told)))
    assert lines[0] == "requests without a key act as the agent reader; with one:"


def test_what_upstreams_wrote_cannot_colour_the_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(out, "width", PIPED_WIDTH)
    hostile = SimpleNamespace(public_name="[red]x[/]\x1b[31m")
    down = UpstreamStatus("files", UpstreamState.DOWN, detail="it said last: \x1b]0;owned\x07 [bold]")
    parts: Any = SimpleNamespace(
        policy=compile_policy(from_sources({"a.toml": POLICY})),
        gateway=SimpleNamespace(visible=lambda *_: [hostile] * 9),
        pool=SimpleNamespace(statuses=lambda: [down], listings={}),
    )
    told = Introduction(parts, set(), "")
    out.print(agents(told))
    out.print(upstreams(told))
    printed = capsys.readouterr().out
    assert printed.count("[red]x[/]\\x1b[31m") == 18
    assert "and 3 more" in printed
    assert "down: it said last: \\x1b]0;owned\\x07 [bold]" in printed
    assert printed.replace("\n", "").isprintable()


async def test_a_task_that_has_to_be_started_is_told_with_the_command(tmp_path: Path) -> None:
    policy = POLICY.replace("[tasks.read]", "[tasks.read]\nttl = '1h'")

    def shown(told: Introduction) -> str:
        with out.capture() as captured:
            out.print(agents(told))
        return captured.get()

    text = await told_of(tmp_path, {**FILES, "policies/agents.toml": policy}, shown)
    assert "task start reader read" in " ".join(text.split())


def test_a_thousand_agents_and_upstreams_are_not_told_one_by_one(capsys: pytest.CaptureFixture[str]) -> None:
    asked_for: list[str] = []

    def visible(caller: Any, _kind: Any) -> list[Any]:
        asked_for.append(caller.agent)
        return []

    policy = "".join(f'[agents.a{n}]\ntasks = ["t"]\ndefault_task = "t"\n' for n in range(1000))
    ready = [UpstreamStatus(f"up{n:03}", UpstreamState.READY) for n in range(199)]
    down = UpstreamStatus("zz", UpstreamState.DOWN, detail="nobody listens")
    parts: Any = SimpleNamespace(
        policy=compile_policy(from_sources({"a.toml": f"{policy}[tasks.t]\nallow = ['up/*']\n"})),
        gateway=SimpleNamespace(visible=visible),
        pool=SimpleNamespace(statuses=lambda: [*ready, down], listings={}),
    )
    told = Introduction(parts, set(), "")
    out.print(agents(told))
    out.print(upstreams(told))
    printed = capsys.readouterr().out
    assert len(asked_for) == MAX_LINES
    assert f"and {1000 - MAX_LINES} more" in printed
    assert f"and {200 - MAX_LINES} more" in printed
    assert "down: nobody listens" in printed
