"""API keys: shown once, kept as keyed hashes, revoked at once in every process."""

from __future__ import annotations

import hmac
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import mcp_gateway
import mcp_gateway.identity.keys as keys_module
from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.identity.keys import HMAC_KEY_FILE, Keys
from mcp_gateway.storage.keys import DATABASE, KeyTable

NOW = datetime(2026, 11, 1, 12, tzinfo=UTC)
REPOSITORY = Path(mcp_gateway.__file__).parents[1]

ANOTHER_PROCESS = """
import sys
from datetime import UTC, datetime
from pathlib import Path
from mcp_gateway.identity.keys import Keys

keys = Keys(Path(sys.argv[1]))
for line in sys.stdin:
    verb, argument = line.split()
    now = datetime.now(UTC)
    if verb == "create":
        print(*keys.create(argument, None, now)[:1], flush=True)
    elif verb == "revoke":
        print(keys.revoke(argument, now), flush=True)
    else:
        print(keys.verify(argument, now) is not None, flush=True)
"""


class AnotherProcess:
    """A gateway or CLI of its own on the same state folder."""

    def __init__(self, state: Path) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-c", ANOTHER_PROCESS, str(state)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(REPOSITORY)},
        )

    def ask(self, verb: str, argument: str) -> str:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(f"{verb} {argument}\n")
        self._process.stdin.flush()
        return self._process.stdout.readline().strip()

    def close(self) -> None:
        self._process.communicate(timeout=10)


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"


@pytest.fixture
def keys(state: Path) -> Iterator[Keys]:
    keys = Keys(state)
    yield keys
    keys.close()


@pytest.fixture
def other(keys: Keys, state: Path) -> Iterator[AnotherProcess]:
    process = AnotherProcess(state)
    yield process
    process.close()


def public_id(token: str) -> str:
    return token.split("_")[1]


def test_a_key_is_verified_as_its_agent(keys: Keys) -> None:
    token, record = keys.create("bot", None, NOW)
    assert re.fullmatch(r"mgw_[0-9A-Za-z]{12}_[0-9A-Za-z]{38}", token)
    found = keys.verify(token, NOW)
    assert found is not None
    assert (found.agent, found.public_id, found.created) == ("bot", record.public_id, NOW)
    assert public_id(token) == record.public_id


def test_no_part_of_the_secret_is_in_any_file_or_repr(keys: Keys, state: Path) -> None:
    token, record = keys.create("bot", None, NOW)
    secret = token.split("_")[2]
    kept = b"".join(path.read_bytes() for path in state.iterdir())
    for piece in (secret, secret[:16], secret[16:32], token):
        assert piece.encode() not in kept
    assert record.public_id.encode() in kept
    assert record.digest not in repr(record)
    assert secret not in repr(keys.list())


def test_without_the_hash_key_the_database_does_not_verify_a_guess(keys: Keys) -> None:
    token, record = keys.create("bot", None, NOW)
    assert record.digest != hmac.digest(b"", token.encode(), "sha256").hex()
    assert len(record.digest) == 64


def test_no_two_keys_are_alike(keys: Keys) -> None:
    tokens = {keys.create("bot", None, NOW)[0] for _ in range(20)}
    assert len(tokens) == len({public_id(token) for token in tokens}) == 20


def test_a_key_expires_at_its_hour(keys: Keys) -> None:
    token, _ = keys.create("bot", timedelta(hours=1), NOW)
    assert keys.verify(token, NOW + timedelta(minutes=59))
    assert keys.verify(token, NOW + timedelta(hours=1)) is None


def test_a_revoked_key_is_refused_and_stays_listed(keys: Keys) -> None:
    token, record = keys.create("bot", None, NOW)
    assert keys.verify(token, NOW)
    assert keys.revoke(record.public_id, NOW)
    assert keys.verify(token, NOW) is None
    assert not keys.holds(record.public_id, NOW)
    assert [kept.revoked for kept in keys.list()] == [NOW]


def test_revoking_twice_or_what_is_not_there_says_so(keys: Keys) -> None:
    _, record = keys.create("bot", None, NOW)
    assert keys.revoke(record.public_id, NOW)
    assert not keys.revoke(record.public_id, NOW)
    assert not keys.revoke("' OR 1=1 --", NOW)


@pytest.mark.parametrize("agent", ["", "a/b", "a b", "\x1b[31m", "-a", "a" * 65, "ä"])
def test_a_name_no_agent_can_have_gets_no_key(keys: Keys, agent: str) -> None:
    with pytest.raises(ValueError, match="name of an agent"):
        keys.create(agent, None, NOW)


@pytest.mark.parametrize("expires", [timedelta(), timedelta(seconds=-1)])
def test_a_key_that_has_expired_is_not_made(keys: Keys, expires: timedelta) -> None:
    with pytest.raises(ValueError, match="future"):
        keys.create("bot", expires, NOW)


def test_a_mistyped_key_is_recognised_without_looking_it_up(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = keys.create("bot", None, NOW)
    monkeypatch.setattr(keys, "_records", lambda: pytest.fail("was looked up"))
    for position in range(4, len(token)):
        other = "A" if token[position] != "A" else "B"
        assert keys.verify(token[:position] + other + token[position + 1 :], NOW) is None


@given(text=st.one_of(st.text(max_size=80), st.from_regex(keys_module._TOKEN)))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_text_that_was_not_issued_verifies(keys: Keys, text: str) -> None:
    assert keys.verify(text, NOW) is None


def test_a_key_with_another_keys_id_or_secret_is_refused(keys: Keys) -> None:
    (a, _), (b, _) = keys.create("bot", None, NOW), keys.create("admin", None, NOW)
    signed = f"mgw_{public_id(b)}_{a.split('_')[2][:32]}"
    assert keys.verify(signed + keys_module.checksum(signed), NOW) is None


def test_an_unknown_id_costs_the_same_hash_and_constant_time_comparison(
    keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    token, _ = keys.create("bot", None, NOW)
    signed = f"mgw_{'0' * 12}_{'0' * 32}"
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def counting(a: str, b: str) -> bool:
        compared.append((len(a), len(b)))
        return real(a, b)

    monkeypatch.setattr(hmac, "compare_digest", counting)
    assert keys.verify(token, NOW)
    assert keys.verify(signed + keys_module.checksum(signed), NOW) is None
    assert compared == [(64, 64), (64, 64)]


def test_a_key_made_or_revoked_by_another_process_counts_on_the_next_request(keys: Keys, other: AnotherProcess) -> None:
    token = other.ask("create", "bot")
    assert keys.verify(token, NOW)
    assert other.ask("revoke", public_id(token)) == "True"
    assert keys.verify(token, NOW) is None


def test_of_200_rapid_pairs_of_create_and_revoke_between_two_processes_none_is_missed(
    keys: Keys, other: AnotherProcess
) -> None:
    for turn in range(200):
        if turn % 2:
            token = other.ask("create", "bot")
            assert keys.verify(token, NOW), turn
            other.ask("revoke", public_id(token))
            assert keys.verify(token, NOW) is None, turn
        else:
            token, record = keys.create("bot", None, NOW)
            assert other.ask("verify", token) == "True", turn
            keys.revoke(record.public_id, NOW)
            assert other.ask("verify", token) == "False", turn


def test_a_commit_that_hides_behind_the_same_time_stamp_is_not_missed(
    keys: Keys, state: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system with coarse time stamps: two commits in one tick, of which the first was seen."""
    token, record = keys.create("bot", None, NOW)
    frozen = keys._table.stamp()
    monkeypatch.setattr(keys._table, "stamp", lambda: frozen)
    assert keys.verify(token, NOW)
    cli = KeyTable(state)
    cli.revoke(record.public_id, NOW)
    cli.close()
    assert keys.verify(token, NOW) is None


def test_a_settled_store_is_not_asked_on_every_request(keys: Keys, monkeypatch: pytest.MonkeyPatch) -> None:
    token, _ = keys.create("bot", None, NOW)
    later = time.time_ns() + 10_000_000_000
    monkeypatch.setattr(time, "time_ns", lambda: later)
    assert keys.verify(token, NOW)
    for asked in ("records", "commits"):
        monkeypatch.setattr(keys._table, asked, lambda: pytest.fail("the database was asked"))
    assert keys.verify(token, NOW)


def test_a_database_put_in_place_of_the_old_one_is_read(keys: Keys, state: Path, tmp_path: Path) -> None:
    first, _ = keys.create("bot", None, NOW)
    backup = (state / DATABASE).read_bytes()
    second, _ = keys.create("bot", None, NOW)
    assert keys.verify(second, NOW)
    restored = state / "restored"
    restored.write_bytes(backup)
    restored.chmod(0o600)
    restored.replace(state / DATABASE)
    assert keys.verify(first, NOW)
    assert keys.verify(second, NOW) is None


def test_keys_survive_a_restart(state: Path) -> None:
    keys = Keys(state)
    token, _ = keys.create("bot", None, NOW)
    keys.close()
    again = Keys(state)
    assert again.verify(token, NOW)
    again.close()


def test_all_who_open_a_new_state_folder_at_once_share_its_keys(state: Path) -> None:
    def made(agent: int) -> str:
        keys = Keys(state)
        token, _ = keys.create(f"bot-{agent}", None, NOW)
        keys.close()
        return token

    with ThreadPoolExecutor(6) as threads:
        tokens = list(threads.map(made, range(6)))
    keys = Keys(state)
    assert all(keys.verify(token, NOW) for token in tokens)
    keys.close()


@pytest.mark.parametrize("lose", [True, False])
def test_a_lost_or_replaced_hash_key_is_said_and_not_silently_made_anew(state: Path, lose: bool) -> None:
    keys = Keys(state)
    keys.create("bot", None, NOW)
    keys.close()
    (state / HMAC_KEY_FILE).unlink()
    if not lose:
        (state / HMAC_KEY_FILE).write_bytes(os.urandom(32))
        (state / HMAC_KEY_FILE).chmod(0o600)
    with pytest.raises(StoreUnavailable, match="restore that file"):
        Keys(state)
    assert (state / HMAC_KEY_FILE).exists() is not lose


def test_a_hash_key_open_to_others_stops_the_gateway(state: Path) -> None:
    Keys(state).close()
    (state / HMAC_KEY_FILE).chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        Keys(state)


def test_an_unreadable_store_lets_nobody_in(keys: Keys, state: Path) -> None:
    token, record = keys.create("bot", None, NOW)
    (state / DATABASE).write_bytes(b"not a database, " * 600)
    with pytest.raises(StoreUnavailable):
        keys.verify(token, NOW)
    with pytest.raises(StoreUnavailable):
        keys.holds(record.public_id, NOW)
