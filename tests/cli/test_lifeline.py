"""Descriptors cross from one process to another with the message they belong to."""

import os
import socket

from fakes.waiting import until
from mcp_gateway.cli.lifeline import FRESH, HANDED, Lifeline, close_all, read_back, written_down


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


async def test_an_end_that_does_not_read_is_told_nothing_more_instead_of_waited_for() -> None:
    one, other = socket.socketpair()
    lifeline = Lifeline(one, lambda message, descriptors: None)
    said = sum(lifeline.say(FRESH) for _ in range(100_000))
    assert 0 < said < 100_000
    lifeline.close()
    other.close()


def test_what_is_written_down_has_no_name_and_may_be_large() -> None:
    request = os.urandom(3_000_000)
    assert read_back(written_down(request)) == request


def test_closing_what_is_closed_is_fine() -> None:
    descriptor = written_down(b"")
    close_all([descriptor, descriptor])
