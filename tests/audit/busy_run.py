"""A run under load, for tests that kill it or break its disk: `busy_run.py FOLDER ACKNOWLEDGED CALLERS [CALLS]`.

Every promise it was given is appended to the file ACKNOWLEDGED: `o ID` (decided, may be dispatched), `c ID` (finished,
may be answered), `f ID` (refused with StoreUnavailable). Such a line is out before anything else happens.
"""

import os
import sys
from pathlib import Path

import anyio
from evidence import ALLOWED, CALLER, OK, TARGET, opened, request

from mcp_gateway.audit.log import AuditLog
from mcp_gateway.errors import StoreUnavailable


async def calls(log: AuditLog, acknowledged: int, name: str, count: int) -> None:
    for number in range(count):
        request_id = f"{os.getpid()}-{name}-{number}"
        try:
            entry = await log.open(CALLER, request(request_id), TARGET, ALLOWED)
            os.write(acknowledged, f"o {request_id}\n".encode())
            await log.close(entry, OK)
            os.write(acknowledged, f"c {request_id}\n".encode())
        except StoreUnavailable:
            os.write(acknowledged, f"f {request_id}\n".encode())


async def main(folder: str, file: str, callers: str, count: str = "1000000") -> None:
    acknowledged = os.open(file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    async with opened(Path(folder), busy_timeout_s=10.0) as log, anyio.create_task_group() as tasks:
        for number in range(int(callers)):
            tasks.start_soon(calls, log, acknowledged, str(number), int(count))


if __name__ == "__main__":
    anyio.run(main, *sys.argv[1:])
