"""The standard streams carry an agent's messages and nothing else, whatever they really are."""

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ECHO = """
import asyncio, sys
import uvloop
from mcp_gateway.frontdoor.streams import standard_streams

async def main():
    print("before")
    sys.stdout.flush()
    async with standard_streams() as (source, sink):
        print("noise that must not reach the agent")
        sys.stdout.flush()
        while data := await source.read(65536):
            sink.write(data.upper())
            await sink.drain()
    print("after")

(uvloop if sys.argv[1] == "uvloop" else asyncio).run(main())
"""


def run_streams(loop: str, stdin: Any, stdout: Any, sent: bytes | None = None) -> tuple[bytes, bytes]:
    child = subprocess.Popen(
        [sys.executable, "-W", "error", "-X", "dev", "-c", ECHO, loop],
        stdin=stdin,
        stdout=stdout,
        stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    out, err = child.communicate(sent, timeout=20)
    assert child.returncode == 0, err.decode()
    return out or b"", err


def noise_only(err: bytes) -> bool:
    return err.strip() == b"noise that must not reach the agent"


@pytest.mark.slow
@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_pipes_carry_messages_and_nothing_else(loop: str) -> None:
    out, err = run_streams(loop, subprocess.PIPE, subprocess.PIPE, b"abc\n" * 50_000)
    assert out == b"before\n" + b"ABC\n" * 50_000 + b"after\n"
    assert noise_only(err)


@pytest.mark.slow
def test_files_and_dev_null_are_streams_too(tmp_path: Path) -> None:
    (tmp_path / "in").write_bytes(b"abc\n")
    with (tmp_path / "in").open("rb") as stdin, (tmp_path / "out").open("wb") as stdout:
        _, err = run_streams("uvloop", stdin, stdout)
    assert (tmp_path / "out").read_bytes() == b"before\nABC\nafter\n"
    assert noise_only(err)
    out, err = run_streams("uvloop", subprocess.DEVNULL, subprocess.PIPE)
    assert out == b"before\nafter\n"
    assert noise_only(err)


@pytest.mark.slow
def test_a_shared_pipe_is_left_as_it_was_found() -> None:
    reading, writing = os.pipe()
    try:
        run_streams("uvloop", subprocess.DEVNULL, writing)
        assert os.get_blocking(writing)
        assert os.read(reading, 100) == b"before\nafter\n"
    finally:
        os.close(reading)
        os.close(writing)


def test_whoever_is_only_a_pipe_does_not_load_a_gateway() -> None:
    code = "import sys, mcp_gateway.frontdoor.streams; sys.exit('mcp_gateway.gateway' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
