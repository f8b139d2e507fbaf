"""Renewals of a login that are killed at random moments (`kill -9`), one process after the other over one vault.

Each process renews as fast as it can until it is killed; the next one has to find a login that works, or to say that a
new one is needed, in which case there is one. What the authorization server has seen is held against that.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path

import httpx2

import fakes.renewing_run
from fakes.authorization import World
from fakes.broker import bench, server_of

TOKEN_LIFE_S = 60
FASTEST_S, SLOWEST_S = 0.03, 3.0
"""A process is killed at some moment within this from when it began: so that about every third has renewed nothing yet,
however busy the machine is."""


@dataclass
class Tally:
    """What became of all the rounds."""

    kills: int = 0
    renewed: int = 0
    cut_off: int = 0
    """Kills between the note that a refresh token is about to be used and the store of what came of it."""
    lost: list[str] = field(default_factory=list)
    """What was said where a login was over."""
    garbled: list[str] = field(default_factory=list)


class Rounds:
    """One vault, one person's login at `server`, and processes that renew it until they are killed."""

    def __init__(self, state: Path, server: World, seed: int) -> None:
        self._state = state
        self._server = server
        self._random = random.Random(seed)
        self._ahead_s = 0.0
        self._within_s = 0.1
        self._began: float | None = None
        self.tally = Tally()
        self.logins = 0

    async def run(self, count: int) -> Tally:
        """`count` kills, and the check after each; up to five times as many until a tenth of `count` has met a renewal.

        How often one does hangs on how busy the machine is. Leaves no process behind.
        """
        await self._log_in()
        process = await self._process()
        try:
            while self.tally.kills < count or (self.tally.cut_off <= count / 10 and self.tally.kills < 5 * count):
                running, process = process, await self._process()  # it has imported everything when it is needed
                await self._round(running)
            await self._check_login(process)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.communicate()
        return self.tally

    async def _process(self) -> asyncio.subprocess.Process:
        command = [sys.executable, fakes.renewing_run.__file__, str(self._state), self._server.url, "--on-word"]
        paths = [str(Path(fakes.renewing_run.__file__).parents[n]) for n in (1, 2)]  # where `fakes` is found, and we
        return await asyncio.create_subprocess_exec(
            *command,
            *("--times", "1000000", "--step", str(2 * TOKEN_LIFE_S)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        )

    async def _round(self, process: asyncio.subprocess.Process) -> None:
        await self._begin(process)
        await asyncio.sleep(self._random.uniform(0, self._within_s))
        with suppress(ProcessLookupError):  # it has ended by itself: the login is over
            process.kill()
        said, _ = await process.communicate()
        self.tally.kills += 1
        within_s = self._within_s * (0.95 if said else 1.1)
        self._within_s = min(max(within_s, FASTEST_S), SLOWEST_S)
        await self._judge([json.loads(line) for line in said.splitlines() if line.endswith(b"}")])
        self._look_into_the_vault()

    async def _begin(self, process: asyncio.subprocess.Process) -> None:
        """Have it begin, at a time when every token there may be has expired."""
        assert process.stdin is not None and process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        self._ahead_s += 1000 * TOKEN_LIFE_S
        process.stdin.write(f"{self._ahead_s}\n".encode())
        await process.stdin.drain()

    async def _judge(self, said: list[dict[str, str]]) -> None:
        for line in said:
            if "error" in line:
                self.tally.lost.append(line["error"])
                await self._log_in()
            else:
                self.tally.renewed += 1
        if said and "token" in said[-1]:
            await self._check_token(said[-1]["token"])

    async def _check_login(self, process: asyncio.subprocess.Process) -> None:
        """After the last kill: what does the next start find?"""
        await self._begin(process)
        assert process.stdout is not None
        await self._judge([json.loads(await process.stdout.readline())])

    async def _check_token(self, header: str) -> None:
        call = {"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": {"name": "whoami", "arguments": {}}}
        async with httpx2.AsyncClient(trust_env=False) as http:
            answer = await http.post(self._server.url, json=call, headers={"Authorization": header})
        if answer.status_code != 200 or answer.json()["result"]["content"][0]["text"] != "alice":
            self.tally.garbled.append(f"the token is answered with HTTP {answer.status_code}")

    async def _log_in(self) -> None:
        self.logins += 1
        async with bench(self._state, server_of(self._server)) as made:
            await made.person("alice")

    def _look_into_the_vault(self) -> None:
        with closing(sqlite3.connect(self._state / "vault.db")) as connection:
            [state] = connection.execute("PRAGMA integrity_check").fetchone()
            rows = connection.execute("SELECT renewal_began FROM logins").fetchall()
        if state != "ok" or len(rows) != 1:
            self.tally.garbled.append(f"{state}, {len(rows)} rows")
        self.tally.cut_off += sum(began not in (None, self._began) for [began] in rows)
        [[self._began]] = rows


async def uses_of(issuer: str) -> list[tuple[str, int]]:
    """Each use of a refresh token in order: a digest of the token, the status it was answered with."""
    async with httpx2.AsyncClient(trust_env=False) as http:
        return [(token, status) for token, status in (await http.get(f"{issuer}/used")).json()]


def used_again(uses: list[tuple[str, int]]) -> int:
    """How many uses were of a refresh token that had been used before."""
    return len(uses) - len({token for token, _ in uses})
