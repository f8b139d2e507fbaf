"""Where a secret in servers.toml really is: `${NAME}` from the environment, `keyring:NAME`, or `file:PATH`.

    ${NAME}             the environment variable; an unset one is a complaint, never an empty string
    ${NAME:-default}    the same, with what stands in for one that is unset or empty
    $${NAME}            the text `${NAME}` itself
    file:PATH           the whole value is what the file holds, without its last line break
    keyring:NAME        the whole value is what the system's keyring holds under NAME (service "mcp-gateway")
    ${keyring:NAME}     the same, as a part of a value

What a variable, file or keyring holds is taken as it is and never looked into for further `${...}` or `file:`. PATH
may be relative to the folder of servers.toml and may itself contain `${NAME}` (systemd's
`${CREDENTIALS_DIRECTORY}/token`).

A secret file must belong to us or to root and be closed to everybody else (0600 or 0400). One exception: files of root
below `/run/secrets` may be readable by all, for Docker, Podman and Kubernetes mount secrets there as 0444, inside a
container whose only user is the gateway. Nothing that a variable or a file holds appears in an error.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from mcp_gateway.config import keyrings
from mcp_gateway.config.table import ConfigCode, Table, Unresolvable

SECRET_MOUNTS: Final = (Path("/run/secrets"), Path("/var/run/secrets"))
MAX_SECRET_BYTES: Final = 64 * 1024

FILE_PREFIX: Final = "file:"
KEYRING_PREFIX: Final = "keyring:"
_REFERENCE: Final = re.compile(r"\$?\$\{([^}]*)\}?")
_NAME: Final = re.compile(r"([A-Za-z_][A-Za-z0-9_]*)(?::-(.*))?", re.DOTALL)


_SECRET_NAME: Final = re.compile(
    r"auth(?!or(?!iz))|cookie|token(?!iz)|secret|passw|credential|api.?key|[-_]key$", re.IGNORECASE
)


@dataclass(frozen=True, slots=True)
class Secrets:
    """Resolves references with one environment, relative to one folder."""

    environ: Mapping[str, str]
    base: Path
    mounts: tuple[Path, ...] = SECRET_MOUNTS

    def __repr__(self) -> str:
        return f"Secrets(base={str(self.base)!r})"

    def expand(self, text: str) -> str:
        """`text` with every `${NAME}` replaced. Raises `Unresolvable`.

        >>> Secrets({"HOME": "/root"}, Path()).expand("${HOME}/notes ${EDITOR:-vi} $${HOME}")
        '/root/notes vi ${HOME}'
        """
        return _REFERENCE.sub(self._replacement, text)

    def value(self, text: str) -> str:
        """What `text` stands for: the content of a `file:` reference, else `expand`. Raises `Unresolvable`."""
        if text.startswith(KEYRING_PREFIX):
            return _from_keyring(self.expand(text.removeprefix(KEYRING_PREFIX)))
        if not text.startswith(FILE_PREFIX):
            return self.expand(text)
        return self._content(self.base / self.expand(text.removeprefix(FILE_PREFIX)))

    def _replacement(self, match: re.Match[str]) -> str:
        whole = match[0]
        if whole.startswith("$$"):
            return whole[1:]
        if whole.endswith("}") and match[1].startswith(KEYRING_PREFIX):
            return _from_keyring(match[1].removeprefix(KEYRING_PREFIX))
        name_and_default = _NAME.fullmatch(match[1]) if whole.endswith("}") else None
        if name_and_default is None:
            raise Unresolvable(
                "'${' without a variable's name and '}'",
                "write ${NAME}, or $${ for the text itself",
                ConfigCode.BAD_VALUE,
            )
        name, default = name_and_default.groups()
        if default is not None:
            return self.environ.get(name) or default
        if name not in self.environ:
            raise Unresolvable(
                f"the environment variable {name} is not set",
                f"set {name} where the gateway is started, or write ${{{name}:-default}}",
                ConfigCode.ENV_UNSET,
            )
        return self.environ[name]

    def _content(self, path: Path) -> str:
        try:
            # O_NONBLOCK: a FIFO in the file's place must not hang the start.
            with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:  # noqa: PTH123
                self._check_closed_to_others(path, os.fstat(file.fileno()))
                content = file.read(MAX_SECRET_BYTES + 1)
        except (OSError, ValueError) as e:  # ValueError: a NUL in the path
            reason = e.strerror if isinstance(e, OSError) else "not a path"
            raise _bad_file(path, f"cannot be read: {reason}", "create it, or correct the path") from e
        if len(content) > MAX_SECRET_BYTES:
            raise _bad_file(path, f"is larger than {MAX_SECRET_BYTES} bytes", "is it the right file?")
        return _decoded(path, content)

    def _check_closed_to_others(self, path: Path, found: os.stat_result) -> None:
        if not stat.S_ISREG(found.st_mode):
            raise _bad_file(path, "is not a regular file", "name the file that holds the secret")
        if found.st_uid not in (0, os.geteuid()):
            raise _bad_file(path, "belongs to another user", f"chown {os.geteuid()} {path}")
        open_bits = stat.S_IMODE(found.st_mode) & 0o077
        if open_bits and not (self._is_mounted_secret(path, found) and not open_bits & 0o022):
            raise _bad_file(path, "is open to other users", f"chmod 600 {path}")

    def _is_mounted_secret(self, path: Path, found: os.stat_result) -> bool:
        normal = Path(os.path.normpath(path))
        return found.st_uid == 0 and any(normal.is_relative_to(mount) for mount in self.mounts)


def is_secret_name(name: str) -> bool:
    """Whether a header or variable of this name is likely to hold a secret.

    >>> is_secret_name("X-Api-Key"), is_secret_name("GITHUB_TOKEN"), is_secret_name("X-Team")
    (True, True, False)
    """
    return _SECRET_NAME.search(name) is not None


def is_reference(value: str) -> bool:
    """Whether a value as written points elsewhere for (part of) its content."""
    return "${" in value or value.startswith((FILE_PREFIX, KEYRING_PREFIX))


def warn_of_literal_secret(table: Table, key: str, name: str, written: str) -> None:
    """Complain about a secret that stands in servers.toml itself, where backups and version control see it."""
    if is_secret_name(name) and not is_reference(written):
        fix = 'write "${VARIABLE}" or "file:PATH"'
        table.warn(key, f"the secret {name!r} is written into the file itself", fix, ConfigCode.SECRET_IN_FILE)


def _from_keyring(name: str) -> str:
    fix = f"mcp-gateway servers secret {name}"
    try:
        found = keyrings.read(name)
    except keyrings.KeyringUnusable as e:
        raise Unresolvable(f"{name!r} is in the keyring, but {e}", fix, ConfigCode.KEYRING) from e
    if found is None:
        raise Unresolvable(f"the keyring holds no {name!r}", fix, ConfigCode.KEYRING)
    return found


def _decoded(path: Path, content: bytes) -> str:
    try:
        text = content.decode()
    except UnicodeDecodeError:
        # `from None`: the decoding error carries the file's bytes.
        raise _bad_file(path, "is not UTF-8 text", "write the secret as text") from None
    return text.removesuffix("\r\n").removesuffix("\n")


def _bad_file(path: Path, what: str, fix: str) -> Unresolvable:
    return Unresolvable(f"the secret file {path} {what}", fix, ConfigCode.SECRET_FILE)
