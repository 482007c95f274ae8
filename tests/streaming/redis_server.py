"""A Redis for one test, which may kill, restart, empty or configure it."""

import os
import shutil
import socket
import subprocess
import time
from pathlib import Path
from types import TracebackType

import pytest

from benchmarks.ports import free_port


class RedisServer:
    """``redis-server`` on a free port of the loopback interface."""

    def __init__(self, folder: Path, *options: str) -> None:
        if shutil.which("redis-server") is None:
            missing = pytest.fail if os.environ.get("CI") == "true" else pytest.skip
            missing("no redis here: scripts/test starts it")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._command = ["redis-server", "--bind", "127.0.0.1", "--port", str(self.port)]
        self._command += ["--dir", str(folder), "--save", "", "--appendonly", "no", *options]
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    def start(self) -> None:
        assert self._process is None or self._process.poll() is not None, "it is running"
        self._process = subprocess.Popen(
            self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        while True:
            try:
                socket.create_connection(("127.0.0.1", self.port)).close()
                return
            except ConnectionRefusedError:
                assert self._process.poll() is None, "redis-server ended"
                time.sleep(0.01)

    def kill(self) -> None:
        """``kill -9``: what is only in memory is gone."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def __enter__(self) -> "RedisServer":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.kill()
