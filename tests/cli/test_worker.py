"""What one worker is given, and what it passes on."""

import os
import socket

import pytest

from fakes.waiting import until
from mcp_gateway.cli.lifeline import FRESH, HANDED, PEER, READY, Lifeline, close_all, read_back, written_down
from mcp_gateway.cli.worker import AtWork, Worker


def test_which_worker_it_is_survives_the_command_line() -> None:
    worker = Worker(2, 4, 17, "http://[::1]:8765/mcp", is_again=True)
    assert Worker.of(worker.word()) == worker
    assert not worker.is_first
    with pytest.raises(ValueError, match="not enough values"):
        Worker.of("2/4")


async def test_it_takes_connections_once_it_serves_and_passes_on_what_is_anothers() -> None:
    ours, theirs = socket.socketpair()
    heard: list[tuple[bytes, list[int]]] = []
    starter = Lifeline(ours, lambda message, descriptors: heard.append((message, descriptors)))
    at_work = AtWork(Worker(1, 2, theirs.detach(), "http://127.0.0.1:1/mcp"))
    taken: list[bytes] = []
    met: list[socket.socket] = []

    def take(connection: socket.socket, sent: bytes) -> None:
        with connection:
            taken.append(sent + connection.recv(100))

    async def meet(end: socket.socket) -> None:
        met.append(end)

    at_work.begin(take, meet)
    await until(lambda: heard == [(READY, [])])
    agents, ends = zip(*(socket.socketpair() for _ in range(3)), strict=True)
    for number, agent in enumerate(agents):
        agent.sendall(b"rest %d" % number)
    sent = written_down(b"head and ")
    starter.say(FRESH, [ends[0].fileno()])
    starter.say(HANDED, [ends[1].fileno(), sent])
    starter.say(PEER, [ends[2].fileno()])
    await until(lambda: taken == [b"rest 0", b"head and rest 1"] and len(met) == 1)

    assert at_work.siblings.other(1) == 0
    at_work.siblings._pass_on(2, ends[0].fileno(), b"asked")
    await until(lambda: len(heard) == 2)
    message, (connection, request) = heard[1]
    assert (message, read_back(request)) == (bytes([2]), b"asked")

    starter.close()
    await at_work.until_alone()
    os.close(connection)
    close_all([sent])
    for each in (*agents, *ends, *met):
        each.close()
    at_work.close()
