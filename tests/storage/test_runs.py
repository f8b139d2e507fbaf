"""Which processes are alive."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from mcp_gateway.storage.runs import Runs

OTHER = "import sys; from pathlib import Path; from mcp_gateway.storage.runs import Runs\n"
OTHER += "print(Runs(Path(sys.argv[1])).mine, flush=True); sys.stdin.read()"


def test_a_run_is_dead_when_its_process_is_and_not_before(tmp_path: Path) -> None:
    mine = Runs(tmp_path)
    words = [sys.executable, "-c", OTHER, str(tmp_path)]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        assert not mine.is_dead(name)
        process.kill()
        process.wait()
        assert mine.is_dead(name)
    assert mine.is_dead(name)
    assert not mine.is_dead(mine.mine)
    mine.close()


def test_what_dead_runs_left_is_tidied_up_by_the_next_and_nothing_else(tmp_path: Path) -> None:
    living, dead = Runs(tmp_path), tmp_path / ("0" * 16)
    other = tmp_path / "notes.txt"
    for path in (dead, other):
        path.touch(0o600)
    Runs(tmp_path).close()
    assert {path.name for path in tmp_path.iterdir()} == {living.mine, other.name}
    living.close()
