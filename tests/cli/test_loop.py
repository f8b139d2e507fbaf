"""What runs on the gateway's loop can use anyio everywhere, also where no task is running."""

import asyncio

import anyio
import uvloop

from mcp_gateway.cli.loop import run_async


def test_tasks_can_be_started_from_a_plain_callback_of_the_loop() -> None:
    done: list[str] = []

    async def note(what: str) -> None:
        done.append(what)

    async def main(what: str) -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, uvloop.Loop)
        async with anyio.create_task_group() as tasks:
            over = anyio.Event()

            def called_back() -> None:
                tasks.start_soon(note, what)
                over.set()

            loop.call_soon(called_back)
            await over.wait()

    run_async(main, "started")
    assert done == ["started"]
