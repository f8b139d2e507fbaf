"""servers.toml as an operator wrote it: which upstream servers there are and how each is reached.

`load` reports every complaint of the whole file at once, each with file:line, what is wrong, the fix and a stable
code. Secrets are resolved here (`config/secrets`) and never shown again: no repr, no complaint contains one.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final, Literal, get_args

from mcp_gateway.config.detectors import DetectorConfig, read_detectors
from mcp_gateway.config.identity import IdentityConfig, read_identity
from mcp_gateway.config.local import read_local, warn_of_missing
from mcp_gateway.config.models import Models, read_models
from mcp_gateway.config.remote import read_remote
from mcp_gateway.config.rest import RestConfig, read_rest
from mcp_gateway.config.secrets import Secrets
from mcp_gateway.config.settings import DAY_S, Settings, read_settings
from mcp_gateway.config.table import ConfigCode, Findings, Table
from mcp_gateway.config.toml_lines import parse
from mcp_gateway.config.upstream_auth import AuthConfig
from mcp_gateway.domain import NOTHING
from mcp_gateway.errors import Complaint, ConfigInvalid

TransportName = Literal["auto", "http", "sse", "stdio", "rest"]
SamplingMode = Literal["deny", "relay", "answer"]
TrustName = Literal["first-use", "ask", "any"]
DEFAULT_TIMEOUT_S: Final = 60.0
DEFAULT_CHILDREN: Final = 4
MAX_CHILDREN: Final = 64

SERVER_NAME: Final = re.compile(r"(?!.*__)[a-z0-9]([a-z0-9_-]{0,30}[a-z0-9-])?")
# Two underscores separate prefix and tool in a public name; one at the end would make `a_` + `b` look like `a` + `_b`.
_SERVER_NAME_RULE: Final = "lower-case letters, digits, - and single _, at most 32, _ neither first nor last"
_DECLARED_TWICE: Final = re.compile(r"Cannot declare \('servers', (?P<quote>['\"])(?P<name>[^'\"]+)(?P=quote)\) twice")
_COMMAND_ONLY: Final = ("env", "cwd", "children")
_URL_ONLY: Final = ("headers", "auth", "http2")
_UNRESOLVED: Final = (ConfigCode.ENV_UNSET, ConfigCode.SECRET_FILE, ConfigCode.KEYRING)
_REST_ONLY: Final = (
    *("openapi", "tool", "targets", "send_headers", "return_headers", "retries"),
    *("route", "balance", "max_concurrent", "check_requests"),
    *("cache", "cache_stale_s"),
)


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """One `[servers.NAME]` table: either a `command` to start or a `url` to connect to."""

    name: str
    command: tuple[str, ...] | None = None
    """Program and arguments; never a shell line."""
    url: str | None = None
    transport: TransportName = "auto"
    """Of a `url` server: "auto" (probe), "http" or "sse"; of a `command` server always "stdio"."""
    env: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    cwd: Path | None = None
    """Where a command runs; the folder of servers.toml unless it says otherwise. None for a `url` server."""
    children: int = DEFAULT_CHILDREN
    """How many processes of a command there may be at once; more than one only while one waits for a person."""
    headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    """What goes with each HTTP request, a fixed token or key of `auth` included."""
    http2: bool = True
    """Whether a server reached over TLS may choose HTTP/2."""
    auth: AuthConfig | None = None
    """How a token for it is obtained, where that takes more than a header."""
    prefix: str | None = None
    """What its public names begin with. None: the server's name. Empty: no prefix."""
    include: tuple[str, ...] = ()
    """Globs over the upstream's own tool names; empty: all."""
    exclude: tuple[str, ...] = ()
    timeout_s: float = DEFAULT_TIMEOUT_S
    enabled: bool = True
    sampling: SamplingMode = "relay"
    """What becomes of its questions to a model: refused, passed on to the agent, or answered by `[models]`."""
    sampling_model: str = ""
    """With "answer": the model that is asked where the upstream's hints name none that the caller may use."""
    sampling_max_tokens: int = 4096
    """With "answer": of one answer."""
    sampling_max_calls: int = 8
    """With "answer": in the course of one call."""
    tags: frozenset[str] = frozenset()
    tool_tags: Mapping[str, frozenset[str]] = field(default_factory=lambda: NOTHING)
    """More tags, by the upstream's own tool name."""
    trust: TrustName = "first-use"
    """Whether its definitions are served before anybody approved them: those of its first listing, none, or all."""
    at: str = ""
    """`file:line` of the table."""
    rest: RestConfig | None = None
    """Of a plain HTTP API; its `include` is in here."""
    shown: str = ""
    """The command or URL as written, `${...}` not resolved: the form for logs, status and error texts."""

    def __repr__(self) -> str:
        return f"ServerConfig({self.name!r}, {self.shown!r}, at={self.at!r})"


@dataclass(frozen=True, slots=True)
class Configuration:
    """Everything one servers.toml says, checked."""

    path: Path
    settings: Settings
    servers: tuple[ServerConfig, ...]
    """In the order of the file, disabled ones included."""
    version: str
    """A hash of the text of servers.toml; secrets are no part of it."""
    warnings: tuple[Complaint, ...] = ()
    identity: IdentityConfig = field(default_factory=IdentityConfig)
    models: Models = field(default_factory=Models)
    detectors: tuple[DetectorConfig, ...] = ()


def load(path: Path, environ: Mapping[str, str], listen: tuple[str, int] | None = None) -> Configuration:
    """Read and check servers.toml; relative paths in it count from its folder.

    `environ` is what `${NAME}` refers to, and where commands' PATH comes from; `listen`, where given, stands for what
    `[gateway]` says. Raises `ConfigInvalid` with every complaint, in the order of the file.
    """
    text, everyone_can_write = _read(path)
    document, findings = _parse(text, str(path))
    secrets = Secrets(environ, path.absolute().parent)
    top = Table(document, (), findings)
    settings = read_settings(top.table("gateway") or Table({}, ("gateway",), findings), secrets, listen)
    identity = read_identity(top.table("identity"), settings, secrets)
    tables = list((top.table("servers") or Table({}, ("servers",), findings)).tables())
    servers = tuple(_read_server(name, table, secrets) for name, table in tables)
    _check_names(servers, findings)
    _check_prefixes(servers, findings)
    models = read_models(top.table("models"), secrets)
    _check_sampling(servers, models, findings)
    detectors = read_detectors(top.table("detectors"), secrets)
    top.finish()
    _warn_of_the_whole(servers, everyone_can_write, findings, bool(models.offered))
    if findings.errors:
        raise ConfigInvalid(_in_order(findings.errors))
    version = hashlib.sha256(text.encode()).hexdigest()[:12]
    return Configuration(path, settings, servers, version, _in_order(findings.warnings), identity, models, detectors)


def _read(path: Path) -> tuple[str, bool]:
    """The text, and whether every user of the machine could have written it."""
    try:
        with path.open(encoding="utf-8-sig") as file:
            return file.read(), bool(os.fstat(file.fileno()).st_mode & stat.S_IWOTH)
    except (OSError, UnicodeDecodeError) as e:
        reason = e.strerror or "" if isinstance(e, OSError) else "not UTF-8 text"
        fix = "name the file with --config, or create it" if isinstance(e, FileNotFoundError) else ""
        raise ConfigInvalid([Complaint(str(path), 1, f"cannot be read: {reason}", fix, ConfigCode.UNREADABLE)]) from e


def _parse(text: str, file: str) -> tuple[dict[str, Any], Findings]:
    try:
        document, lines = parse(text, file)
    except ConfigInvalid as e:
        raise ConfigInvalid([_in_our_words(complaint) for complaint in e.complaints]) from e
    return document, Findings(lines)


def _in_our_words(complaint: Complaint) -> Complaint:
    """TOML refuses a second table of one name by itself; say what that means here."""
    match = _DECLARED_TWICE.search(complaint.message)
    if match is None:
        return complaint
    message = f"there is already a server named {match['name']!r}"
    return replace(complaint, message=message, fix="give one of the two another name", code=ConfigCode.DUPLICATE_SERVER)


def _in_order(complaints: Iterable[Complaint]) -> tuple[Complaint, ...]:
    """By line; a key that is read twice complains once."""
    return tuple(sorted(set(complaints), key=lambda complaint: (complaint.line, complaint.message)))


def _read_server(name: str, table: Table, secrets: Secrets) -> ServerConfig:
    server = ServerConfig(
        name=name,
        prefix=_prefix(table),
        include=table.texts("include"),
        exclude=table.texts("exclude"),
        timeout_s=table.number("timeout_s", DEFAULT_TIMEOUT_S, DAY_S),
        enabled=table.flag("enabled", True),
        sampling=table.choice("sampling", get_args(SamplingMode), "relay"),
        sampling_model=table.text("sampling_model") or "",
        sampling_max_tokens=table.count("sampling_max_tokens", 4096, 1, 10_000_000),
        sampling_max_calls=table.count("sampling_max_calls", 8, 1, 1000),
        tags=frozenset(table.texts("tags")),
        tool_tags=_tool_tags(table),
        trust=table.choice("trust", get_args(TrustName), "first-use"),
        at=table.findings.lines.at(table.path),
    )
    errors = table.findings.errors
    known = len(errors)
    server = _with_reach(server, table, secrets)
    if not server.enabled:
        # People disable a server because its secret is missing.
        errors[known:] = [error for error in errors[known:] if error.code not in _UNRESOLVED]
    table.finish()
    return server


def _with_reach(server: ServerConfig, table: Table, secrets: Secrets) -> ServerConfig:
    """The server with its `command`, `url` or `rest`; exactly one of them must be there."""
    kinds = [kind for kind in _REACHES if kind in table]
    if len(kinds) == 1:
        _refuse_keys_of_other_kinds(table, kinds[0])
        return _REACHES[kinds[0]](server, table, secrets)
    for key in (*_REACHES, "transport", *_COMMAND_ONLY, *_URL_ONLY, *_REST_ONLY):
        table.raw(key)
    count = f"{' and '.join(map(repr, kinds))} together" if kinds else "neither 'command' nor 'url' nor 'rest'"
    fix = "keep one: 'command' is started here, 'url' is an MCP server, 'rest' a plain HTTP API"
    table.findings.refuse(table.path, f"server {server.name!r} has {count}", fix, ConfigCode.COMMAND_OR_URL)
    return server


def _refuse_keys_of_other_kinds(table: Table, ours: str) -> None:
    others = {"command": (*_URL_ONLY, *_REST_ONLY), "url": (*_COMMAND_ONLY, *_REST_ONLY)}
    for key in others.get(ours, (*_COMMAND_ONLY, "transport", "exclude")):
        if table.raw(key) is not None:
            table.refuse(key, f"{key!r} means nothing beside {ours!r}", "leave it out", ConfigCode.UNKNOWN_KEY)


def _with_command(server: ServerConfig, table: Table, secrets: Secrets) -> ServerConfig:
    table.choice("transport", ("auto", "stdio"), "auto")
    local = read_local(table, secrets)
    if server.enabled:
        warn_of_missing(table, local, secrets.environ)
    server = replace(server, transport="stdio", command=local.command, env=local.env, cwd=local.cwd, shown=local.shown)
    return replace(server, children=table.count("children", DEFAULT_CHILDREN, 1, MAX_CHILDREN))


def _with_url(server: ServerConfig, table: Table, secrets: Secrets) -> ServerConfig:
    words: tuple[TransportName, ...] = ("auto", "http", "sse")
    transport = table.choice("transport", words, "auto")
    remote = read_remote(table, secrets)
    if transport == "sse" and remote.auth is not None:
        message = 'over "sse" all callers share one stream, which is no place for tokens of their own'
        table.refuse("transport", message, 'use transport = "http", or a fixed token', ConfigCode.BAD_VALUE)
    server = replace(server, transport=transport, url=remote.url, headers=remote.headers)
    return replace(server, auth=remote.auth, http2=table.flag("http2", True), shown=remote.shown)


def _with_rest(server: ServerConfig, table: Table, secrets: Secrets) -> ServerConfig:
    remote = read_remote(table, secrets, "rest")
    if "?" in remote.url:
        message = "'rest' is where paths begin: it can have no query, and no credential in one"
        table.refuse("rest", message, "send the key in a header", ConfigCode.URL)
    rest = read_rest(table, secrets, remote.url)
    server = replace(server, transport="rest", url=remote.url, headers=remote.headers, auth=remote.auth)
    return replace(server, http2=table.flag("http2", True), shown=remote.shown, rest=rest, include=())


_REACHES: Final = {"command": _with_command, "url": _with_url, "rest": _with_rest}


def _prefix(table: Table) -> str | None:
    prefix = table.text("prefix")
    if prefix and not SERVER_NAME.fullmatch(prefix):
        table.refuse("prefix", "'prefix' is not one that names can begin with", _SERVER_NAME_RULE)
    return prefix


def _tool_tags(table: Table) -> Mapping[str, frozenset[str]]:
    tags: dict[str, frozenset[str]] = {}
    tools = table.table("tools")
    for name, tool in tools.tables() if tools else ():
        tags[name] = frozenset(tool.texts("tags"))
        tool.finish()
    return MappingProxyType(tags)


def _check_names(servers: Sequence[ServerConfig], findings: Findings) -> None:
    seen: dict[str, str] = {}
    for server in servers:
        path = ("servers", server.name)
        first = seen.setdefault(server.name.casefold(), server.name)
        if first != server.name:
            message = f"the names {server.name!r} and {first!r} differ only by case"
            findings.refuse(path, message, "give one of the two another name", ConfigCode.DUPLICATE_SERVER)
        elif not SERVER_NAME.fullmatch(server.name):
            findings.refuse(path, f"{server.name!r} is no server name", _SERVER_NAME_RULE, ConfigCode.SERVER_NAME)


def _check_prefixes(servers: Sequence[ServerConfig], findings: Findings) -> None:
    """No two enabled servers share a prefix; having none is shared by all that ask for it."""
    seen: dict[str, ServerConfig] = {}
    for server in servers:
        prefix = server.name if server.prefix is None else server.prefix
        if not (server.enabled and prefix):
            continue
        first = seen.setdefault(prefix, server)
        if first is not server:
            message = f"the prefix {prefix!r} already belongs to server {first.name!r}"
            path = ("servers", server.name, "prefix")
            findings.refuse(path, message, "choose another prefix", ConfigCode.DUPLICATE_PREFIX)


def _check_sampling(servers: Sequence[ServerConfig], models: Models, findings: Findings) -> None:
    for server in servers:
        if server.sampling_model and server.sampling_model not in models.offered:
            path = ("servers", server.name, "sampling_model")
            known = ", ".join(sorted(models.offered)) or "none"
            message = f"there is no model {server.sampling_model!r}"
            findings.refuse(path, message, f"known: {known}", ConfigCode.BAD_VALUE)


def _warn_of_the_whole(
    servers: Sequence[ServerConfig], everyone_can_write: bool, findings: Findings, has_models: bool
) -> None:
    if not (has_models or any(server.enabled for server in servers)):
        fix = 'add [servers.NAME] with command = ["PROGRAM"] or url = "https://..."'
        findings.warn((), "no server is enabled: agents will see nothing", fix, ConfigCode.NO_SERVERS)
    if everyone_can_write:
        message = "every user of this machine can edit this file, and so run commands as the gateway"
        findings.warn((), message, f"chmod o-w {findings.lines.file}", ConfigCode.WRITABLE)
