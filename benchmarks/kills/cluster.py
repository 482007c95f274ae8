"""Three brokers of Apache Kafka that a run may end, suspend, and whose disks it may fill.

They are those of `$TACTFUL_SHARED/services/kafka`, in a folder of the run. A broker that
`TACTFUL_TEST_KAFKA` names is somebody else's, and is not killed.
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from benchmarks import apache_kafka
from tactful.util.signals import on_stop_signals

_BROKERS = 3
_DISK_MB = 1024
_ENDING_S = 60.0
_LAUNCH_S = 10.0
_LOOK_S = 0.05
_STARTS = 3
_MB = bytes(1024 * 1024)


def missing() -> str | None:
    """Return why no cluster can be started here; None: one can."""
    if apache_kafka.find_program() is None:
        return (
            "no Apache Kafka to start: set TACTFUL_SHARED to the folder that holds services/kafka, "
            "and install Java 17 (apt-get install default-jre-headless)"
        )
    return None


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start three brokers; their files are in `folder`, which is not there yet.

    Raises:
        FileNotFoundError: if there is no Apache Kafka here.
        RuntimeError: if they do not start.
        KeyboardInterrupt: also on SIGTERM, so that no process is left.
    """
    mounted: list[Path] = []
    with on_stop_signals(_interrupt):
        kafka = apache_kafka.Cluster(folder, _BROKERS)
        try:
            kafka.kill()
            places = [folder / f"node{number}" / "data" for number in range(_BROKERS)]
            made = Cluster(folder, kafka, _own_disks(places, mounted))
            made.await_whole()
            yield made
        finally:
            with suppress(RuntimeError):
                kafka.kill()
            for place in mounted:
                subprocess.run(["umount", "--lazy", str(place)], check=False)


class Broker:
    """One broker of a cluster."""

    def __init__(self, kafka: apache_kafka.Cluster, folder: Path, number: int) -> None:
        """Name a broker of a cluster in `folder`."""
        self.name = f"broker-{number}"
        self._kafka = kafka
        self._number = number
        self._node = folder / f"node{number}"
        self._filler = self._node / "data" / "filler"
        self._starting: threading.Thread | None = None

    def runs(self) -> bool:
        """Whether its process is there."""
        return self._pid() is not None

    def kill(self) -> None:
        """``kill -9``."""
        self._signal(signal.SIGKILL)
        self.await_end()

    def terminate(self) -> None:
        """SIGTERM."""
        self._signal(signal.SIGTERM)

    def await_end(self, timeout_s: float = _ENDING_S) -> int:
        """Wait until it has ended; without a majority it does not, and is killed in the end."""
        until = time.monotonic() + timeout_s
        while self.runs():
            if time.monotonic() > until:
                self._signal(signal.SIGKILL)
            time.sleep(_LOOK_S)
        return 0

    def pause(self) -> None:
        """SIGSTOP."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """SIGCONT."""
        self._signal(signal.SIGCONT)

    def start(self) -> None:
        """Start it, and do not wait until it answers."""
        if self._starting is not None:
            self._starting.join()  # it has ended if its broker has
        self._starting = threading.Thread(target=self._up, daemon=True)
        self._starting.start()
        until = time.monotonic() + _LAUNCH_S
        while not self.runs() and time.monotonic() < until:
            time.sleep(_LOOK_S)

    def fill_disk(self) -> bool:
        """Leave no room on the disk of its own; return whether it ended by that within a minute."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while True:
                    filler.write(_MB)
            except OSError as error:
                if error.errno != errno.ENOSPC:
                    raise
        until = time.monotonic() + _ENDING_S
        while self.runs() and time.monotonic() < until:
            time.sleep(_LOOK_S)
        return not self.runs()

    def free_disk(self) -> None:
        """Make room again."""
        self._filler.unlink(missing_ok=True)

    def _up(self) -> None:
        with suppress(RuntimeError):  # it may be killed before it answers
            self._kafka.up(self._number)

    def _pid(self) -> int | None:
        """The process, if it runs; its number may be another's by now, or a zombie's."""
        try:
            pid = int((self._node / "pid").read_text())
            command = Path(f"/proc/{pid}/cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError, ValueError):
            return None
        return pid if str(self._node).encode() in command else None

    def _signal(self, number: signal.Signals) -> None:
        if (pid := self._pid()) is not None:
            with suppress(ProcessLookupError):
                os.kill(pid, number)


class Cluster:
    """Brokers that share their topics.

    Attributes:
        servers: their addresses.
        brokers: all of them.
        no_disks: why they have no disks of their own that could be filled; None: they have.
    """

    def __init__(self, folder: Path, kafka: apache_kafka.Cluster, no_disks: str | None) -> None:
        """Name a cluster that has its files in `folder`."""
        self.servers = kafka.servers
        self.no_disks = no_disks
        self.brokers = [Broker(kafka, folder, number) for number in range(_BROKERS)]
        self._kafka = kafka

    def await_whole(self) -> None:
        """Wait until all answer; one that does not run is started.

        Raises:
            RuntimeError: if one does not start in three attempts.
        """
        for attempt in range(_STARTS):
            try:
                self._kafka.up()
                return
            except RuntimeError:
                if attempt + 1 == _STARTS:
                    raise


def _interrupt() -> None:
    raise KeyboardInterrupt


def _own_disks(places: Sequence[Path], mounted: list[Path]) -> str | None:
    """Move the files of dead brokers to small disks in memory; why not, where that fails."""
    if os.geteuid() != 0:
        return "only root may mount the small disks that would be filled"
    for place in places:
        kept = place.with_name("kept")
        place.rename(kept)
        place.mkdir()
        options = ["-t", "tmpfs", "-o", f"size={_DISK_MB}m", "tmpfs", str(place)]
        ran = subprocess.run(["mount", *options], capture_output=True, text=True, check=False)
        if ran.returncode == 0:
            mounted.append(place)
        shutil.copytree(kept, place, dirs_exist_ok=True)
        shutil.rmtree(kept)
        if ran.returncode:
            return f"no small disk can be mounted: {ran.stderr.strip()}"
    return None
