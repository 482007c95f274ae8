"""Runs compiled scripts on a Flink inside one JVM, started once and used for every script."""

from __future__ import annotations

import base64
import queue
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tactful_streaming.flink_build import JVM_OPTIONS, RUNNER_CLASS, build_runner


class LocalFlink:
    """A JVM that runs one script after the other; the first takes longest."""

    def __init__(self, flink_home: Path, log: Path) -> None:
        jar = build_runner(flink_home)
        self.log = log
        command = ["java", "-Xmx1g", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", *JVM_OPTIONS]
        command += ["-cp", f"{flink_home}/lib/*:{jar}", RUNNER_CLASS, "serve"]
        with log.open("wb") as written:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=written,
            )
        self._answers: queue.Queue[bytes] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()

    def run(self, script: str, timeout: float = 120.0) -> None:
        """Run a script whose sources end, to its end."""
        assert self._process.stdin is not None
        self._process.stdin.write(base64.b64encode(script.encode()) + b"\n")
        self._process.stdin.flush()
        try:
            answer = self._answers.get(timeout=timeout)
        except queue.Empty:
            self.close()
            raise AssertionError(f"no end after {timeout:.0f} s, see {self.log}") from None
        if answer != b"ok":
            reason = base64.b64decode(answer.removeprefix(b"failed")).decode()
            raise AssertionError(f"Flink refused the script:\n{reason or self.log.read_text()}")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line.strip())
        self._answers.put(b"failed")


@contextmanager
def local_flink(flink_home: Path) -> Iterator[LocalFlink]:
    with tempfile.TemporaryDirectory(prefix="tactful-flink-") as folder:
        flink = LocalFlink(flink_home, Path(folder, "flink.log"))
        try:
            yield flink
        finally:
            flink.close()


def run_script(flink_home: Path, script: str, timeout: float = 120.0) -> None:
    """Run one script in a JVM of its own and wait for its end."""
    with local_flink(flink_home) as flink:
        flink.run(script, timeout)
