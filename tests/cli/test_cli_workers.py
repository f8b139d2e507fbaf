"""Workers are started, given their turn, and started again; tests/walk/test_workers.py has real ones."""

import asyncio
import os
import signal
import socket
import sys
from pathlib import Path

import pytest

from fakes.waiting import until
from mcp_gateway.cli import workers as module
from mcp_gateway.cli.workers import Crew
from mcp_gateway.frontdoor.http_server import listening_socket
from mcp_gateway.storage.workers import read_standings

# Answers each connection with its own number, and a request that was handed on with that as well.
WORKER = """
import os, socket, sys
number, count, descriptor, is_again, url = sys.argv[1].split("/", 4)
lifeline = socket.socket(fileno=int(descriptor))
lifeline.send(b"\\0")
while True:
    message, descriptors, _, _ = socket.recv_fds(lifeline, 1, 2)
    if not message:
        break
    if message == b"p":
        os.close(descriptors[0])
        continue
    connection = socket.socket(fileno=descriptors[0])
    if message == b"c":
        asked = connection.recv(100)
        if asked.isdigit():
            request = os.memfd_create("r")
            os.write(request, asked)
            socket.send_fds(lifeline, [bytes([int(asked)])], [connection.fileno(), request])
            os.close(request)
        else:
            connection.sendall(number.encode())
    else:
        connection.sendall(number.encode() + b" for " + os.pread(descriptors[1], 100, 0))
        os.close(descriptors[1])
    connection.close()
"""


async def asked(port: int, text: bytes = b"?") -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(text)
    answer = await reader.read()
    writer.close()
    return answer


def crew(folder: Path, script: str = WORKER, count: int = 2) -> tuple[Crew, int]:
    listener = listening_socket("127.0.0.1", 0)
    port = listener.getsockname()[1]
    return Crew(
        [sys.executable, "-S", "-E", "-c", script], listener, f"http://127.0.0.1:{port}/mcp", folder, count
    ), port


def states(folder: Path) -> list[str]:
    return [standing.state for standing in read_standings(folder)]


async def test_connections_go_to_the_workers_in_turn_and_on_to_the_one_that_is_named(tmp_path: Path) -> None:
    made, port = crew(tmp_path)
    working = asyncio.create_task(made.work())
    await until(lambda: states(tmp_path) == ["ready", "ready"])
    assert sorted([await asked(port) for _ in range(6)]) == [b"1"] * 3 + [b"2"] * 3
    assert {await asked(port, b"2") for _ in range(2)} == {b"2 for 2"}
    assert (await asked(port, b"3")).startswith(b"HTTP/1.1 503 ")
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == 0
    assert read_standings(tmp_path) == ()
    with socket.socket() as probe:
        assert probe.connect_ex(("127.0.0.1", port)) != 0


async def test_a_worker_that_dies_is_started_again_and_the_other_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(module, "FIRST_WAIT_S", 0.1)
    made, port = crew(tmp_path)
    working = asyncio.create_task(made.work())
    await until(lambda: states(tmp_path) == ["ready", "ready"])
    first, second = read_standings(tmp_path)
    os.kill(second.pid, signal.SIGKILL)
    await until(lambda: states(tmp_path) != ["ready", "ready"])
    assert await asked(port) == await asked(port) == b"1"
    await until(lambda: states(tmp_path) == ["ready", "ready"])
    again = read_standings(tmp_path)
    assert again[0] == first
    assert again[1].restarts == 1
    assert again[1].pid != second.pid
    assert "worker 2 died of SIGKILL; it starts again in 0.1 s" in caplog.text
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == 0


async def test_a_first_worker_that_cannot_start_ends_everything_with_its_own_exit_status(tmp_path: Path) -> None:
    made, _ = crew(tmp_path, "raise SystemExit(3)")
    assert await made.work() == 3


async def test_a_worker_that_does_not_stop_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "STOP_S", 0.2)
    made, _ = crew(tmp_path, "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + WORKER, 1)
    working = asyncio.create_task(made.work())
    await until(lambda: states(tmp_path) == ["ready"])
    [worker] = read_standings(tmp_path)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker.pid, 0)


# Reads nothing until the file it is named after is there.
BUSY = """
import os, time
while not os.path.exists("FILE"):
    time.sleep(0.01)
"""


async def test_connections_that_come_while_every_worker_is_busy_wait_for_one(tmp_path: Path) -> None:
    go = tmp_path / "go"
    script = WORKER.replace('lifeline.send(b"\\0")\n', 'lifeline.send(b"\\0")\n' + BUSY.replace("FILE", str(go)))
    made, port = crew(tmp_path, script)
    working = asyncio.create_task(made.work())
    await until(lambda: states(tmp_path) == ["ready", "ready"])
    asking = [asyncio.ensure_future(asked(port)) for _ in range(900)]  # more than wait in both workers' lifelines
    await until(lambda: made._held is not None)
    go.touch()
    answers = await asyncio.gather(*asking)
    assert set(answers) == {b"1", b"2"}
    assert made._held is None
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == 0


async def test_a_connection_that_nobody_took_is_let_go_of_at_the_end(tmp_path: Path) -> None:
    made, port = crew(tmp_path, WORKER.replace('lifeline.send(b"\\0")\n', 'lifeline.send(b"\\0")\n' + BUSY), 1)
    working = asyncio.create_task(made.work())
    await until(lambda: states(tmp_path) == ["ready"])
    asking = [asyncio.ensure_future(asked(port)) for _ in range(400)]
    await until(lambda: made._held is not None)
    os.kill(os.getpid(), signal.SIGTERM)
    assert await working == 0
    told = await asyncio.gather(*asking, return_exceptions=True)
    assert all(answer == b"" or isinstance(answer, ConnectionError) for answer in told)
