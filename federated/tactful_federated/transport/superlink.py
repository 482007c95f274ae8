"""Flower's SuperLink as a child process: TLS, enrolled nodes only, no apps.

`flower-superlink` runs with `--isolation process`: it forwards messages, stores them in SQLite and
never starts an app. *This* process runs the rounds: it acquires the task of its run over the
Runtime API, with a shared secret. The bundle that Flower requires for a run leads no round.

The Control API has no authentication, so the SuperLink listens on the loopback interface. Devices
connect to a proxy that forwards only the routes in `deploy/fleet-proxy.conf`.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tactful_federated.core.checkpoint import lock_directory
from tactful_federated.errors import FederatedError, extra
from tactful_federated.transport.bundle import RUN_KEY, bundle_hash, run_bundle
from tactful_federated.transport.certificates import Tls, secret_file
from tactful_federated.transport.run_tasks import RunTasks
from tactful_federated.transport.superlink_grid import SuperLinkGrid

with extra():
    import httpx
    from flwr.common.serde import fab_to_proto, user_config_to_proto
    from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
    from flwr.supercore.control.control_http_client import ControlHttpClient
    from flwr.supercore.fab import Fab
    from flwr.supercore.interceptors import RuntimeVersionHttpInterceptor

_log = logging.getLogger(__name__)

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Environment that turns off telemetry, update checks and installations of Flower."""

_PORT_S = 10.0
_LEADS_ITS_OWN = (
    "this SuperLink leads only the run of `tactful federated serve`: a submitted strategy would"
    " read single updates and add no noise; submit it to `tactful federated superlink`"
)


class SuperLinkError(FederatedError, RuntimeError):
    """The SuperLink does not start, has ended, or refused a request."""


class SuperLink:
    """Context manager of a SuperLink process.

    Args:
        directory: Directory of its state: messages and nodes in `superlink.db`, and its log.
        tls: TLS files of the server.
        host: Loopback address to listen on.
        port: Port to listen on; 0 chooses a free one.
    """

    def __init__(
        self, directory: Path, tls: Tls, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Choose the address; the process is not started."""
        self.directory, self._tls = directory, tls
        self.address = f"{host}:{port or _free_port(host)}"
        self._host, self._port = self.address.rsplit(":", 1)
        self._authority = tls.authority.read_bytes()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> SuperLink:
        """Start the process and wait until it accepts connections.

        Raises:
            SuperLinkError: The process ended, or another program uses the port.
            CheckpointError: Another process uses the directory.
        """
        self._lock = lock_directory(self.directory)  # the lock permits ending a leftover process
        try:
            self._secret = secret_file(self.directory / "executor.secret")
            self._end_leftover()
            with (self.directory / "superlink.log").open("ab") as log:
                self._process = subprocess.Popen(
                    self.command(), stdout=log, stderr=log, env=quiet_environment(self.directory)
                )
            (self.directory / "superlink.pid").write_text(str(self._process.pid), "utf-8")
            self._wait()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End the process."""
        self.close()

    def command(self) -> list[str]:
        """Return the command line of the process."""
        program = shutil.which("flower-superlink", path=str(Path(sys.executable).parent))
        if program is None:
            raise SuperLinkError("flower-superlink is missing: install 'tactful[federated]'")
        settings = {
            "--host": self._host,
            "--port": self._port,
            "--ssl-certfile": self._tls.certificate,
            "--ssl-keyfile": self._tls.key,
            "--ssl-ca-certfile": self._tls.authority,
            "--database": self.directory / "superlink.db",
            "--isolation": "process",
            "--superexec-auth-secret-file": self.directory / "executor.secret",
        }
        flags = ["--enable-supernode-auth", "--disable-runtime-dependency-installation"]
        return [program, *flags, *(str(part) for pair in settings.items() for part in pair)]

    @property
    def pid(self) -> int:
        """Process id of the SuperLink."""
        return self._running().pid

    def enrol(self, public_key: bytes) -> int:
        """Register a node key; return the number of its node.

        Args:
            public_key: PEM of a key on a NIST curve.

        Raises:
            SuperLinkError: The key is invalid, or registered already.
        """
        return enrol_node(self.address, self._authority, public_key)

    @contextlib.contextmanager
    def run(self, name: str = "") -> Iterator[SuperLinkGrid]:
        """Start a Flower run for the run of this name and yield its grid.

        A Flower run ends with this process. A private run does not: it resumes in its directory,
        with its ledger, over several Flower runs.
        """
        with contextlib.closing(control_client(self.address, self._authority)) as control:
            start = StartRunRequest(
                fab=fab_to_proto(Fab(bundle_hash(), run_bundle(), {})),
                override_config=user_config_to_proto({RUN_KEY: name}),
            )
            started = _call(lambda: control.StartRun(start))
        with contextlib.closing(self.tasks()) as tasks:
            # Older tasks: of `flwr run`, or of a process that was killed before it took its own.
            while (task := _call(tasks.take)) is not None and task.run != started.run_id:
                tasks.refuse(task, _LEADS_ITS_OWN)
            if task is None:
                raise SuperLinkError(f"run {started.run_id} has no task; {self._hint()}")
            grid = SuperLinkGrid(self.address, self._authority, task.token)
            try:
                with tasks.refusing(_LEADS_ITS_OWN):
                    yield grid
            except httpx.TransportError as error:
                raise SuperLinkError(f"the SuperLink stopped answering; {self._hint()}") from error
            finally:
                grid.close()

    def tasks(self) -> RunTasks:
        """Return a client that takes the tasks of runs, to be closed."""
        return RunTasks(self.address, self._authority, self._secret)

    def close(self) -> None:
        """End the process; its state stays on disk."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(timeout=10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _end_leftover(self) -> None:
        """End the SuperLink process of an earlier start that was killed."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "superlink.pid").read_text("utf-8"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if str(self.directory / "superlink.db").encode() in command:
                os.kill(pid, signal.SIGKILL)
        deadline = time.monotonic() + _PORT_S
        while self._answers():  # a killed process keeps its port until its last thread is gone
            if time.monotonic() > deadline:
                raise SuperLinkError(
                    f"another program listens on {self.address}: choose a free port"
                )
            time.sleep(0.05)

    def _answers(self) -> bool:
        with (
            contextlib.suppress(OSError),
            socket.create_connection((self._host, int(self._port)), timeout=1),
        ):
            return True
        return False

    def _running(self) -> subprocess.Popen[bytes]:
        if self._process is None:
            raise SuperLinkError("the SuperLink is not running: use it as a context")
        return self._process

    def _wait(self) -> None:
        while not self._answers():
            if self._running().poll() is not None:
                raise SuperLinkError(f"the SuperLink ended before it answered; {self._hint()}")
            time.sleep(0.05)

    def _hint(self) -> str:
        return f"see {self.directory / 'superlink.log'}"


def quiet_environment(home: Path) -> dict[str, str]:
    """Return the environment of Flower programs: `QUIET`, with files in `home`."""
    return {**os.environ, **QUIET, "FLWR_HOME": str(home / "flower")}


def enrol_node(address: str, authority: bytes, public_key: bytes) -> int:
    """Register a node key with the SuperLink at `address`; see `SuperLink.enrol`."""
    with contextlib.closing(control_client(address, authority)) as control:
        request = RegisterNodeRequest(public_key=public_key)
        return int(_call(lambda: control.RegisterNode(request)).node_id)


def control_client(address: str, authority: bytes) -> ControlHttpClient:
    """Return a client of the Control API, to be closed."""
    return ControlHttpClient.from_server_address(
        address, False, authority, [RuntimeVersionHttpInterceptor(component_name="flwr")]
    )


def _call(request: Any) -> Any:
    try:
        return request()
    except httpx.HTTPStatusError as error:
        raise SuperLinkError(f"the SuperLink refused: {error.response.text[:300]}") from error
    except httpx.TransportError as error:
        raise SuperLinkError(f"the SuperLink cannot be reached: {error}") from error


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])
