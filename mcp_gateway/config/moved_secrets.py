"""Secrets taken out of what other programs' files say, with a reference left where each stood.

What counts as one: a variable or header whose name says so, a value that looks like a token, a password in a URL, an
argument behind `--api-key` and its like. Taking out too much costs a variable more; leaving one in costs the secret.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Final
from urllib.parse import parse_qsl, quote, unquote, urlencode, urlsplit, urlunsplit

from mcp_gateway.config.found import FoundServer
from mcp_gateway.config.secrets import is_reference, is_secret_name

_PLAIN: Final = frozenset({"", "true", "false", "none", "null", "yes", "no", "on", "off", "0", "1"})
_TOKEN: Final = re.compile(
    r"(?:sk|pk|rk|ghp|gho|ghs|ghu|github_pat|glpat|xox[abprs]|hf|ntn|lin_api|npm|pypi|dop_v1|shp\w+|AKIA|ASIA|AIza"
    r"|ya29\.|eyJ|secret|key|tok|pat)[-_.]?[A-Za-z0-9._/+=-]{12,}"
    r"|[0-9a-fA-F]{32,}"
    r"|(?=[^/\\ ]*[a-z])(?=[^/\\ ]*[A-Z])(?=[^/\\ ]*[0-9])[A-Za-z0-9_+=-]{24,}"
)
_PEM: Final = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY")
_IN_URL: Final = re.compile(r"(?P<scheme>[a-zA-Z][\w+.-]*://)(?P<user>[^/\s:@]*):(?P<password>[^/\s@]+)@")
_OPTION: Final = re.compile(r"--?([A-Za-z][\w-]*)")
_ASSIGNED: Final = re.compile(r"(--?[A-Za-z][\w-]*|[A-Za-z_]\w*)=(.*)", re.DOTALL)
_HEADER_ARGUMENT: Final = re.compile(r"([A-Za-z][\w-]*): ?((?:Bearer |Basic |token )?)(.+)", re.DOTALL)
_SCHEME: Final = re.compile(r"(Bearer|Basic|Token)\s+(.+)", re.IGNORECASE | re.DOTALL)


@dataclass(frozen=True, slots=True)
class Moved:
    """One secret that was taken out."""

    name: str
    """What it is called from now on: a variable's name."""
    value: str
    server: str
    where: str
    """Where it stood, such as `env GITHUB_TOKEN`; for the preview."""

    def __repr__(self) -> str:
        return f"Moved({self.name!r}, {self.where!r})"


Reference = Callable[[str, bool], str]
"""The text to leave for the secret of a name; the flag: whether it is the whole of a value in `env` or `headers`."""


def without_secrets(
    servers: tuple[FoundServer, ...], reference: Reference
) -> tuple[tuple[FoundServer, ...], tuple[Moved, ...]]:
    """The servers with references in the secrets' places, and what was taken out of them."""
    taking = _Taking(reference)
    return tuple(taking.of(server) for server in servers), tuple(taking.moved.values())


class _Taking:
    """Gives names, the same one to the same secret."""

    def __init__(self, reference: Reference) -> None:
        self._reference = reference
        self.moved: dict[str, Moved] = {}

    def of(self, server: FoundServer) -> FoundServer:
        url, headers = self._url(server)
        return replace(
            server,
            env={name: self._env(server, name, value) for name, value in server.env.items()},
            headers={name: self._header(server, name, value) for name, value in headers.items()},
            command=tuple(self._arguments(server)),
            url=url,
        )

    def _take(self, server: FoundServer, wanted: str, value: str, where: str, *, is_whole: bool = False) -> str:
        wanted = re.sub(r"\W", "_", wanted).strip("_").upper() or "SECRET"
        wanted = wanted if not wanted[0].isdigit() else f"_{wanted}"
        own = re.sub(r"\W", "_", f"{server.name}_{wanted}").upper()
        name = next(n for n in self._names(wanted, own) if n not in self.moved or self.moved[n].value == value)
        self.moved.setdefault(name, Moved(name, value, server.name, where))
        return self._reference(name, is_whole)

    @staticmethod
    def _names(wanted: str, own: str) -> Iterator[str]:
        yield from (wanted, own)
        number = 2
        while True:
            yield f"{own}_{number}"
            number += 1

    def _env(self, server: FoundServer, name: str, value: str) -> str:
        if is_reference(value) or value.lower() in _PLAIN:
            return value
        if is_secret_name(name) or looks_secret(value):
            return self._take(server, name, value, f"env {name}", is_whole=True)
        return self._without_password(server, name, value, f"env {name}")

    def _header(self, server: FoundServer, name: str, value: str) -> str:
        if is_reference(value) or value.lower() in _PLAIN or not (is_secret_name(name) or looks_secret(value)):
            return value
        scheme = _SCHEME.fullmatch(value)
        called = f"{server.name}_token" if name.lower() == "authorization" else f"{server.name}_{name}"
        if scheme:
            return f"{scheme[1]} {self._take(server, called, scheme[2], f'header {name}')}"
        return self._take(server, called, value, f"header {name}", is_whole=True)

    def _arguments(self, server: FoundServer) -> Iterator[str]:
        previous = ""
        for index, word in enumerate(server.command):
            yield word if index == 0 else self._argument(server, previous, word)
            previous = word

    def _argument(self, server: FoundServer, previous: str, word: str) -> str:
        if is_reference(word) or word.lower() in _PLAIN:
            return word
        option, assigned = _OPTION.fullmatch(previous), _ASSIGNED.fullmatch(word)
        if option and is_secret_name(option[1]) and not word.startswith("-"):
            return self._take(server, f"{server.name}_{option[1]}", word, f"argument {previous}")
        if assigned and (is_secret_name(assigned[1].strip("-")) or looks_secret(assigned[2])):
            name = assigned[1].strip("-")
            return (
                f"{assigned[1]}={self._take(server, f'{server.name}_{name}', assigned[2], f'argument {assigned[1]}')}"
            )
        header = _HEADER_ARGUMENT.fullmatch(word)
        if header and is_secret_name(header[1]) and "//" not in word:
            taken = self._take(server, f"{server.name}_{header[1]}", header[3], f"header {header[1]} among arguments")
            return f"{header[1]}:{header[2]}{taken}" if ": " not in word else f"{header[1]}: {header[2]}{taken}"
        if looks_secret(word):
            return self._take(server, f"{server.name}_secret", word, "an argument")
        return self._without_password(server, "password", word, "a URL among the arguments")

    def _without_password(self, server: FoundServer, name: str, value: str, where: str) -> str:
        match = _IN_URL.search(value)
        if match is None:
            return value
        called = name if name.lower().endswith("password") else f"{name}_password"
        taken = self._take(server, f"{server.name}_{called}", match["password"], where)
        return value[: match.start("password")] + taken + value[match.end("password") :]

    def _url(self, server: FoundServer) -> tuple[str, Mapping[str, str]]:
        """User and password become a header, secrets of the query references."""
        headers = dict(server.headers)
        try:
            parts = urlsplit(server.url)
        except ValueError:
            return server.url, headers
        if parts.username is not None:
            pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
            headers.setdefault("Authorization", "Basic " + base64.b64encode(pair.encode()).decode())
            parts = parts._replace(netloc=parts.netloc.rpartition("@")[2])
        query = parse_qsl(parts.query, keep_blank_values=True)
        if not any(self._is_secret_pair(name, value) for name, value in query):
            return urlunsplit(parts), headers
        written = "&".join(self._pair(server, name, value) for name, value in query)
        return urlunsplit(parts._replace(query=written)), headers

    def _pair(self, server: FoundServer, name: str, value: str) -> str:
        if not self._is_secret_pair(name, value):
            return urlencode([(name, value)])
        return (
            f"{quote(name)}={self._take(server, f'{server.name}_{name}', quote(value, safe=''), f'{name} in the URL')}"
        )

    @staticmethod
    def _is_secret_pair(name: str, value: str) -> bool:
        is_key = name.lower() in ("key", "sig", "signature", "code") or is_secret_name(name)
        return not is_reference(value) and bool(value) and (is_key or looks_secret(value))


def looks_secret(value: str) -> bool:
    """Whether a value is shaped like a token or key.

    >>> looks_secret("ghp_16C7e42F292c6912E7710c838347Ae178B4a"), looks_secret("/usr/local/share/Notes2026/all")
    (True, False)
    """
    return bool(_TOKEN.fullmatch(value) or _PEM.search(value))
