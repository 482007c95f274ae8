"""``tactful dashboard`` as a process."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys

import httpx
import pytest
from tests.platform.support import wait_until

from benchmarks.ports import free_port


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_dashboard_leaves_no_process(number: signal.Signals) -> None:
    port = free_port()
    command = [sys.executable, "-m", "tactful", "dashboard", "--port", str(port)]
    with subprocess.Popen([*command, "--url", "127.0.0.1:1"], stdout=subprocess.DEVNULL) as process:
        try:
            wait_until(lambda: _answers(port))
            process.send_signal(number)
            assert process.wait(60) == 0
            with pytest.raises(OSError, match="refused"):
                socket.create_connection(("127.0.0.1", port), 1)
        finally:
            process.kill()


def _answers(port: int) -> bool:
    try:
        return httpx.get(f"http://127.0.0.1:{port}/_stcore/health").is_success
    except httpx.TransportError:
        return False
