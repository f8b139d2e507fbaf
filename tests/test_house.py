"""The house keeps its shape: captions, tests beside code, docs that match the code, walls that hold."""

import doctest
import importlib
import os
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest

from tools import checks
from tools.house_map import floors
from tools.reference import codes_in_use
from tools.source import PACKAGE, ROOT, caption, members, source_files

COVERED_ELSEWHERE: Final[dict[str, str]] = {
    "__main__.py": "walk/test_sdk_clients.py",
    "cli/client_checks.py": "cli/test_doctor.py",
    "cli/patient.py": "cli/test_doctor.py",
    "cli/server_checks.py": "cli/test_doctor.py",
}
"""Source file to test file, where the tests stand under another name; all others have tests/<room>/test_<name>.py."""

TEXT: Final = (".py", ".md", ".toml", ".txt", ".json", ".cfg", ".yml", ".yaml", ".sh", "")
SKIPPED: Final = frozenset({"node_modules", "__pycache__", "build", "dist", "venv"})

HERE: Final = "|".join(re.escape(place) for place in (str(ROOT), sys.prefix) if place.count("/") > 1)
OF_ONE_MACHINE: Final = re.compile(
    rf"(?:{HERE or '(?!)'})\b|(?<![\w.$}}])/(?:home|Users)/\w"
    r"|https?://(?!127)[\w.:-]+/(?:simple|npm|packages|artifactory)\b"
)


def _name(path: Path) -> str:
    return str(path.relative_to(PACKAGE))


def _test_files(path: Path) -> list[Path]:
    """Where the tests of a source file stand; with the room's name in theirs where two rooms have such a file."""
    room = path.relative_to(PACKAGE).parent
    places = [room / f"test_{path.name}", room / f"test_{room.name}_{path.name}"]
    if _name(path) in COVERED_ELSEWHERE:
        places.append(Path(COVERED_ELSEWHERE[_name(path)]))
    return [file for place in places if (file := ROOT / "tests" / place).is_file()]


def _texts() -> Iterator[Path]:
    """Every text file that is part of the project; nothing that was installed, built or cached."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [name for name in folders if name == ".ci" or not (name in SKIPPED or name.startswith("."))]
        yield from (path for name in files if (path := Path(folder, name)).suffix in TEXT)


def _slow_if_it_is(check: checks.Check) -> Any:
    program = check.command[0]
    return pytest.param(check, id=program, marks=[pytest.mark.slow] if program in ("mypy", "deptry") else [])


@pytest.mark.parametrize("path", source_files(), ids=_name)
def test_every_file_has_a_caption_a_newcomer_understands(path: Path) -> None:
    first = caption(path)
    assert len(first.split()) >= 4, f"{_name(path)}: the first line of the docstring says what the file is"
    assert first.endswith((".", "?", ":")), f"{_name(path)}: the caption is a sentence: {first!r}"


@pytest.mark.parametrize("path", [p for p in source_files() if p.name != "__init__.py"], ids=_name)
def test_every_file_has_its_tests_where_they_are_looked_for(path: Path) -> None:
    assert _test_files(path), f"no tests/{path.relative_to(PACKAGE).with_name('test_' + path.name)}"


@pytest.mark.parametrize("path", [p for p in source_files() if ">>> " in p.read_text(encoding="utf-8")], ids=_name)
def test_the_examples_in_docstrings_are_true(path: Path) -> None:
    module = importlib.import_module(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert doctest.testmod(module).failed == 0


def test_every_room_on_a_floor_is_a_package() -> None:
    rooms = {room for floor in floors() for room in floor}
    folders = {path.name for path in PACKAGE.iterdir() if path.is_dir() and any(path.rglob("*.py"))}
    assert folders <= rooms
    assert [folder for folder in folders if not (PACKAGE / folder / "__init__.py").is_file()] == []


def test_no_two_test_files_share_a_name() -> None:
    names = [path.name for path in (ROOT / "tests").rglob("test_*.py")]
    assert sorted(names) == sorted(set(names))


def test_every_error_code_has_its_heading_and_no_heading_is_stale() -> None:
    text = (ROOT / "docs/reference/errors.md").read_text(encoding="utf-8")
    headings = re.findall(r"^### (GW-[A-Z0-9-]+)$", text, re.MULTILINE)
    assert sorted(headings) == sorted(codes_in_use())


@pytest.mark.parametrize("enum", ["Effect", "Reason", "OutcomeStatus", "Verb", "Strength"])
def test_every_word_of_the_audit_is_explained(enum: str) -> None:
    text = (ROOT / "docs/reference/audit.md").read_text(encoding="utf-8")
    for member in members(PACKAGE / "domain.py", enum):
        assert f"| `{member.value}` |" in text
        assert member.comment, f"{enum}: the comment beside {member.value!r} says what it means"


def test_nothing_of_one_machine_stands_in_the_tree() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{number}: {line.strip()}"
        for path in _texts()
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if OF_ONE_MACHINE.search(line)
    ]
    assert found == []


@pytest.mark.parametrize("document", [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")], ids=lambda path: path.name)
def test_the_docs_point_at_files_that_exist(document: Path) -> None:
    targets = re.findall(r"\]\((?!https?:|#)([^)#]+)", document.read_text(encoding="utf-8"))
    assert [target for target in targets if not (document.parent / target).exists()] == []


@pytest.mark.parametrize("check", [_slow_if_it_is(check) for check in checks.checks()])
def test_every_check_passes(check: checks.Check) -> None:
    finding = checks.run(check)
    assert finding.passed, finding.output
