"""Arguments of a tool, asked for one by one as its schema describes them; and the same from `NAME=VALUE` words."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import typer

from mcp_gateway.audit.query import escaped
from mcp_gateway.cli.output import read_line
from mcp_gateway.domain import Json

MAX_CHOICES: Final = 20

Prompt = Callable[[str, str], str]
"""Asks for one line; the second argument is what an empty one stands for."""


def prompt(text: str, default: str) -> str:
    """At the terminal; questions go to stderr, so that a result can be piped on."""
    return read_line(f"{text} [{default}]" if default else text) or default


def arguments_from(words: Sequence[str], schema: Mapping[str, Any]) -> Json:
    """`NAME=VALUE` words as arguments: texts as they stand, anything else as JSON. Raises `typer.BadParameter`."""
    found: Json = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise typer.BadParameter(f"{word!r} is not NAME=VALUE")
        try:
            found[name] = converted(value, _property(schema, name))
        except ValueError as e:
            raise typer.BadParameter(f"{name}: {e}") from e
    return found


def asked_for(schema: Mapping[str, Any], ask: Prompt = prompt, given: Mapping[str, Any] | None = None) -> Json:
    """Ask for every argument that is not given yet, the required ones first; an empty line leaves one out."""
    found: Json = dict(given or {})
    properties = schema.get("properties")
    names = list(properties) if isinstance(properties, dict) else []
    required = [name for name in schema.get("required") or [] if name in names]
    for name in [*required, *(name for name in names if name not in required)]:
        if name not in found:
            _ask_one(found, name, _property(schema, name), ask, is_required=name in required)
    return found


def converted(text: str, schema: Mapping[str, Any]) -> Any:
    """A written value in the type its schema names. Raises `ValueError`, which says what is expected.

    >>> converted("7", {"type": "integer"}), converted("7", {"type": "string"}), converted("7", {})
    (7, '7', 7)
    """
    kinds = _types(schema)
    if "string" in kinds and not kinds & {"null"} - {"string"}:
        return text
    try:
        value = json.loads(text)
    except ValueError:
        if kinds and "string" not in kinds:
            raise ValueError(f"{_expected(schema)} is expected, written as JSON") from None
        return text
    if "string" in kinds and not isinstance(value, (type(None), str)):
        return text
    return value


def _ask_one(found: Json, name: str, schema: Mapping[str, Any], ask: Prompt, *, is_required: bool) -> None:
    default = schema.get("default")
    usual = "" if default is None else default if isinstance(default, str) else json.dumps(default)
    text = f"{escaped(name)} ({_expected(schema)}{'' if is_required else ', optional'})"
    about = schema.get("description")
    if isinstance(about, str) and about:
        text = f"{escaped(about)[:200]}\n{text}"
    while True:
        said = ask(text, usual)
        if not said and not is_required:
            return
        try:
            found[name] = _choice(said, schema)
        except ValueError as e:
            typer.echo(f"  {e}", err=True)
            continue
        return


def _choice(said: str, schema: Mapping[str, Any]) -> Any:
    choices = schema.get("enum")
    if not isinstance(choices, list):
        return converted(said, schema)
    for choice in choices:
        if said == (choice if isinstance(choice, str) else json.dumps(choice)):
            return choice
    raise ValueError(f"one of {', '.join(escaped(str(choice)) for choice in choices[:MAX_CHOICES])}")


def _expected(schema: Mapping[str, Any]) -> str:
    choices = schema.get("enum")
    if isinstance(choices, list):
        return "|".join(escaped(str(choice)) for choice in choices[:MAX_CHOICES])
    return " or ".join(sorted(_types(schema))) or "any value"


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The types a value may have, those of alternatives included."""
    written = schema.get("type")
    found = {written} if isinstance(written, str) else set(written) if isinstance(written, list) else set()
    for key in ("anyOf", "oneOf"):
        alternatives = schema.get(key)
        for one in alternatives if isinstance(alternatives, list) else ():
            found |= _types(one) if isinstance(one, dict) else set()
    return {str(kind) for kind in found}


def _property(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties = schema.get("properties")
    found = properties.get(name) if isinstance(properties, dict) else None
    return found if isinstance(found, dict) else {}
