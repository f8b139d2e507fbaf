"""The README and the how-tos do what they say: their commands are run as written, and their output is compared.

In a document, a block that begins with `# NAME` is the file NAME. A `sh` block is run in a shell that lasts from the
first block to the last; `sh serve` and `sh background` are left running in terminals of their own. A `text` block right
behind one is what it prints, but for times, ids, hashes and counts; `...` stands for anything.
"""

import faulthandler
import json
import os
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import pytest

from fakes.ports import free_port

ROOT = Path(__file__).parents[1]
README = ROOT / "README.md"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
HOW_TOS = sorted((ROOT / "docs/how-to").glob("*.md"))

PATIENCE_S = 300
"""How long one command may take: the README's first one installs everything."""

PORTS = ["8765", "9001", "9002"]
"""Ports in the documents; each run takes free ones instead."""

_FENCE = re.compile(r"^```(?P<kind>[a-z]+)(?: (?P<how>[a-z]+))?\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)
_FILE = re.compile(r"# (?P<name>[\w./-]+\.(?:toml|py))\n")
_VARIABLE = [
    (re.compile(r"\d{4}-\d\d-\d\d[T ]\d\d:\d\d(:\d\d)?(\.\d+)?(Z|\+00:00)?"), "TIME"),
    (re.compile(r"\b\d\d:\d\d:\d\d\b"), "TIME"),
    (re.compile(r"\bpolicy +[0-9a-f]{8}\b"), "policy HASH"),
    (re.compile(r"(?:(?<=its id is )|(?<=^revoked ))[0-9A-Za-z]{12}\b|^[0-9A-Za-z]{12}(?= +[\w-]+ )"), "ID"),
    (re.compile(r"\b[0-9a-f]{27}\b"), "REQUEST"),
    (re.compile(r"(?<= )\d+(?= checkpoints?)"), "N"),
    (re.compile(r"(?<=:\d ) *\d+$"), "MS"),
]


@dataclass(frozen=True)
class Block:
    """One fenced block of a document."""

    kind: str
    how: str
    text: str
    line: int
    output: str = ""


def blocks(text: str) -> list[Block]:
    found: list[Block] = []
    end = -1
    for match in _FENCE.finditer(text):
        line = text.count("\n", 0, match.start()) + 1
        if match["kind"] == "text" and match.start() == end + 1 and found[-1].kind == "sh":
            found[-1] = Block(found[-1].kind, found[-1].how, found[-1].text, found[-1].line, match["text"])
        else:
            found.append(Block(match["kind"], match["how"] or "", match["text"], line))
        end = match.end()
    return found


def plain(text: str) -> list[str]:
    """Lines without what is another each time, nor how far apart the columns are."""
    lines = []
    for line in text.strip().splitlines():
        for pattern, word in _VARIABLE:
            line = pattern.sub(word, line.rstrip())
        lines.append(" ".join(line.split()))
    return lines


def matches(expected: list[str], actual: list[str]) -> bool:
    """Line by line; a line `...` stands for any number of lines, and at the end of one for anything."""
    form = ""
    for line in expected:
        if line == "...":
            form += r"(?:.*\n)*"
        else:
            form += re.escape(line).replace(r"\.\.\.", ".*") + "\n"
    return re.fullmatch(form, "".join(f"{line}\n" for line in actual)) is not None


class Shell:
    """One bash that commands are typed into; its output is read as it comes, and never waited for without end."""

    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self._process = subprocess.Popen(["bash"], cwd=folder, env=environ, process_group=0, bufsize=0, **pipes)
        self._said = b""

    def type(self, command: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{command}\n".encode())

    def read_until(self, end: str) -> str:
        """What is printed up to where `end`, a regular expression, is."""
        assert self._process.stdout is not None
        deadline = time.monotonic() + PATIENCE_S
        while not (found := re.search(end.encode(), self._said)):
            ready, _, _ = select.select([self._process.stdout], [], [], max(0, deadline - time.monotonic()))
            more = os.read(self._process.stdout.fileno(), 65536) if ready else b""
            self._said += more
            assert more, f"no {end!r} in:\n{self._said.decode()}"
        said, self._said = self._said[: found.end()], self._said[found.end() :]
        return said.decode()

    def end(self) -> None:
        """As a closed terminal and a Ctrl-C do."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGINT)
        while os.read(self._process.stdout.fileno(), 65536):
            pass
        self._process.wait(PATIENCE_S)
        self._process.stdout.close()


@dataclass
class Terminal:
    """A folder, and the shells opened in it."""

    folder: Path
    programs: Path
    home: Path | None = None
    """Somebody's home; None: that of whoever runs the tests."""
    ports: dict[str, str] = field(default_factory=lambda: {port: str(free_port()) for port in PORTS})
    stack: ExitStack = field(default_factory=ExitStack)

    def here(self, text: str) -> str:
        """What a document says, with the ports of this run."""
        return re.sub("|".join(PORTS), lambda match: self.ports[match[0]], text)

    def there(self, text: str) -> str:
        """What was printed here, as the document says it."""
        for port, mine in self.ports.items():
            text = text.replace(mine, port)
        return text.replace(f"{self.folder}/", "")

    def shell(self) -> Shell:
        path = f"{self.programs}:{os.environ['PATH']}"
        environ = {**os.environ, "PATH": path, "PYTHONUNBUFFERED": "1", "NO_COLOR": "1", "COLUMNS": "160"}
        environ |= {"HOME": str(self.home)} if self.home else {}
        for name in ("MCP_GATEWAY_ALONE", "XDG_CONFIG_HOME", "XDG_STATE_HOME"):
            environ.pop(name, None)
        shell = Shell(self.folder, environ)
        self.stack.callback(shell.end)
        return shell

    def run(self, shell: Shell, command: str) -> tuple[int, str]:
        """Type `command` and wait until it has ended: its exit code, and what it printed."""
        shell.type(f'{self.here(command)}\necho "END $?"')
        said, _, code = shell.read_until(r"END \d+\n").rpartition("END ")
        return int(code), self.there(said)

    def leave_running(self, command: str, until: str) -> str:
        """Type `command` into a shell of its own and leave it there once it has said `until`."""
        shell = self.shell()
        shell.type(self.here(command))
        return self.there(shell.read_until(f"{until}.*\n"))


@contextmanager
def terminal(folder: Path, programs: Path, home: Path | None = None) -> Iterator[Terminal]:
    opened = Terminal(folder, programs, home)
    with opened.stack:
        yield opened
    end_shared(folder)


def end_shared(folder: Path) -> None:
    """End the gateway that a document's `stdio` started in the background, if one did."""
    record = folder / ".mcp-gateway/gateway.json"
    with suppress(FileNotFoundError, psutil.NoSuchProcess):
        process = psutil.Process(json.loads(record.read_text(encoding="utf-8"))["pid"])
        process.terminate()
        process.wait(PATIENCE_S)


UNTIL = {"serve": "Stop: Ctrl-C", "background": "Uvicorn running"}


def follow(document: Path, at: Terminal, leave_out: Sequence[str] = ()) -> None:
    """Do all a document says, in its order."""
    shell = at.shell()
    for block in blocks(document.read_text(encoding="utf-8")):
        name = _FILE.match(block.text)
        if block.text in leave_out:
            continue
        if block.kind in ("toml", "python") and name:
            _write(at, name["name"], block.text)
        elif block.kind == "sh" and block.how:
            said = at.leave_running(block.text.strip(), UNTIL[block.how])
            _compare(document, block, said)
        elif block.kind == "sh":
            code, said = at.run(shell, block.text)
            assert code == 0 or block.output, f"{document.name}:{block.line} exited {code}:\n{said}"
            _compare(document, block, said)


def _write(at: Terminal, name: str, text: str) -> None:
    """A file of the document; `serve` without `[gateway]` would take the port that everybody's takes."""
    if name == "servers.toml" and "listen =" not in text:
        table = "[gateway]\n"
        text = text if table in text else f"{text}\n{table}"
        text = text.replace(table, f'{table}listen = "127.0.0.1:8765"\n')
    path = at.folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(at.here(text), encoding="utf-8")


def _compare(document: Path, block: Block, said: str) -> None:
    if block.output:
        expected, actual = plain(block.output), plain(said)
        at = f"{document.name}:{block.line}"
        assert matches(expected, actual), f"{at}:\n{block.text}\nexpected:\n{block.output}\nactual:\n{said}"


@pytest.mark.slow
@pytest.mark.parametrize("document", HOW_TOS, ids=lambda path: path.stem)
def test_a_how_to_does_what_it_says(document: Path, tmp_path: Path) -> None:
    with terminal(tmp_path, Path(sys.executable).parent, home=tmp_path) as at:
        follow(document, at)


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """What somebody has who has just cloned the repository."""
    clone = tmp_path / "clone"
    shutil.copytree(ROOT, clone, ignore=shutil.ignore_patterns(".git", ".*_cache", ".venv", ".node", "__pycache__"))
    for words in (["init", "-q"], ["add", "-A"], ["-c", "user.name=t", "-c", "user.email=t@t", "commit", "-qm", "all"]):
        subprocess.run(["git", *words], cwd=clone, check=True)
    return clone


@pytest.mark.slow
def test_the_readme_does_what_it_says_in_a_fresh_clone(clone: Path) -> None:
    """From the first command, which installs everything, to the last; all but the second, which runs these tests."""
    with terminal(clone, Path("/nowhere")) as at:
        servers = clone / "servers.toml"
        servers.write_text(at.here(servers.read_text()))
        follow(README, at, leave_out=[the_command_of_the_tests()])


@pytest.mark.slow
def test_contributing_does_what_it_says_in_a_fresh_clone(clone: Path) -> None:
    faulthandler.cancel_dump_traceback_later()  # it installs, tests and checks everything; each has `PATIENCE_S`
    with terminal(clone, Path("/nowhere")) as at:
        follow(CONTRIBUTING, at)


def the_command_of_the_tests() -> str:
    return blocks(README.read_text(encoding="utf-8"))[1].text


def test_ci_runs_the_tests_by_the_readme_s_own_command() -> None:
    command = the_command_of_the_tests().strip()
    assert "pytest" in command
    assert command in (ROOT / ".ci/run").read_text()


@pytest.mark.parametrize("document", [README, CONTRIBUTING, *HOW_TOS], ids=lambda path: path.stem)
def test_every_command_in_the_docs_is_one_that_is_run(document: Path) -> None:
    """No `bash`, `shell` or `console` block that looks like a command and is never tried."""
    kinds = {block.kind for block in blocks(document.read_text(encoding="utf-8"))}
    assert kinds <= {"sh", "text", "toml", "python", "json"}


def test_a_line_of_dots_stands_for_any_lines() -> None:
    assert matches(["a", "..."], ["a", "b", "c"])
    assert matches(["...", "c"], ["c"])
    assert matches(["at ... end"], ["at 1 end"])
    assert not matches(["a"], ["a", "b"])
    assert not matches(["a.c"], ["abc"])


def test_what_is_another_each_time_is_masked() -> None:
    text = (
        "4  12:00:01  planner  ok  agents.toml:6  15\npolicy 9f2c41d0\nits id is 3kTzAApQxxaB 2026-11-21T12:00:00.123Z"
    )
    assert plain(text) == ["4 TIME planner ok agents.toml:6 MS", "policy HASH", "its id is ID TIME"]
