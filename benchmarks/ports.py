"""Ports of the loopback interface for servers that come and go."""

from __future__ import annotations

import contextlib
import random
import socket
import time

_PORTS = range(20_000, 32_000)
"""Below those that systems give to connections: nothing takes the port of a server that is down,
not even a client that tries to reach it, which TCP would connect to itself."""


def free_port() -> int:
    """A port that nobody listens on.

    Raises:
        OSError: if no port is free.
    """
    entropy = random.SystemRandom()
    for port in entropy.sample(_PORTS, 100):
        with socket.socket() as listener, contextlib.suppress(OSError):
            listener.bind(("127.0.0.1", port))
            return port
    raise OSError(f"no free port among a hundred of {_PORTS.start} to {_PORTS.stop - 1}")


def await_port(port: int, seconds: float = 120.0) -> None:
    """Return when something listens on `port`.

    Raises:
        TimeoutError: after so many seconds.
    """
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    raise TimeoutError(f"nothing listens on port {port} after {seconds:g} s")
