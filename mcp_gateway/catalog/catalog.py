"""Every target of every upstream, found by the name agents use. Immutable: a change makes another catalog.

Collisions are refused loudly, never resolved by who came first:

* two tools (or two prompts) whose public names are equal, or differ only in case, and those of two upstreams that look
  alike (`likeness`): all of them are left out;
* an upstream without a prefix may not put a name into another's namespace (`github__x`, or what looks like it): only
  the intruder is left out; nobody may take the name of a tool of the gateway's own;
* one resource URI or URI template offered by two upstreams: left out for all of them (PROTOCOL 0.3 would allow
  wrapping; that needs every URI in every answer rewritten, and is not built);
* a URI that templates of two upstreams stand for: nobody gets it. A listed resource beats any template;
* a page that a tool names (MCP Apps) can be read and is in no list; it collides like a listed resource.

What was left out, and why, is in `Catalog.problems`. The bare name of a tool or prompt is an alias where it is unique
over the whole catalog and nobody's public name.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any, Final

from mcp_gateway import jsonrpc
from mcp_gateway.catalog import naming
from mcp_gateway.catalog.apps import page_of
from mcp_gateway.catalog.likeness import skeleton
from mcp_gateway.catalog.naming import NamingRule
from mcp_gateway.catalog.shape import fault_in
from mcp_gateway.catalog.templates import TemplateError, TemplateIndex, UriTemplate, compile_template, is_unambiguous
from mcp_gateway.domain import Json, Kind, Listing, Target

MAX_TEMPLATES: Final = 500
"""Per upstream: a read may have to try each of them."""

MAX_PROBLEMS: Final = 200
"""Per upstream: an operator reads a few, a hostile upstream could make a million."""

_NAMED_CLAIMANTS: Final = 4

RESERVED: Final = frozenset({"search_tools", "describe_tool", "call_tool"})
"""Names of the gateway's own tools (`frontdoor/discovery`): no upstream may have them, in use or not."""

_NAME_OF: Final[Mapping[Kind, str]] = {
    Kind.TOOL: "name",
    Kind.PROMPT: "name",
    Kind.RESOURCE: "uri",
    Kind.TEMPLATE: "uriTemplate",
}
_NAMED: Final = (Kind.TOOL, Kind.PROMPT)
_FAULT_IN_NAME: Final = {Kind.TOOL: naming.fault_in_tool_name, Kind.PROMPT: naming.fault_in_prompt_name}
_BY_DEFAULT: Final = NamingRule()


@dataclass(frozen=True, slots=True)
class Problem:
    """Something an upstream offers that agents do not get as it stands, for operators."""

    upstream: str
    message: str


@dataclass(frozen=True, slots=True)
class _Route:
    """A template and where what it stands for is read."""

    template: UriTemplate
    target: Target
    rule: NamingRule


@dataclass(frozen=True, slots=True, eq=False)
class Catalog:
    """All targets. `build` makes one."""

    version: str
    """A hash over every target: equal catalogs have equal versions, at every start."""
    problems: tuple[Problem, ...] = ()
    _targets: Mapping[Kind, tuple[Target, ...]] = field(default_factory=dict)
    _by_name: Mapping[Kind, Mapping[str, Target]] = field(default_factory=dict)
    _aliases: Mapping[Kind, Mapping[str, Target]] = field(default_factory=dict)
    _routes: TemplateIndex[_Route] = field(default_factory=lambda: TemplateIndex(()))
    _refused: frozenset[str] = frozenset()
    """URIs that two upstreams list: no template brings them back."""

    def targets(self, kind: Kind) -> tuple[Target, ...]:
        """Every target of a kind, ordered by upstream and by the upstream's own name."""
        return self._targets.get(kind, ())

    def find(self, kind: Kind, name: str) -> Target | None:
        """The target an agent means by `name`; None where there is none or it is not certain which.

        Tools and prompts: by public name, else by an unambiguous bare name. Resources: by URI, listed, a page that a
        tool names, or made from a template; such a target is made on the spot, is named by that URI and carries the
        template's definition.
        Templates (what completions refer to): by URI template, else as a resource.
        """
        found = self._by_name.get(kind, {}).get(name) or self._aliases.get(kind, {}).get(name)
        if found is not None or kind not in (Kind.RESOURCE, Kind.TEMPLATE):
            return found
        if kind is Kind.TEMPLATE and (listed := self._by_name.get(Kind.RESOURCE, {}).get(name)) is not None:
            return listed
        return self._from_template(name)

    def at(self, kind: Kind, upstream: str, name: str) -> Target | None:
        """The target that one upstream offers under its own name; of routes one is made on the spot."""
        if kind is Kind.ROUTE:
            api = self._by_name.get(kind, {}).get(upstream)
            return None if api is None else replace(api, name=name, public_name=name)
        targets = self.targets(kind)
        place = bisect_left(targets, (upstream, name), key=_order)
        found = targets[place] if place < len(targets) else None
        return found if found is not None and _order(found) == (upstream, name) else None

    def plus(self, kind: Kind, targets: Iterable[Target]) -> Catalog:
        """The same catalog with all targets of one kind that no MCP server lists: models, routes."""
        ordered = tuple(sorted(targets, key=_order))
        by_name = {target.public_name: target for target in ordered}
        return replace(
            self,
            _targets=MappingProxyType({**self._targets, kind: ordered}),
            _by_name=MappingProxyType({**self._by_name, kind: by_name}),
        )

    def _from_template(self, uri: str) -> Target | None:
        if uri in self._refused or not is_unambiguous(uri):
            return None
        routes = [route for route in self._routes.matching(uri) if route.rule.shows(Kind.RESOURCE, uri)]
        if len({route.target.upstream for route in routes}) != 1:
            return None
        # Within one upstream any match leads to the same place; the first in its order lends its definition.
        template, rule = routes[0].target, routes[0].rule
        tags = rule.tags_of(Kind.RESOURCE, uri)
        return Target(
            Kind.RESOURCE,
            template.upstream,
            uri,
            uri,
            template.definition,
            template.definition_hash,
            tags,
            template.raw,
        )


def build(listings: Iterable[Listing], rules: Mapping[str, NamingRule]) -> Catalog:
    """Put the listings together. The order of `listings` never matters; an upstream without a rule gets the default."""
    builder = _Builder(rules)
    for listing in sorted(listings, key=lambda listing: listing.upstream):
        builder.add(listing)
    return builder.catalog()


class _Builder:
    """Gathers candidates, then settles names over all of them."""

    def __init__(self, rules: Mapping[str, NamingRule]) -> None:
        self._rules = rules
        self._found: dict[Kind, list[Target]] = {kind: [] for kind in Kind}
        self._problems: list[Problem] = []
        self._prefixes: dict[str, set[str]] = defaultdict(set)
        """Which upstreams' names begin with a prefix."""
        self._refused: set[str] = set()
        self._unlisted: set[tuple[str, str]] = set()
        """Resources known only because a tool names them as its page."""
        self._complaints: Counter[str] = Counter()

    def add(self, listing: Listing) -> None:
        rule = self._rule(listing.upstream)
        self._prefixes[skeleton(listing.upstream if rule.prefix is None else rule.prefix)].add(listing.upstream)
        others = len(self._found[Kind.TOOL])
        self._problems += [Problem(listing.upstream, message) for message in listing.problems]
        self._add_kind(listing.upstream, Kind.TOOL, listing.tools)
        if listing.notes:
            self._found[Kind.TOOL][others:] = [_noted(tool, listing.notes) for tool in self._found[Kind.TOOL][others:]]
        self._add_kind(listing.upstream, Kind.PROMPT, listing.prompts)
        self._add_kind(listing.upstream, Kind.RESOURCE, listing.resources)
        self._add_kind(listing.upstream, Kind.TEMPLATE, listing.templates)
        self._add_pages(listing.upstream, self._found[Kind.TOOL][others:])

    def catalog(self) -> Catalog:
        """Everything added, less what collides."""
        settled = {kind: self._settled(kind) for kind in Kind}
        routes = self._routes(settled[Kind.TEMPLATE])
        settled[Kind.TEMPLATE] = [route.target for route in routes]
        targets = {kind: tuple(sorted(of_kind, key=_order)) for kind, of_kind in settled.items()}
        by_name = {kind: {target.public_name: target for target in of_kind} for kind, of_kind in targets.items()}
        listed = (target for target in targets[Kind.RESOURCE] if _order(target) not in self._unlisted)
        targets[Kind.RESOURCE] = tuple(listed)
        aliases = {kind: self._aliases(kind, by_name[kind]) for kind in _NAMED}
        index = TemplateIndex((route.template, route) for route in routes)
        self._name_overlaps(index, routes)
        return Catalog(
            version=_version(targets),
            problems=tuple(sorted(self._problems, key=lambda problem: (problem.upstream, problem.message))),
            _targets=MappingProxyType(targets),
            _by_name=MappingProxyType(by_name),
            _aliases=MappingProxyType(aliases),
            _routes=index,
            _refused=frozenset(self._refused),
        )

    def _rule(self, upstream: str) -> NamingRule:
        return self._rules.get(upstream, _BY_DEFAULT)

    def _add_kind(self, upstream: str, kind: Kind, definitions: Iterable[Json]) -> None:
        rule, seen = self._rule(upstream), set[str]()
        for raw in definitions:
            target = self._target(upstream, kind, raw, rule)
            if target is None:
                continue
            if target.name in seen:
                self._complain(upstream, f"{kind} {target.name!a} is listed twice; the first is served")
                continue
            seen.add(target.name)
            self._found[kind].append(target)

    def _add_pages(self, upstream: str, tools: Iterable[Target]) -> None:
        """The pages that an upstream's tools name and it does not list."""
        known = {target.name for target in self._found[Kind.RESOURCE] if target.upstream == upstream}
        for tool in tools:
            uri = page_of(tool.raw)
            if not uri or uri in known:
                continue
            known.add(uri)
            raw = {"uri": uri, "name": tool.name}
            page = self._target(upstream, Kind.RESOURCE, raw, self._rule(upstream))
            if page is not None:
                self._found[Kind.RESOURCE].append(page)
                self._unlisted.add(_order(page))

    def _target(self, upstream: str, kind: Kind, raw: Json, rule: NamingRule) -> Target | None:
        """One candidate; None where it cannot or may not be shown."""
        if fault := fault_in(kind, raw):
            self._complain(upstream, f"{kind} {_label(raw, kind)} is left out: {fault.lstrip()}")
            return None
        name: str = raw[_NAME_OF[kind]]
        if kind in _NAMED and (fault := _FAULT_IN_NAME[kind](name)):
            self._complain(upstream, f"{kind} {_label(raw, kind)} is left out: {fault}")
            return None
        if not rule.shows(kind, name):
            return None
        try:
            digest = hashlib.sha256(jsonrpc.canonical(raw)).hexdigest()
        except TypeError as e:  # orjson: an integer beyond 64 bits, a lone surrogate, too deep
            self._complain(upstream, f"{kind} {_label(raw, kind)} is left out: it is no portable JSON ({e})")
            return None
        public = naming.public_name(upstream, name, rule.prefix) if kind in _NAMED else name
        definition = raw if public == name else {**raw, "name": public}
        return Target(kind, upstream, name, public, definition, digest, rule.tags_of(kind, name), raw)

    def _settled(self, kind: Kind) -> list[Target]:
        """The candidates whose public name nobody else claims."""
        claims: dict[str, list[Target]] = defaultdict(list)
        for target in self._found[kind]:
            if kind in _NAMED and (owner := self._owner(target)):
                self._complain(
                    target.upstream,
                    f"{kind} {target.name!a} is left out: {target.public_name!a} looks like one of {owner!a}",
                )
                continue
            if kind is Kind.TOOL and target.public_name.casefold() in RESERVED:
                self._complain(
                    target.upstream, f"tool {target.name!a} is left out: the gateway has a tool of that name"
                )
                continue
            # Names that differ only in case are told apart by no reader, and by no file system on some machines.
            claims[target.public_name.casefold() if kind in _NAMED else target.public_name].append(target)
        for group in claims.values():
            if len(group) > 1:
                self._refuse(kind, group)
        settled = [group[0] for group in claims.values() if len(group) == 1]
        return self._without_look_alikes(kind, settled) if kind in _NAMED else settled

    def _without_look_alikes(self, kind: Kind, settled: list[Target]) -> list[Target]:
        """Those whose names nobody takes for another upstream's; within one upstream that is its own affair."""
        alike: dict[tuple[str, ...], list[Target]] = defaultdict(list)
        for target in settled:
            prefix_and_name = target.public_name.partition(naming.SEPARATOR)[::2]
            alike[tuple(map(skeleton, prefix_and_name))].append(target)
        mixed_up = [group for group in alike.values() if len({target.upstream for target in group}) > 1]
        for group in mixed_up:
            self._refuse(kind, group)
        refused = {id(target) for group in mixed_up for target in group}
        return [target for target in settled if id(target) not in refused]

    def _owner(self, target: Target) -> str:
        """The upstream whose namespace this target's name would stand in without being its own; empty: none."""
        prefix, separator, _ = target.public_name.partition(naming.SEPARATOR)
        if not separator or self._rule(target.upstream).prefix != "":
            return ""
        return next(iter(sorted(self._prefixes.get(skeleton(prefix), set()) - {target.upstream})), "")

    def _refuse(self, kind: Kind, group: list[Target]) -> None:
        claimants = [ascii(target.key) for target in group]
        named = ", ".join(claimants[:_NAMED_CLAIMANTS]) + (", ..." if len(claimants) > _NAMED_CLAIMANTS else "")
        for target in group:
            if kind is Kind.RESOURCE:
                self._refused.add(target.name)
            self._complain(target.upstream, f"{kind} {target.name!a} is left out: {named} collide in one name")

    def _routes(self, templates: list[Target]) -> list[_Route]:
        routes: list[_Route] = []
        count: dict[str, int] = defaultdict(int)
        for target in templates:
            count[target.upstream] += 1
            try:
                if count[target.upstream] > MAX_TEMPLATES:
                    raise TemplateError(f"an upstream may have {MAX_TEMPLATES}")
                routes.append(_Route(compile_template(target.name), target, self._rule(target.upstream)))
            except TemplateError as e:
                self._complain(target.upstream, f"template {target.name[:200]!a} is left out: {e}")
        return routes

    def _aliases(self, kind: Kind, by_public_name: Mapping[str, Target]) -> dict[str, Target]:
        # Over everything offered, what collisions left out included: dropping one may not make another's name good.
        bearers: dict[str, list[Target]] = defaultdict(list)
        for target in self._found[kind]:
            bearers[target.name.casefold()].append(target)
        folded = {name.casefold() for name in by_public_name}
        alone = (group[0] for folded_name, group in bearers.items() if len(group) == 1 and folded_name not in folded)
        return {target.name: target for target in alone if by_public_name.get(target.public_name) is target}

    def _name_overlaps(self, index: TemplateIndex[_Route], routes: list[_Route]) -> None:
        """Name templates of different upstreams that plainly stand for the same URIs."""
        for route in routes:
            others = {other.target.upstream for other in index.matching(route.template.sample)}
            if others := others - {route.target.upstream}:
                self._complain(
                    route.target.upstream,
                    f"template {route.target.name!r} stands for URIs that templates of {', '.join(sorted(others))} "
                    "stand for too: those are not served",
                )

    def _complain(self, upstream: str, message: str) -> None:
        self._complaints[upstream] += 1
        if self._complaints[upstream] <= MAX_PROBLEMS:
            self._problems.append(Problem(upstream, message))
        elif self._complaints[upstream] == MAX_PROBLEMS + 1:
            self._problems.append(Problem(upstream, f"more than {MAX_PROBLEMS} problems; the others are not shown"))


def _order(target: Target) -> tuple[str, str]:
    return target.upstream, target.name


def _label(raw: Any, kind: Kind) -> str:
    """How a complaint names a definition that may be anything."""
    name = raw.get(_NAME_OF[kind]) if isinstance(raw, dict) else None
    return ascii(name)[:200] if isinstance(name, str) else "without a name"


def _noted(tool: Target, notes: Mapping[str, str]) -> Target:
    """A tool with what the operator has to say about it behind its description."""
    note = notes.get(tool.name)
    if note is None:
        return tool
    words = "\n\n".join(each for each in (tool.definition.get("description"), note) if each)
    return replace(tool, definition={**tool.definition, "description": words})


def _version(targets: Mapping[Kind, tuple[Target, ...]]) -> str:
    digest = hashlib.sha256()
    for kind in Kind:
        for target in targets[kind]:
            row = (kind, target.upstream, target.name, target.public_name, target.definition_hash, *sorted(target.tags))
            digest.update(jsonrpc.dump(row) + b"\n")
    return digest.hexdigest()[:16]
