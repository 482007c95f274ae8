"""The product's server as a process that can be killed."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import MappingProxyType

from tactful.util.signals import end_process


class Server:
    """A running ``tactful serve --dev``."""

    def __init__(self, data: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        """Start it on a free port, with `settings` as further environment variables.

        Raises:
            RuntimeError: if it does not start; its log is beside `data`.
        """
        data.parent.mkdir(parents=True, exist_ok=True)
        with data.with_suffix(".log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    *(sys.executable, "-m", "tactful", "serve", "--dev", "--json", "--port", "0"),
                    *("--data", str(data)),
                ],
                stdout=subprocess.PIPE,
                stderr=log,
                env={**os.environ, **settings},
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"the server did not start: see {data.with_suffix('.log')}")
        self.url: str = json.loads(line)["url"]

    def alive(self) -> bool:
        """Whether the process runs."""
        return self._process.poll() is None

    def kill(self) -> None:
        """``kill -9``."""
        self._process.kill()
        self._process.wait()

    def stop(self) -> None:
        """End it in good order."""
        end_process(self._process, 60)


@contextlib.contextmanager
def worker(data: Path, settings: Mapping[str, str]) -> Iterator[None]:
    """A running ``tactful worker``; its log is beside `data`."""
    data.parent.mkdir(parents=True, exist_ok=True)
    with data.with_suffix(".log").open("ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "tactful", "worker", "--data", str(data)],
            stdout=log,
            stderr=log,
            env={**os.environ, **settings},
        )
    try:
        yield
    finally:
        process.terminate()
        process.wait(60)
