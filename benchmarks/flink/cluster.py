"""A Flink cluster whose processes may be killed, and the product's job on it."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from benchmarks.flink.place import ran
from benchmarks.ports import free_port
from tactful_streaming.flink.runner_jar import find_runner

_ROOT = Path(__file__).resolve().parents[2]
_COMMAND = str(_ROOT / "scripts" / "flink")
_START_S = 300


class Flink:
    """A JobManager and a TaskManager with files of their own, started by ``scripts/flink``."""

    def __init__(self, home: Path, jar: Path, *, heap_mb: int = 512, state_mb: int = 512) -> None:
        """Name a cluster.

        Args:
            home: folder with Flink's jars in `lib`.
            jar: the product's.
            heap_mb: memory of the TaskManager for objects.
            state_mb: its memory for RocksDB.
        """
        self.home = home
        port = free_port()
        self.url = f"http://127.0.0.1:{port}"
        self.jar = jar
        self._environment = {
            **os.environ,
            "TACTFUL_FLINK_HOME": str(home),
            "TACTFUL_FLINK_PORT": str(port),
            "TACTFUL_FLINK_HEAP": str(heap_mb),
            "TACTFUL_FLINK_STATE": str(state_mb),
        }

    def start(self) -> None:
        """Start what does not run. A new JobManager has no jobs."""
        self._call("start")

    def stop(self) -> None:
        """End both."""
        self._call("stop")

    def kill(self, name: str) -> None:
        """``kill -9`` of the `jobmanager` or the `taskmanager`."""
        os.kill(self._pid(name), signal.SIGKILL)

    def pids(self) -> tuple[int, int]:
        """Return the process ids of JobManager and TaskManager."""
        return self._pid("jobmanager"), self._pid("taskmanager")

    def submit(self, features: Path, settings: Mapping[str, str], *, checkpoint: str) -> None:
        """Start the job of some settings, with the newest state that it has left.

        Raises:
            RuntimeError: if it cannot be started.
        """
        options = {
            "--output": "entities",
            "--kafka": settings["TACTFUL_LOG__BROKERS"],
            "--topic": settings["TACTFUL_LOG__TOPIC"],
            "--entities-topic": settings["TACTFUL_FLINK__ENTITIES_TOPIC"],
            "--erased-topic": settings["TACTFUL_FLINK__ERASED_TOPIC"],
            "--group": settings["TACTFUL_LOG__TOPIC"] + "-flink",
            "--cluster": self.url,
            "--jar": str(self.jar),
            "--checkpoint": checkpoint,
            "--parallelism": "2",
        }
        words = [word for option in options.items() for word in option]
        command = [sys.executable, "-m", "tactful", "flink", "submit", str(features), *words]
        ran(command, "the submission of the job", timeout=_START_S)

    def _pid(self, name: str) -> int:
        return int((self.home / "run" / f"{name}.pid").read_text("ascii"))

    def _call(self, command: str) -> None:
        words = [_COMMAND, command]
        ran(words, f"scripts/flink {command}", env=self._environment, timeout=_START_S)


@contextlib.contextmanager
def flink(scratch: Path, *, heap_mb: int = 512, state_mb: int = 512) -> Iterator[Flink]:
    """Run a cluster with its files in `scratch`; see `Flink` for its memory."""
    jars = Path(os.environ.get("TACTFUL_FLINK_HOME", _ROOT / ".flink")).resolve()
    subprocess.run([_COMMAND, "fetch"], check=True, stdout=subprocess.DEVNULL)
    home = scratch / "flink"
    home.mkdir()
    (home / "lib").symlink_to(jars / "lib")
    cluster = Flink(home, find_runner(jars), heap_mb=heap_mb, state_mb=state_mb)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
