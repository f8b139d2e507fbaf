"""The loop that the commands run on."""

import asyncio
import subprocess
import sys

import anyio
import sniffio

from mcp_gateway.cli.loop import run_loop


def test_a_callback_that_belongs_to_no_task_can_start_one() -> None:
    """As the reader of a child's output does; what matters is that it works with sniffio installed, as it is here."""
    assert sniffio.__version__
    done: list[str] = []

    async def work() -> None:
        done.append("started")

    async def serve() -> None:
        async with anyio.create_task_group() as tasks:
            asyncio.get_running_loop().call_soon(tasks.start_soon, work)
            await anyio.wait_all_tasks_blocked()

    run_loop(serve)
    assert done == ["started"]


def test_it_is_uvloop_where_that_is_installed() -> None:
    loops: list[str] = []

    async def serve() -> None:
        loops.append(type(asyncio.get_running_loop()).__module__)

    run_loop(serve)
    assert loops == ["uvloop"]


def test_memory_that_large_results_took_is_not_asked_for_again() -> None:
    program = (
        "import resource, sys\n"
        "from mcp_gateway.cli.loop import keep_freed_memory\n"
        "if sys.argv[1] == 'kept': keep_freed_memory()\n"
        "def faults(): return resource.getrusage(resource.RUSAGE_SELF).ru_minflt\n"
        "def results(): return [bytes(b'x') * 100_000 for _ in range(40)] and None\n"
        "results()\n"
        "before = faults()\n"
        "for _ in range(10): results()\n"
        "print(faults() - before)\n"
    )

    def faults(how: str) -> int:
        return int(subprocess.run([sys.executable, "-c", program, how], capture_output=True, check=True).stdout)

    assert faults("kept") * 10 < faults("as it is")
