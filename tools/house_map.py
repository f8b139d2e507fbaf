"""docs/map.md: every file with its caption, floor by floor, so that a stranger finds things by name."""

from __future__ import annotations

import tomllib
from pathlib import Path

from tools.source import PACKAGE, ROOT, caption


def floors() -> list[list[str]]:
    """The floors from top to bottom, each with its rooms and files, as the import contract declares them."""
    tables = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]["contracts"]
    layers = next(table["layers"] for table in tables if table["id"] == "floors")
    return [[room.strip(" ()") for room in layer.split("|")] for layer in layers]


def house_map() -> str:
    """The map as Markdown: one section a floor, the upper ones first."""
    sections = [section for rooms in floors() if (section := _floor(rooms))]
    return "\n".join(sections)


def _floor(rooms: list[str]) -> str:
    there = [room for room in rooms if _file(room).is_file()]
    return "\n".join(_room(room) for room in there)


def _room(room: str) -> str:
    file = _file(room)
    if file.name != "__init__.py":
        return f"- [`{file.name}`]({_link(file)}): {caption(file)}"
    others = sorted(path for path in file.parent.rglob("*.py") if path != file)
    lines = [f"- **`{room}/`**: {caption(file)}"]
    lines += [f"  - [`{path.relative_to(file.parent)}`]({_link(path)}): {caption(path)}" for path in others]
    return "\n".join(lines)


def _file(room: str) -> Path:
    package = PACKAGE / room / "__init__.py"
    return package if package.is_file() else PACKAGE / f"{room}.py"


def _link(path: Path) -> str:
    return f"../{path.relative_to(ROOT)}"
