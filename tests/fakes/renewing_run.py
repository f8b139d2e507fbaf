"""A process that wants one credential from a vault, or another and another; says which tokens it got.

    python renewing_run.py STATE URL [--ahead SECONDS] [--times N] [--on-word]

Its clock goes `--ahead`; with each time it asks, further by the life of a token, so that each time it has to renew.
With `--on-word` it says when it is ready, and begins when it is sent a line: the seconds its clock goes ahead.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
from pathlib import Path

from fakes.broker import OAUTH, bench, caller_of
from mcp_gateway.config.servers import ServerConfig
from mcp_gateway.errors import GatewayError


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("state", type=Path)
    parser.add_argument("url")
    parser.add_argument("--ahead", type=float, default=0.0)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--step", type=float, default=3600.0)
    parser.add_argument("--on-word", action="store_true")
    given = parser.parse_args()
    ahead_s = given.ahead
    if given.on_word:
        print("ready", flush=True)
        ahead_s = float(sys.stdin.readline())
    async with bench(given.state, ServerConfig("crm", url=given.url, auth=OAUTH)) as made:
        made.clock.ahead_s = ahead_s
        for _ in range(given.times):
            try:
                credential = await made.broker.credential_for(caller_of("alice"), "crm")
                print(json.dumps({"token": credential.headers["Authorization"]}), flush=True)
            except GatewayError as e:
                print(json.dumps({"error": str(e)}), flush=True)
                return
            made.clock.ahead_s += given.step


if __name__ == "__main__":
    asyncio.run(main())
