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
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

_ROOT = Path(__file__).resolve().parents[2]
_BROKERS = 3
_DISK_MB = 1024
_ENDING_S = 60.0
_LAUNCH_S = 10.0
_LOOK_S = 0.05
_STARTS = 3
_MB = bytes(1024 * 1024)


def missing() -> str | None:
    """Return why no cluster can be started here; None: one can."""
    if not _script().is_file():
        return f"no {_script()}: set TACTFUL_SHARED to the folder that holds services/kafka"
    if shutil.which("java") is None or shutil.which("keytool") is None:
        return "Apache Kafka needs Java 17: apt-get install default-jre-headless"
    return None


@contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Start three brokers; their files are in `folder`, which is not there yet.

    Raises:
        RuntimeError: if they do not start, or cannot be started here.
    """
    if reason := missing():
        raise RuntimeError(reason)
    mounted: list[Path] = []
    try:
        servers = _kafka("start", folder, "--brokers", str(_BROKERS))
        no_disks = _own_disks([folder / f"node{n}" / "data" for n in range(_BROKERS)], mounted)
        made = Cluster(folder, servers.strip(), no_disks)
        made.start()
        made.await_whole()
        yield made
    finally:
        with suppress(RuntimeError):
            _kafka("kill", folder)
        for place in mounted:
            subprocess.run(["umount", "--lazy", str(place)], check=False)


class Broker:
    """One broker of a cluster."""

    def __init__(self, folder: Path, number: int) -> None:
        """Name a broker that runs."""
        self.name = f"broker-{number}"
        self._folder = folder
        self._number = number
        self._node = folder / f"node{number}"
        self._filler = self._node / "data" / "filler"
        self._up: subprocess.Popen[bytes] | None = None

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
        if self._up is not None:
            self._up.wait()  # it has ended if its broker has
        up = [sys.executable, str(_script()), "up", str(self._folder), str(self._number)]
        self._up = subprocess.Popen(
            up, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
        )
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

    def __init__(self, folder: Path, servers: str, no_disks: str | None) -> None:
        """Name a cluster that was started."""
        self.servers = servers
        self.no_disks = no_disks
        self.brokers = [Broker(folder, number) for number in range(_BROKERS)]
        self._folder = folder

    def start(self) -> None:
        """Start all that do not run, and do not wait."""
        for broker in self.brokers:
            if not broker.runs():
                broker.start()

    def await_whole(self) -> None:
        """Wait until all answer; one that has ended is started again.

        Raises:
            RuntimeError: if one does not start in three attempts.
        """
        for attempt in range(_STARTS):
            try:
                _kafka("up", self._folder)
                return
            except RuntimeError:
                if attempt + 1 == _STARTS:
                    raise


def _script() -> Path:
    shared = Path(os.environ.get("TACTFUL_SHARED", _ROOT.parent / "shared"))
    return shared / "services" / "kafka" / "kafka"


def _kafka(command: str, folder: Path, *arguments: str) -> str:
    """Run a command of the script to its end; what it printed."""
    ran = subprocess.run(
        [sys.executable, str(_script()), command, str(folder), *arguments],
        capture_output=True,
        text=True,
        start_new_session=True,
    )
    if ran.returncode:
        raise RuntimeError(f"kafka {command}: {ran.stderr.strip()[-500:]}")
    return ran.stdout


def _own_disks(places: Sequence[Path], mounted: list[Path]) -> str | None:
    """Move the files of each broker to a small disk in memory; why not, where that fails."""
    if os.geteuid() != 0:
        return "only root may mount the small disks that would be filled"
    _kafka("kill", places[0].parents[1])
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
