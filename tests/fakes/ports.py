"""Free TCP ports on loopback, below the range from which the kernel takes ports for outgoing connections."""

import random
import socket
from typing import Final

# Linux hands out 32768-60999 by itself (ip_local_port_range). A port taken from below cannot be lost to a connection
# that some other test opens between the asking and the binding; a random one rarely meets another test process's.
_RANGE: Final = range(20_000, 32_000)
_given: Final[set[int]] = set()


def free_port() -> int:
    """A port nobody listens on, never given twice by this process."""
    for _ in range(1_000):
        port = random.SystemRandom().choice(_RANGE)
        if port not in _given and _can_bind(port):
            _given.add(port)
            return port
    raise AssertionError("no free port found")


def _can_bind(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
