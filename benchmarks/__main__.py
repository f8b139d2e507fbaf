"""Every figure we claim, again, in one command: `python -m benchmarks [PART ...] [--quick] [--write]`.

Each part is a script of its own in this folder and runs as a process of its own; what it prints is what is written,
between the two comments with the part's name, together with the machine, the versions, the commit and the date. Figures
of a busy machine say so, and are not put in the place of others unless `--although-busy` says to. Loopback only; nginx
and taskset are used if they are there. Half an hour for everything on two cores, two minutes with `--quick`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent
if str(HERE) not in sys.path:  # each script here can also be started by itself, and finds its neighbours by their names
    sys.path.insert(0, str(HERE))

import machine  # noqa: E402 - after the path

DOCUMENT = HERE.parent / "docs" / "reference" / "performance.md"


@dataclass(frozen=True)
class Part:
    """One script, with its arguments for a full run and for a quick one."""

    caption: str
    script: str
    full: str = ""
    quick: str = ""
    is_table: bool = True
    """Whether it prints markdown; else lines to be shown as they are."""
    can_be_alone: bool = False
    """Whether it knows `--alone`."""


PARTS = {
    "calls": Part(
        "A call beside nginx and no hop at all: modern, legacy, stdio, 80 KB.",
        "side_by_side.py",
        quick="--rounds 1 --secs 0.5 --connections 16",
        can_be_alone=True,
    ),
    "growth": Part(
        "A call with more tools, upstreams and agents.",
        "growth.py",
        "--rows=",
        "--tools 10,1000 --upstreams 20 --agents 100 --rows= --secs 0.5 --settle 1",
        can_be_alone=True,
    ),
    "audit": Part(
        "A call over a grown audit, and what reads it. Needs 5 GB of temporary space.",
        "growth.py",
        "--tools= --upstreams= --agents= --rows 0,1000000,10000000",
        "--tools= --upstreams= --agents= --rows 20000 --secs 0.5 --settle 1",
        can_be_alone=True,
    ),
    "starting": Part("From start to first answer; memory.", "starting.py", quick="--times 1 --tools 100"),
    "workers": Part("What a second worker brings.", "workers.py", quick="--rounds 1 --secs 0.5 --connections 16"),
    "models": Part(
        "What a model call and a streamed event cost.",
        "model_relay.py",
        quick="--calls 100 --streams 5 --at-once 10",
        is_table=False,
    ),
    "policy": Part("Compiling a large policy, and asking it.", "policy.py", is_table=False),
    "replay": Part("Past decisions under another policy.", "replay.py", quick="20000", is_table=False),
    "discovery": Part("Finding the right tool by words. Needs `--lock`.", "discovery.py", is_table=False),
}


class Failed(Exception):
    """A part ended with an error; its own words stand above."""


def main(words: Sequence[str] | None = None) -> int:
    """Run what was named; 1 where a part failed, 2 where nothing may be written because the machine is busy."""
    options = _parser().parse_args(words)
    load = machine.load_per_core()
    if options.write and load > machine.BUSY and not options.although_busy:
        _tell(f"The machine is busy (load {load:.1f} for each core): its figures would replace better ones.")
        _tell("Wait, leave out --write, or say --although-busy.")
        return 2
    failed = []
    for name in options.parts or PARTS:
        if name == "discovery" and options.lock is None:
            _tell("\n## discovery: left out, for it needs a catalog: --lock servers.lock")
            continue
        _tell(f"\n## {name}: {PARTS[name].caption}")
        try:
            found = figures(name, options, load)
        except Failed as e:
            _tell(str(e))
            failed.append(name)
            continue
        if options.write:
            write_between(name, found, options.write)
    _tell(f"\n{machine.described(load)}", *[f"failed: {name}" for name in failed])
    return 1 if failed else 0


def figures(name: str, options: argparse.Namespace, load: float) -> str:
    """Run one part; what belongs into a document. Raises `Failed`.

    `load`: that before the first part, which is not our own.
    """
    part = PARTS[name]
    words = (part.quick if options.quick else part.full).split()
    words += [str(options.lock.resolve())] if name == "discovery" else []
    words += ["--alone"] if part.can_be_alone and options.alone else []
    printed = _run([sys.executable, str(HERE / part.script), *words])
    shown = printed if part.is_table else f"```\n{printed}\n```"
    again = f"python -m benchmarks {name}{' --quick' if options.quick else ''}{' --alone' if options.alone else ''}"
    return f"{shown}\n\n`{again}`. {machine.described(load)}"


def write_between(name: str, text: str, document: Path) -> None:
    """Put text between the two comments of that name in a document; at its end where it has none."""
    comment = f"<!-- {name} -->"
    written = document.read_text() if document.exists() else ""
    before, *rest = written.split(comment)
    if rest and len(rest) != 2:
        raise SystemExit(f"{document}: not exactly two of {comment}")
    between, after = f"{comment}\n{text}\n{comment}", rest[1] if rest else "\n"
    document.write_text(f"{before}{between}{after}" if rest else f"{written}\n{between}{after}")


def _run(command: list[str]) -> str:
    """Run a program, show what it prints as it comes, and give it back. Raises `Failed`."""
    path = os.pathsep.join(filter(None, (str(HERE.parent), os.environ.get("PYTHONPATH"))))
    lines = []
    with (
        tempfile.TemporaryFile("w+") as complaints,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=complaints, text=True, env={**os.environ, "PYTHONPATH": path}
        ) as program,
    ):
        assert program.stdout is not None  # noqa: S101
        for line in program.stdout:
            lines.append(line)
            sys.stdout.write(line)
            sys.stdout.flush()
        if program.wait() != 0:
            complaints.seek(0)
            raise Failed(f"{Path(command[1]).name} ended with {program.returncode}: {complaints.read()[-2000:]}")
    return "".join(lines).strip()


def _parser() -> argparse.ArgumentParser:
    parts = "\n".join(f"  {name:10} {part.caption}" for name, part in PARTS.items())
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description=f"{__doc__}\nparts:\n{parts}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", type=_part, help="which parts; all, if none is named")
    parser.add_argument("--quick", action="store_true", help="less of everything: whether it runs, not what it costs")
    parser.add_argument(
        "--write", nargs="?", const=DOCUMENT, type=Path, metavar="DOCUMENT", help=f"into {DOCUMENT.name}"
    )
    parser.add_argument("--alone", action="store_true", help="calls and growth at real-time priority; needs the right")
    parser.add_argument("--although-busy", action="store_true", help="write figures of a busy machine, too")
    parser.add_argument("--lock", type=Path, metavar="FILE", help="a servers.lock, for the part discovery")
    return parser


def _part(name: str) -> str:
    if name not in PARTS:
        raise argparse.ArgumentTypeError(f"no part {name!r}: there are {', '.join(PARTS)}")
    return name


def _tell(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
