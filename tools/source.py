"""Source files as the docs' generators see them: captions, and the comments beside enum members.

Reads text and syntax only. Nothing of the gateway is imported, so a half-written room cannot break the docs.
"""

from __future__ import annotations

import ast
import io
import tokenize
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parent.parent
PACKAGE: Final = ROOT / "mcp_gateway"


@dataclass(frozen=True, slots=True)
class Member:
    """One member of an enum: its value, and the comment beside it."""

    value: str
    comment: str


@dataclass(frozen=True, slots=True)
class ErrorClass:
    """One exception class of errors.py."""

    name: str
    base: str
    code: str
    docstring: str


def source_files() -> list[Path]:
    """Every source file of the package, in the order of their paths."""
    return sorted(path for path in PACKAGE.rglob("*.py") if "__pycache__" not in path.parts)


def caption(path: Path) -> str:
    """The first line of a module's docstring; empty where there is none."""
    docstring = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""
    return docstring.partition("\n")[0].strip()


def members(path: Path, enum: str) -> list[Member]:
    """The members of one string enum with the comments beside them."""
    text = path.read_text(encoding="utf-8")
    comments = _comments(text)
    return [
        Member(str(node.value.value), comments.get(node.lineno, ""))
        for node in _class(text, enum).body
        if isinstance(node, ast.Assign) and isinstance(node.value, ast.Constant)
    ]


def error_classes(path: Path) -> list[ErrorClass]:
    """The exception classes of a file that have a code of their own, in the order they stand there."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [
        ErrorClass(node.name, ast.unparse(node.bases[0]), code, ast.get_docstring(node) or "")
        for node in tree.body
        if isinstance(node, ast.ClassDef) and node.bases and (code := _code(node))
    ]


def _class(text: str, name: str) -> ast.ClassDef:
    return next(node for node in ast.parse(text).body if isinstance(node, ast.ClassDef) and node.name == name)


def _comments(text: str) -> dict[int, str]:
    """Comments by line number, without the `#`."""
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    return {token.start[0]: token.string.lstrip("# ") for token in tokens if token.type == tokenize.COMMENT}


def _code(node: ast.ClassDef) -> str:
    for statement in node.body:
        target = statement.targets[0] if isinstance(statement, ast.Assign) else getattr(statement, "target", None)
        value = getattr(statement, "value", None)
        if isinstance(target, ast.Name) and target.id == "code" and isinstance(value, ast.Constant):
            return str(value.value)
    return ""
