"""Descriptors cross from one process to another with the message they belong to."""

import errno
import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from fakes.waiting import until
from mcp_gateway.cli import lifeline
from mcp_gateway.cli.lifeline import FRESH, HANDED, MAX_UNSENT, Lifeline, close_all, read_back, written_down


async def test_each_message_comes_with_its_own_descriptors() -> None:
    one, other = socket.socketpair()
    heard: list[tuple[bytes, list[int]]] = []
    speaking = Lifeline(one, lambda message, descriptors: None)
    listening = Lifeline(other, lambda message, descriptors: heard.append((message, descriptors)))
    files = [written_down(text) for text in (b"first", b"second", b"third")]
    assert speaking.say(HANDED, files[:2])
    assert speaking.say(FRESH)
    assert speaking.say(HANDED, files[2:])
    await until(lambda: len(heard) == 3)
    assert [message for message, _ in heard] == [HANDED, FRESH, HANDED]
    assert [[read_back(each) for each in descriptors] for _, descriptors in heard] == [
        [b"first", b"second"],
        [],
        [b"third"],
    ]
    close_all(files)
    speaking.close()
    listening.close()


async def test_whoever_is_left_learns_that_the_other_end_is_gone() -> None:
    one, other = socket.socketpair()
    lifeline = Lifeline(one, lambda message, descriptors: None)
    other.close()
    await until(lifeline.is_cut.is_set)
    assert not lifeline.say(FRESH)
    lifeline.close()


async def test_an_end_that_is_busy_finds_what_was_said_meanwhile_in_order() -> None:
    one, other = socket.socketpair()
    speaking = Lifeline(one, lambda message, descriptors: None)
    offered = 0
    while speaking.offer(FRESH):
        offered += 1
    said = []
    for number in range(MAX_UNSENT):
        file = written_down(b"%d" % number)
        assert speaking.say(HANDED, [file])
        assert not speaking.offer(FRESH)  # or it would come before those that wait
        said.append(b"%d" % number)
        os.close(file)
    heard: list[bytes] = []
    listening = Lifeline(
        other, lambda message, fds: heard.extend([message] if message == FRESH else map(read_back, fds))
    )
    await until(lambda: len(heard) == offered + MAX_UNSENT)
    assert heard == [FRESH] * offered + said
    assert speaking.offer(FRESH)
    speaking.close()
    listening.close()


async def test_what_is_said_to_an_end_that_never_reads_is_bounded_and_let_go_of_in_the_end() -> None:
    one, other = socket.socketpair()
    lifeline = Lifeline(one, lambda message, descriptors: None)
    ours, theirs = socket.socketpair()
    said = 0
    while lifeline.say(HANDED, [theirs.fileno()]):
        said += 1
    assert MAX_UNSENT < said < 2_000
    theirs.close()
    lifeline.close()
    other.close()
    assert ours.recv(1) == b""  # nobody has a copy of it any more
    ours.close()


async def test_what_cannot_be_copied_is_not_said(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = socket.socketpair()
    lifeline = Lifeline(one, lambda message, descriptors: None)
    while lifeline.offer(FRESH):
        pass

    def dup(descriptor: int) -> int:
        raise OSError(errno.EMFILE, "none left")

    monkeypatch.setattr(os, "dup", dup)
    assert not lifeline.say(HANDED, [other.fileno()])
    lifeline.close()
    other.close()


@contextmanager
def no_descriptors_left() -> Iterator[None]:
    """This process has all descriptors that it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    taken: list[int] = []
    with Path(os.devnull).open() as one:
        resource.setrlimit(resource.RLIMIT_NOFILE, (one.fileno() + 100, hard))
        try:
            with suppress(OSError):
                while True:
                    taken.append(os.dup(one.fileno()))
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            close_all(taken)


async def test_what_comes_while_there_is_no_descriptor_for_it_waits_until_there_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one, other = socket.socketpair()
    heard: list[bytes] = []
    looked: list[bool] = []
    has_room = lifeline._has_room
    monkeypatch.setattr(lifeline, "_has_room", lambda descriptor: looked.append(has_room(descriptor)) or looked[-1])
    speaking = Lifeline(one, lambda message, descriptors: None)
    listening = Lifeline(other, lambda message, fds: heard.extend(map(read_back, fds)))
    file = written_down(b"asked")
    with no_descriptors_left():
        assert speaking.say(HANDED, [file])
        await until(lambda: looked == [False] * 3)
        assert heard == []
    await until(lambda: heard == [b"asked"])
    close_all([file])
    speaking.close()
    listening.close()


async def test_a_message_whose_descriptors_were_lost_means_nothing(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(lifeline, "_has_room", lambda descriptor: True)  # and then somebody else takes it
    one, other = socket.socketpair()
    heard: list[bytes] = []
    speaking = Lifeline(one, lambda message, descriptors: None)
    listening = Lifeline(other, lambda message, descriptors: heard.append(message))
    file = written_down(b"")
    with no_descriptors_left():
        speaking.say(HANDED, [file])
        await until(lambda: "a connection was lost" in caplog.text)
    speaking.say(FRESH)
    await until(lambda: heard == [FRESH])
    close_all([file])
    speaking.close()
    listening.close()


def test_what_is_written_down_has_no_name_and_may_be_large() -> None:
    request = os.urandom(3_000_000)
    assert read_back(written_down(request)) == request


def test_closing_what_is_closed_is_fine() -> None:
    descriptor = written_down(b"")
    close_all([descriptor, descriptor])
