"""One entry put into or taken out of a mapping in somebody's YAML; every other character stays as it was.

The text is edited where PyYAML says the mapping stands, then read again and compared: what would have changed anything
else is refused. Tags that make objects are not loaded.
"""

from __future__ import annotations

import re
from typing import Any

import yaml


class YamlError(ValueError):
    """Text that is not the YAML we can edit."""

    def __init__(self, message: str, line: int = 1) -> None:
        super().__init__(message)
        self.line = line


def parse(text: str) -> Any:
    """The one document; an empty text is an empty mapping. Raises `YamlError`."""
    try:
        value = yaml.safe_load(text)
    except yaml.YAMLError as e:
        mark = getattr(e, "problem_mark", None)
        raise YamlError(str(getattr(e, "problem", "") or "not YAML"), mark.line + 1 if mark else 1) from e
    except RecursionError as e:
        raise YamlError("nested too deeply") from e
    return {} if value is None else value


def line_of(text: str, table: str, name: str) -> int:
    """The line on which an entry stands; 1 where it is not there."""
    found = _pair(_pair_value(_root(text), table), name)
    return found[0].start_mark.line + 1 if found else 1


def with_entry(text: str, table: str, name: str, entry: dict[str, Any], newline: str = "\n") -> str:
    """The text with `entry` under `name` in the mapping `table`, which is made where it is missing."""
    before = parse(text)
    if not isinstance(before, dict) or not isinstance(before.get(table) or {}, dict):
        raise YamlError(f"a mapping is expected around {table!r}")
    wanted = {**before, table: {**(before.get(table) or {}), name: entry}}
    if name in (before.get(table) or {}):
        text = without_entry(text, table, name)
    return _checked(_inserted(text, table, name, entry, newline), wanted)


def without_entry(text: str, table: str, name: str) -> str:
    """The text without that entry; as it is where there is none."""
    before = parse(text)
    mapping = before.get(table) if isinstance(before, dict) else None
    if not isinstance(mapping, dict) or name not in mapping:
        return text
    wanted = {**before, table: {key: value for key, value in mapping.items() if key != name}}
    node = _pair_value(_root(text), table)
    found = _pair(node, name)
    if node is None or found is None or node.flow_style:
        line = found[0].start_mark.line + 1 if found else 1
        raise YamlError("the entry stands in a form that is edited by hand only", line)
    start = text.rfind("\n", 0, found[0].start_mark.index) + 1
    end = text.find("\n", _last_index(found[1])) + 1 or len(text)
    edited = text[:start] + text[end:]
    if len(node.value) == 1:
        key = _pair(_root(text), table)
        at = key[0].end_mark.index + 1 if key else 0
        edited = f"{edited[:at]} {{}}{edited[at:]}"
    return _checked(edited, wanted)


def _inserted(text: str, table: str, name: str, entry: dict[str, Any], newline: str) -> str:
    root = _root(text)
    found = _pair(root, table)
    if root is not None and root.flow_style:
        raise YamlError("the document is written in one line; it is edited by hand only")
    if found is None:
        lead = "" if not text or text.endswith("\n") else newline
        return text + lead + f"{table}:{newline}" + _block(name, entry, "  ", newline)
    key, value = found
    line_end = text.find("\n", key.end_mark.index)
    line_end = len(text) if line_end < 0 else line_end + 1
    if isinstance(value, yaml.MappingNode) and value.flow_style and value.value:
        raise YamlError("the mapping is written in one line; it is edited by hand only", key.start_mark.line + 1)
    if isinstance(value, yaml.MappingNode) and not value.flow_style:
        indent = " " * value.start_mark.column
        return text[:line_end] + _block(name, entry, indent, newline) + text[line_end:]
    after = value.end_mark.index if value.end_mark.index > key.end_mark.index + 1 else key.end_mark.index + 1
    line_end = text.find("\n", after)
    line_end = len(text) if line_end < 0 else line_end + 1
    rest = text[after:line_end].rstrip("\r\n")
    indent = " " * (key.start_mark.column + 2)
    return text[: key.end_mark.index + 1] + rest + newline + _block(name, entry, indent, newline) + text[line_end:]


def _block(name: str, entry: dict[str, Any], indent: str, newline: str) -> str:
    lines = yaml.safe_dump({name: entry}, sort_keys=False, width=4096, allow_unicode=True).splitlines()
    return "".join(f"{indent}{line}{newline}" for line in lines)


def _root(text: str) -> yaml.MappingNode | None:
    node = yaml.compose(text, Loader=yaml.SafeLoader)
    return node if isinstance(node, yaml.MappingNode) else None


def _pair(node: yaml.Node | None, name: str) -> tuple[yaml.Node, yaml.Node] | None:
    if not isinstance(node, yaml.MappingNode):
        return None
    return next(((key, value) for key, value in node.value if key.value == name), None)


def _pair_value(node: yaml.Node | None, name: str) -> yaml.MappingNode | None:
    found = _pair(node, name)
    return found[1] if found and isinstance(found[1], yaml.MappingNode) else None


def _last_index(node: yaml.Node) -> int:
    """Where the content of a node ends: a block's own end mark stands behind the comments that follow it."""
    if isinstance(node, yaml.MappingNode) and not node.flow_style and node.value:
        return max(_last_index(part) for pair in node.value for part in pair)
    if isinstance(node, yaml.SequenceNode) and not node.flow_style and node.value:
        return max(_last_index(part) for part in node.value)
    if isinstance(node, yaml.ScalarNode) and node.style in ("|", ">"):
        return int(node.end_mark.index) - 1
    return int(node.end_mark.index)


def _checked(text: str, wanted: Any) -> str:
    if parse(re.sub(r"\r\n", "\n", text)) != wanted:
        raise YamlError("the edit would have changed something else")
    return text
