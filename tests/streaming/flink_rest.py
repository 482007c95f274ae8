"""A server that answers as Flink's REST API, and the answers of a job, recorded from Flink 2.0."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = tuple[int, Any]
Handler = Callable[[str, str, bytes], Answer]


class Fake:
    """A server that keeps what it was asked."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, bytes]] = []
        self.answers: dict[str, Answer | list[Answer]] = {}
        fake = self

        class _Handler(BaseHTTPRequestHandler):
            def _answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fake.asked.append((self.command, self.path, body))
                status, value = fake.answer(f"{self.command} {self.path}")
                payload = value if isinstance(value, bytes) else json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(payload)))
                self.end_headers()
                self.wfile.write(payload)

            do_GET = do_POST = do_PATCH = do_DELETE = _answer

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, asked: str) -> Answer:
        for pattern, answer in self.answers.items():
            if re.fullmatch(pattern, asked):
                if isinstance(answer, list):
                    return answer.pop(0) if len(answer) > 1 else answer[0]
                return answer
        return 404, {"errors": [f"Not found: {asked}"]}

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


NOW = 1_796_194_998_575
"""Time by the recorded cluster's clock."""

JOB = "abababababababababababababababab"
SOURCE = "cbc357ccb763df2852fee8c4fc7d55f2"


@dataclass(frozen=True)
class Recorded:
    """A job as the REST API shows it; times are seconds before `NOW`."""

    state: str = "RUNNING"
    id: str = JOB
    name: str = "tactful"
    started: float = 3_600.0
    failures: tuple[float, ...] = ()  # newest first
    reason: str = "IOException: no broker"
    restarts: int = 0
    completed: float | None = 1.0  # the last checkpoint
    failed: int = 0  # attempts since then
    interval_ms: int = 10_000
    checkpointing: bool = True
    pending: tuple[str, ...] = ("7",)
    path: str = "file:/checkpoints/abababababababababababababababab/chk-14"
    nodes: Mapping[str, str] = field(default_factory=dict)  # of the plan, by id

    def overview(self) -> dict[str, Any]:
        return {
            "jid": self.id,
            "name": self.name,
            "start-time": NOW - int(self.started * 1000),
            "end-time": -1,
            "duration": int(self.started * 1000),
            "state": self.state,
            "last-modification": NOW,
            "tasks": {"running": 4, "total": 4},
            "pending-operators": 0,
        }

    def answers(self) -> dict[str, Answer | list[Answer]]:
        """Return what a cluster answers about this job."""
        base = f"GET /jobs/{self.id}"
        trace = f"JobException: recovery\n\tat a.b(C.java:1)\nCaused by: {self.reason}\n"
        entries = [
            {"exceptionName": "x", "stacktrace": trace, "timestamp": NOW - int(ago * 1000)}
            for ago in self.failures
        ]
        done = None
        if self.completed is not None:
            done = {
                "className": "completed",
                "id": 14,
                "status": "COMPLETED",
                "is_savepoint": False,
                "trigger_timestamp": NOW - int(self.completed * 1000) - 125,
                "latest_ack_timestamp": NOW - int(self.completed * 1000),
                "external_path": self.path,
                "discarded": False,
            }
        history = [{"id": 15 + n, "status": "FAILED"} for n in range(self.failed)]
        statistics = {
            "counts": {"restored": 0, "total": 22, "completed": 14, "failed": 8},
            "latest": {"completed": done, "savepoint": None, "failed": None, "restored": None},
            "history": [*history, *([done] if done else [])],
        }
        settings = {"mode": "exactly_once", "interval": self.interval_ms, "timeout": 600_000}
        none: Answer = (404, {"errors": ["Checkpointing is not enabled for this job."]})
        vertices = [
            {"id": SOURCE, "name": "Source: log[16] -> Calc[17]", "status": "RUNNING"},
            {"id": "ff" * 16, "name": "OverAggregate[19]", "status": "RUNNING"},
        ]
        ids = [f"Source__log[{n}].pendingRecords" for n in range(len(self.pending))]
        sums = [{"id": i, "sum": p} for i, p in zip(ids, self.pending, strict=True)]
        metrics = f"{base}/vertices/{SOURCE}/subtasks/metrics"
        nodes = [{"id": key, "description": text} for key, text in self.nodes.items()]
        return {
            base: (
                200,
                {"jid": self.id, "state": self.state, "now": NOW, "vertices": vertices},
            ),
            rf"{base}/exceptions\?maxExceptions=16": (
                200,
                {"exceptionHistory": {"entries": entries, "truncated": False}},
            ),
            rf"{base}/exceptions": (200, {"exceptionHistory": {"entries": entries}}),
            f"{base}/checkpoints": (200, statistics) if self.checkpointing else none,
            f"{base}/checkpoints/config": (200, settings) if self.checkpointing else none,
            rf"{base}/metrics\?get=numRestarts": (
                200,
                [{"id": "numRestarts", "value": str(self.restarts)}],
            ),
            metrics: (200, [{"id": "Source__log[16].numRecordsIn"}, *({"id": i} for i in ids)]),
            rf"{metrics}\?get=.*": (200, sums),
            f"{base}/plan": (200, {"plan": {"jid": self.id, "nodes": nodes}}),
        }


def cluster_with(*jobs: Recorded) -> dict[str, Answer | list[Answer]]:
    """Return the answers of a cluster that knows these jobs."""
    answers: dict[str, Answer | list[Answer]] = {
        "GET /config": (200, {"flink-version": "2.0.2"}),
        "GET /jobs/overview": (200, {"jobs": [job.overview() for job in jobs]}),
        "GET /jobmanager/config": (200, [{"key": "rest.port", "value": "8081"}]),
    }
    for job in jobs:
        answers |= job.answers()
    return answers
