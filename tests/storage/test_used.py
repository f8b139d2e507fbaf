"""What may be used once is used once: over restarts, in several processes, for as long as it could be used at all."""

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from mcp_gateway.errors import StoreUnavailable
from mcp_gateway.storage.used import DATABASE, UsedOnce


def test_nothing_is_used_twice_not_even_after_a_restart(tmp_path: Path) -> None:
    used = UsedOnce(tmp_path / "state")
    assert [used.take(b"a", 100, 0), used.take(b"b", 100, 0), used.take(b"a", 100, 50)] == [True, True, False]
    used.close()
    assert UsedOnce(tmp_path / "state").take(b"a", 100, 99) is False


def test_what_has_expired_is_forgotten(tmp_path: Path) -> None:
    used = UsedOnce(tmp_path / "state")
    used.take(b"a", 100, 0)
    assert used.take(b"a", 300, 101) is True


def test_of_many_that_come_at_once_one_gets_it(tmp_path: Path) -> None:
    stores = [UsedOnce(tmp_path / "state") for _ in range(8)]
    stores[0].take(b"first", 100, 0)
    with ThreadPoolExecutor(8) as threads:
        assert sum(bool(taken) for taken in threads.map(lambda used: used.take(b"a", 100, 0), stores)) == 1


def test_another_process_is_told_no(tmp_path: Path) -> None:
    take = "from mcp_gateway.storage.used import UsedOnce; from pathlib import Path; import sys;"
    command = [
        sys.executable,
        "-c",
        f"{take} print(UsedOnce(Path(sys.argv[1])).take(b'a', 100, 0))",
        str(tmp_path / "s"),
    ]
    said = [subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() for _ in range(2)]
    assert said == ["True", "False"]


def test_where_too_much_is_remembered_nothing_is_taken_until_some_has_expired(tmp_path: Path) -> None:
    used = UsedOnce(tmp_path / "state", max_bytes=64 * 1024)
    taken = [used.take(b"%032d" % n, 100, 0) for n in range(2_000)]
    assert (taken[0], taken[-1]) == (True, None)
    assert used.take(b"new", 300, 101) is True


def test_a_file_open_to_others_or_broken_is_not_used(tmp_path: Path) -> None:
    used = UsedOnce(tmp_path / "state")
    used.take(b"a", 100, 0)
    used.close()
    file = tmp_path / "state" / DATABASE
    file.chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        used.take(b"b", 100, 0)
    file.chmod(0o600)
    file.write_bytes(b"not a database, for sure" * 100)
    with pytest.raises(StoreUnavailable):
        UsedOnce(tmp_path / "state").take(b"b", 100, 0)
