"""Flower's SuperLink as a child process: TLS, known nodes only, and nobody's code is run.

Stock `flower-superlink` is started with `--isolation process`: it hands messages on and keeps them
in SQLite, and starts no app, whoever asks. Rounds are led by *this* process, which takes the one
task of its run over the Runtime API, under a secret that only both know. The bundle that Flower
wants for a run holds a module that refuses to be run.

Its Control API knows no authentication, so the SuperLink listens on the loopback interface, and
what devices reach is a proxy that passes the routes in `deploy/fleet-proxy.conf` and no other.
"""

from __future__ import annotations

import contextlib
import hashlib
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

from tactful_federated.certificates import Tls, secret_file
from tactful_federated.checkpoint import lock_directory
from tactful_federated.errors import FederatedError, missing_extra
from tactful_federated.superlink_grid import SuperLinkGrid, runtime_client

try:
    import httpx
    from flwr.cli.build import build_fab_from_files
    from flwr.common.serde import fab_to_proto
    from flwr.proto.control_pb2 import RegisterNodeRequest, StartRunRequest
    from flwr.proto.runtime_pb2 import AcquireTaskRequest
    from flwr.supercore.constant import TaskType
    from flwr.supercore.control.control_http_client import ControlHttpClient
    from flwr.supercore.fab import Fab
    from flwr.supercore.interceptors import (
        RuntimeVersionHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )
except ModuleNotFoundError as error:
    raise missing_extra(error) from error

_log = logging.getLogger(__name__)

QUIET = {
    "FLWR_TELEMETRY_ENABLED": "0",
    "FLWR_DISABLE_UPDATE_CHECK": "1",
    "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
}
"""Environment in which Flower calls nobody and installs nothing."""

_PORT_S = 10.0
_ACQUIRE = "/flwr.proto.Runtime/AcquireTask"
_BUNDLE = """
[project]
name = "tactful-rounds"
version = "1.0.0"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.42.0"]
[tool.flwr.app]
publisher = "tactful"
fab-format-version = 1
flwr-version-target = "1.42.0"
fab-include = ["*.py", "LICENSE"]
[tool.flwr.app.components]
serverapp = "rounds:app"
clientapp = "rounds:app"
[tool.flwr.app.config]
"""
_NEVER_RUN = 'raise SystemExit("rounds are led by tactful federated serve; this runs nowhere")\n'


class SuperLinkError(FederatedError, RuntimeError):
    """The SuperLink does not start, ended, or refused what it was asked."""


class SuperLink:
    """A SuperLink of our own, for as long as the context lasts.

    Args:
        directory: Where its state is: messages and nodes in `superlink.db`, its log beside it.
        tls: By which it proves itself.
        host: Loopback address it listens on.
        port: And the port; 0 picks a free one.
    """

    def __init__(
        self, directory: Path, tls: Tls, *, host: str = "127.0.0.1", port: int = 0
    ) -> None:
        """Prepare; nothing runs yet."""
        self.directory, self._tls = directory, tls
        self.address = f"{host}:{port or _free_port(host)}"
        self._host, self._port = self.address.rsplit(":", 1)
        self._authority = tls.authority.read_bytes()
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> SuperLink:
        """Start it, and wait until it answers.

        Raises:
            SuperLinkError: It ended at once.
            CheckpointError: Another process has one at work in the directory.
        """
        self.directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._lock = lock_directory(self.directory)  # who holds it may end what a former one left
        try:
            self._secret = secret_file(self.directory / "executor.secret")
            self._end_former()
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
        """End it."""
        self.close()

    def command(self) -> list[str]:
        """What is started."""
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
        """Of the process."""
        return self._running().pid

    def enrol(self, public_key: bytes) -> int:
        """Let the owner of a node key in; returns the number of its node.

        Args:
            public_key: PEM, on a NIST curve.

        Raises:
            SuperLinkError: The key is none, or is known already.
        """
        return enrol_node(self.address, self._authority, public_key)

    @contextlib.contextmanager
    def run(self) -> Iterator[SuperLinkGrid]:
        """A new run, and the grid that its rounds are led over, for as long as the context lasts.

        A run of Flower's ends with the process that leads it. A private run does not: it goes on,
        with its ledger, in a directory of its own, over as many of Flower's as it takes.
        """
        bundle, _ = build_fab_from_files(
            {
                "pyproject.toml": _BUNDLE.encode(),
                "rounds.py": _NEVER_RUN.encode(),
                "LICENSE": b"Apache-2.0\n",
            }
        )
        with control_client(self.address, self._authority) as control:
            started = _asked(
                lambda: control.StartRun(
                    StartRunRequest(fab=fab_to_proto(Fab(_sha256(bundle), bundle, {})))
                )
            )
        sign = SuperExecAuthHttpInterceptor(
            master_secret=self._secret, protected_methods=frozenset({_ACQUIRE})
        )
        with runtime_client(self.address, self._authority, [sign]) as executor:
            while True:
                found = _asked(
                    lambda: executor.AcquireTask(
                        AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
                    )
                )
                if not found.token:
                    raise SuperLinkError(f"run {started.run_id} has no task; {self._hint()}")
                if found.task.run_id == started.run_id:
                    break
                # An older run whose leader died before it began: it waits for nobody any more.
        grid = SuperLinkGrid(self.address, self._authority, found.token)
        try:
            yield grid
        except httpx.TransportError as error:
            raise SuperLinkError(f"the SuperLink answers no more; {self._hint()}") from error
        finally:
            grid.close()

    def close(self) -> None:
        """End the process; what it kept is on disk."""
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

    def _end_former(self) -> None:
        """End the SuperLink that a start left behind which was killed before it could."""
        with contextlib.suppress(OSError, ValueError):
            pid = int((self.directory / "superlink.pid").read_text("utf-8"))
            command = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            if str(self.directory / "superlink.db").encode() in command:
                os.kill(pid, signal.SIGKILL)
        end = time.monotonic() + _PORT_S
        while self._answers():  # a killed process keeps its port until its last thread is gone
            if time.monotonic() > end:
                raise SuperLinkError(f"another program listens on {self.address}: give a free port")
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
    """The environment for Flower's programs: no telemetry, no update check, files in `home`."""
    return {**os.environ, **QUIET, "FLWR_HOME": str(home / "flower")}


def enrol_node(address: str, authority: bytes, public_key: bytes) -> int:
    """Register a node key with the SuperLink at `address`; see `SuperLink.enrol`."""
    with control_client(address, authority) as control:
        request = RegisterNodeRequest(public_key=public_key)
        return int(_asked(lambda: control.RegisterNode(request)).node_id)


@contextlib.contextmanager
def control_client(address: str, authority: bytes) -> Iterator[ControlHttpClient]:
    """A client of the Control API."""
    client = ControlHttpClient.from_server_address(
        address, False, authority, [RuntimeVersionHttpInterceptor(component_name="flwr")]
    )
    try:
        yield client
    finally:
        client.close()


def _asked(question: Any) -> Any:
    try:
        return question()
    except httpx.HTTPStatusError as error:
        raise SuperLinkError(f"the SuperLink refused: {error.response.text[:300]}") from error
    except httpx.TransportError as error:
        raise SuperLinkError(f"the SuperLink cannot be reached: {error}") from error


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as listener:
        return int(listener.getsockname()[1])
