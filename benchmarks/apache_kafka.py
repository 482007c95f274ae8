"""Apache Kafka on the loopback interface: brokers of our own, which may be killed.

The program that starts them lies beside the larger data sets, in `$TACTFUL_SHARED`.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[1]
_STARTS = 3


def named_servers() -> str | None:
    """Return the address of the Apache Kafka that the environment names; None if it names none."""
    # With the program of a broker in memory, the address is that of one.
    in_memory = "TACTFUL_TEST_BROKER" in os.environ
    return None if in_memory else os.environ.get("TACTFUL_TEST_KAFKA") or None


def find_program() -> Path | None:
    """Return the program that starts Apache Kafka; None where it or Java is missing."""
    shared = Path(os.environ.get("TACTFUL_SHARED", _ROOT.parent / "shared"))
    program = shared / "services" / "kafka" / "kafka"
    return program if program.is_file() and shutil.which("java") else None


class Cluster:
    """Brokers numbered from 0, with files in one folder: their data survive a kill.

    Attributes:
        servers: bootstrap addresses, separated by commas.
    """

    def __init__(self, folder: Path, brokers: int = 1, *options: str) -> None:
        """Start the brokers in an empty folder; each needs some 4 s and 400 MB.

        Args:
            folder: for all files; it does not exist yet.
            brokers: 1 or 3. Of three, two have to run before any answers.
            options: `--sasl`, `--tls`, `--set key=value`, as the program documents them.

        Raises:
            FileNotFoundError: if the program or Java is missing.
            RuntimeError: if the brokers do not start; the message is the program's.
        """
        program = find_program()
        if program is None:
            raise FileNotFoundError("no Apache Kafka: set TACTFUL_SHARED and install Java 17")
        self._program = program
        self.folder = folder
        for left in reversed(range(_STARTS)):
            try:
                self.servers = self._call("start", "--brokers", str(brokers), *options).strip()
                return
            except RuntimeError:  # another process may have taken a port that was free
                if not left:
                    raise
                with contextlib.suppress(RuntimeError):
                    self.stop()
                shutil.rmtree(folder, ignore_errors=True)

    def kill(self, node: int | None = None) -> None:
        """End one broker, or all, with SIGKILL."""
        self._call("kill", *_one(node))

    def up(self, node: int | None = None) -> None:
        """Start the killed broker, or all that do not run; return when they listen."""
        self._call("up", *_one(node))

    def stop(self) -> None:
        """End all brokers with SIGTERM."""
        self._call("stop")

    def address(self, listener: str) -> str:
        """Return the addresses of the listener `sasl`, `ssl` or `sasl_ssl`."""
        return (self.folder / listener).read_text(encoding="utf-8").strip()

    def tool(self, name: str, *arguments: str) -> str:
        """Run one of Kafka's own tools, such as `TopicCommand`; return its output."""
        return self._call("tool", name, *arguments)

    def _call(self, command: str, *arguments: str) -> str:
        done = subprocess.run(
            [str(self._program), command, str(self.folder), *arguments],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f"kafka {command}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout


def _one(node: int | None) -> list[str]:
    return [] if node is None else [str(node)]
