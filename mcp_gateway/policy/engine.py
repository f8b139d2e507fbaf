"""The CEL library, loaded with the first condition: it brings a terminal toolkit along, which doubles a small start.

Pure, like what it loads. What `compile_expression` returns is executed; what is wrong with a text is a `ValueError`.
"""

from __future__ import annotations

from functools import cache
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cel import Program


def compile_expression(text: str) -> Program:
    """A program. Raises `ValueError` for what is not CEL."""
    program: Program = _cel().compile(text)
    return program


def evaluate(text: str) -> Any:
    """What an expression without variables comes to. Raises `RuntimeError` where it comes to nothing."""
    return _cel().evaluate(text)


@cache
def _cel() -> Any:
    return import_module("cel")
