"""Tasks of the runs on a SuperLink: each run has one, which a process takes to lead the run.

`flwr run` submits runs over the Control API, which has no authentication. Taking a task needs the
secret of the SuperLink's operator instead, so this process decides which run is led.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Final

from tactful_federated.errors import extra
from tactful_federated.transport.superlink_grid import runtime_client

with extra():
    import httpx
    from flwr.proto.log_pb2 import PushLogsRequest
    from flwr.proto.node_pb2 import Node
    from flwr.proto.runtime_pb2 import (
        AcquireTaskRequest,
        PullTaskInputRequest,
        PushTaskOutputRequest,
    )
    from flwr.supercore.constant import TaskType
    from flwr.supercore.interceptors import (
        RuntimeTokenHttpInterceptor,
        SuperExecAuthHttpInterceptor,
    )

_log = logging.getLogger(__name__)

_ACQUIRE: Final = "/flwr.proto.Runtime/AcquireTask"
_REFUSAL_S: Final = 3.0


@dataclass(frozen=True)
class RunTask:
    """Task of a run, taken by this process.

    Attributes:
        run: Number of the run.
        bundle: SHA-256 of its bundle, in hexadecimal.
        token: Secret of the task, by which its holder leads the run.
    """

    run: int
    bundle: str
    token: str


class RunTasks:
    """Client that takes tasks, to be closed.

    Args:
        address: Address of the SuperLink.
        authority: PEM of the authority of its certificate.
        secret: Content of its `executor.secret`.
    """

    def __init__(self, address: str, authority: bytes, secret: bytes) -> None:
        """Make the client; it connects with the first request."""
        self._address, self._authority = address, authority
        signer = SuperExecAuthHttpInterceptor(
            master_secret=secret, protected_methods=frozenset({_ACQUIRE})
        )
        self._client = runtime_client(address, authority, [signer])

    def take(self) -> RunTask | None:
        """Take the oldest task that no process has; None without any."""
        wanted = AcquireTaskRequest(supported_task_types=[TaskType.SERVER_APP])
        found = self._client.AcquireTask(wanted)
        if not found.token:
            return None
        return RunTask(found.task.run_id, found.task.fab_hash, found.token)

    def refuse(self, task: RunTask, reason: str) -> None:
        """End the run of a task as failed; `flwr list` and `flwr log` show the reason."""
        token = RuntimeTokenHttpInterceptor(token=task.token)
        with closing(runtime_client(self._address, self._authority, [token])) as client:
            client.PullTaskInput(PullTaskInputRequest())
            lines = [f"refused: {reason}\n"]
            client.PushLogs(PushLogsRequest(node=Node(node_id=0), run_id=task.run, logs=lines))
            client.PushTaskOutput(PushTaskOutputRequest(sub_status="failed", details=reason))

    @contextmanager
    def refusing(self, reason: str) -> Iterator[None]:
        """Refuse every task, in a thread, while the context lasts."""
        end = threading.Event()

        def work() -> None:
            while not end.wait(_REFUSAL_S):
                try:
                    while (task := self.take()) is not None:
                        self.refuse(task, reason)
                except httpx.HTTPError as error:
                    _log.debug("no submitted run was refused: %s", error)

        thread = threading.Thread(target=work, name="refuse-runs", daemon=True)
        thread.start()
        try:
            yield
        finally:
            end.set()
            thread.join(_REFUSAL_S)

    def close(self) -> None:
        """Close the connection."""
        self._client.close()
