"""Keys, anchors and run locks outside the database."""

import stat
from pathlib import Path

import pytest

from mcp_gateway.audit.anchor import Anchor, AnchorDir, Keys
from mcp_gateway.audit.chain import Head
from mcp_gateway.errors import StoreUnavailable

KEY = b"k" * 32
ANCHOR = Anchor(Head(7, "a" * 64), 5)


def test_keys_are_made_once_and_only_we_can_read_them(tmp_path: Path) -> None:
    first, second = Keys.load(tmp_path / "state"), Keys.load(tmp_path / "state")
    assert first.hmac == second.hmac
    assert first.signing.private_bytes_raw() == second.signing.private_bytes_raw()
    folder = tmp_path / "state" / "audit"
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE((folder / name).stat().st_mode) for name in ("hmac.key", "signing.key")} == {0o600}
    assert (folder / "signing.pub").read_text().strip() == first.signing.public_key().public_bytes_raw().hex()


@pytest.mark.parametrize("name", ["hmac.key", "signing.key"])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, name: str) -> None:
    Keys.load(tmp_path)
    (tmp_path / "audit" / name).chmod(0o644)
    with pytest.raises(StoreUnavailable, match="chmod 600"):
        Keys.load(tmp_path)


def test_an_anchor_comes_back_as_it_was_written() -> None:
    assert Anchor.parse(ANCHOR.line(KEY), KEY, "") == ANCHOR


@pytest.mark.parametrize("data", [b"", b"garbage", b"\xff" * 200, ANCHOR.line(b"x" * 32), ANCHOR.line(KEY)[1:]])
def test_an_anchor_this_key_did_not_write_is_not_genuine(data: bytes) -> None:
    assert not Anchor.parse(data, KEY, "").is_genuine


def test_a_run_is_dead_when_its_lock_is_free(tmp_path: Path) -> None:
    anchors = AnchorDir(tmp_path, Path("audit.db"), KEY)
    with anchors.locked():
        run = anchors.new_run()
        run.write(ANCHOR)
        assert anchors.dead_runs() == []
        run.close()
        (dead,) = anchors.dead_runs()
        assert dead.name == run.name
        assert dead.read() == ANCHOR
        dead.remove()
        assert anchors.names() == set()


def test_the_anchors_of_living_runs_count_too(tmp_path: Path) -> None:
    anchors = AnchorDir(tmp_path, Path("audit.db"), KEY)
    assert anchors.anchors() == []
    with anchors.locked():
        run = anchors.new_run()
        run.write(ANCHOR)
        anchors.replace(Anchor(Head(3, "b" * 64), 4))
    assert [anchor.head.seq for anchor in anchors.anchors()] == [3, 7]
    run.close()


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    before = set(Path("/proc/self/fd").iterdir())
    anchors = AnchorDir(tmp_path, Path("audit.db"), KEY)
    with anchors.locked():
        anchors.new_run().remove()
    assert len(set(Path("/proc/self/fd").iterdir()) - before) == 0
