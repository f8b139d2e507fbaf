"""The helpers that other tests stand on: waiting, ports, and what is left behind."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from fakes import leftovers, node
from fakes.ports import free_port
from fakes.waiting import until


async def test_waiting_ends_as_soon_as_the_condition_holds() -> None:
    answers = iter([0, 0, 7])
    assert await until(lambda: next(answers), every_s=0) == 7


async def test_waiting_in_vain_says_what_the_condition_said_last() -> None:
    async def pending() -> list[str]:
        return []

    with pytest.raises(AssertionError, match=r"last said: \[\]"):
        await until(pending, within_s=0.02)


def test_a_port_is_never_given_twice() -> None:
    assert len({free_port() for _ in range(20)}) == 20


def test_node_is_found_where_ci_installed_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(node.VARIABLE, str(tmp_path))
    assert node.node_modules() == tmp_path
    assert node.node_binary() is None
    program = tmp_path / "node" / "bin" / "node"
    program.parent.mkdir(parents=True)
    program.touch()
    [found, script, argument] = node.npm_command("@modelcontextprotocol/server-everything", "stdio")
    assert found == str(program)
    assert script.startswith(str(tmp_path))
    assert argument == "stdio"


@node.requires_node
@pytest.mark.slow
def test_the_node_that_is_found_is_recent_enough() -> None:
    program = node.node_binary()
    assert program is not None
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    assert int(version.removeprefix("v").partition(".")[0]) >= 22


def test_a_process_that_was_left_running_is_found() -> None:
    before = leftovers.child_processes()
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        [found] = leftovers.leftovers(before, leftovers.threads(), grace_s=0)
        child.communicate(b"\n")
    assert str(child.pid) in found
    assert not leftovers.leftovers(before, leftovers.threads(), grace_s=5)


def test_a_thread_that_was_left_running_is_found() -> None:
    before, release = leftovers.threads(), threading.Event()
    thread = threading.Thread(target=release.wait, name="straggler")
    thread.start()
    found = leftovers.leftovers(leftovers.child_processes(), before, grace_s=0)
    release.set()
    thread.join()
    assert found == ["thread straggler"]
