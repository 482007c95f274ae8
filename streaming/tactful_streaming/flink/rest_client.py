"""Sends compiled jobs to Flink: to a cluster's REST address, or to a SQL Gateway.

A cluster gets our jar, compiled from the Java sources in ``flink/src``, which runs the script
there; paths follow Flink's "REST API" page. A gateway
gets the statements one by one in a session of their own ("REST Endpoint" page, version v1); it must
have our jar, or load it from `jar`.
"""

from __future__ import annotations

import base64
import hashlib
import shutil
import subprocess
import tempfile
import time
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import httpx

from tactful_privacy.durable_files import replace_file
from tactful_streaming.errors import FlinkError, FlinkRefusedError, FlinkUnreachableError
from tactful_streaming.flink.options import FlinkScript
from tactful_streaming.flink.sql_text import literal

ENDED: Final = frozenset({"FINISHED", "CANCELED", "FAILED", "SUSPENDED"})
"""Final states of a job."""

FLINK_VERSION: Final = "2.0.2"
"""Version of Flink that the runner is compiled for and tested with."""

RUNNER_CLASS: Final = "tactful.flink.ScriptRunner"
"""Main class of the runner."""

_SOURCES = Path(__file__).parents[2] / "flink" / "src"
_GATEWAY_ENDED = frozenset({"FINISHED", "CANCELED", "CLOSED", "ERROR", "TIMEOUT"})
_LONGEST_REASON = 2000


class _Http:
    """JSON over HTTP; failures raise FlinkError."""

    def __init__(
        self, url: str, *, timeout: float = 60.0, headers: Mapping[str, str] | None = None
    ) -> None:
        self._url = url.rstrip("/")
        self._client = httpx.Client(base_url=self._url, timeout=timeout, headers=headers)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        body = self._answer(method, path, **options)
        if not isinstance(body, dict):
            raise FlinkRefusedError(f"{self._url}{path}: no reason given")
        return body

    def _answer(self, method: str, path: str, **options: Any) -> Any:
        try:
            answer = self._client.request(method, path, **options)
        except httpx.HTTPError as error:
            raise FlinkUnreachableError(
                f"{self._url} does not answer: {error or type(error).__name__}: is it the REST "
                "address of a running cluster or gateway?"
            ) from error
        try:
            body = answer.json() if answer.content else {}
        except ValueError as error:
            raise FlinkError(f"{self._url}{path}: not JSON: is this Flink?") from error
        if answer.is_error:
            raise FlinkRefusedError(f"{self._url}{path}: {answer.status_code}: {_reason(body)}")
        return body


@dataclass(frozen=True)
class FoundJob:
    """A job that a cluster knows."""

    id: str
    name: str
    state: str
    started_at: int  # epoch milliseconds, by the cluster's clock

    @property
    def ended(self) -> bool:
        """Whether it has reached a final state."""
        return self.state in ENDED


class FlinkCluster(_Http):
    """A session cluster's REST address."""

    def version(self) -> str:
        """Ask for the cluster's version of Flink."""
        return str(self._call("GET", "/config").get("flink-version"))

    def upload(self, jar: Path) -> str:
        """Upload a jar and return its id."""
        with jar.open("rb") as file:
            files = {"jarfile": (jar.name, file, "application/x-java-archive")}
            answer = self._call("POST", "/jars/upload", files=files)
        return str(answer["filename"]).rpartition("/")[2]

    def run(
        self,
        jar_id: str,
        script: str,
        *,
        parallelism: int = 0,
        savepoint: str | None = None,
        job_id: str = "",
        claim: bool = False,
        allow_dropped: bool = False,
    ) -> str:
        """Start an SQL script as a job with the jar of :meth:`upload`; return the job's id.

        Args:
            jar_id: id of the uploaded jar.
            script: SQL statements.
            parallelism: 0 is the default of script and cluster.
            savepoint: path of a savepoint or retained checkpoint to restore.
            job_id: 32 hexadecimal digits, which the cluster must not have seen; empty: random.
            claim: whether the job owns `savepoint` and deletes it once it is no longer needed.
            allow_dropped: whether state that no operator takes is dropped instead of refused.
        """
        body: dict[str, Any] = _program(script)
        if parallelism:
            body["parallelism"] = parallelism
        if job_id:
            body["jobId"] = job_id
        if savepoint is not None:
            body["savepointPath"] = savepoint
            body["claimMode"] = "CLAIM" if claim else "NO_CLAIM"
            body["allowNonRestoredState"] = allow_dropped
        return str(self._call("POST", f"/jars/{jar_id}/run", json=body)["jobid"])

    def plan_of(self, jar_id: str, script: str) -> dict[str, Any]:
        """Return the plan of a script, as :meth:`plan` does, without starting a job."""
        return dict(self._call("POST", f"/jars/{jar_id}/plan", json=_program(script))["plan"])

    def plan(self, job: str) -> dict[str, Any]:
        """Return the plan of a job: `nodes` with `id` and `description`."""
        return dict(self._call("GET", f"/jobs/{job}/plan")["plan"])

    def jobs(self) -> list[FoundJob]:
        """List the jobs that the cluster knows, ended ones too, newest first."""
        found = [
            FoundJob(str(job["jid"]), str(job["name"]), str(job["state"]), int(job["start-time"]))
            for job in self._call("GET", "/jobs/overview").get("jobs", [])
        ]
        return sorted(found, key=lambda job: (job.started_at, job.id), reverse=True)

    def settings(self) -> dict[str, str]:
        """Return the settings of the JobManager, without secrets."""
        return {entry["key"]: entry["value"] for entry in self.read("/jobmanager/config")}

    def read(self, path: str, **parameters: str | int) -> Any:
        """Return the answer of ``GET path`` of the REST API."""
        return self._answer("GET", path, params=parameters or None)

    def state(self, job: str) -> str:
        """Ask for the state of a job: CREATED, RUNNING, RESTARTING, FINISHED, FAILED and more."""
        return str(self._call("GET", f"/jobs/{job}")["state"])

    def failure(self, job: str) -> str:
        """Return the reason of a job's last failure, or an empty text."""
        history = self._call("GET", f"/jobs/{job}/exceptions").get("exceptionHistory", {})
        entries = history.get("entries", [])
        return shortened(entries[0].get("stacktrace", "")) if entries else ""

    def cancel(self, job: str) -> None:
        """Cancel a job; its state is lost."""
        self._call("PATCH", f"/jobs/{job}", params={"mode": "cancel"})

    def stop(self, job: str, folder: str | None = None, *, timeout: float = 600.0) -> str:
        """Stop a job; return the path of its savepoint, which :meth:`run` can restore.

        The savepoint is made in `folder`, by default the cluster's.

        Raises:
            FlinkError: if no savepoint was made within `timeout` seconds.
        """
        body = {} if folder is None else {"targetDirectory": folder}
        request = self._call("POST", f"/jobs/{job}/stop", json=body)["request-id"]
        until = time.monotonic() + timeout
        while True:
            answer = self._call("GET", f"/jobs/{job}/savepoints/{request}")
            operation = answer.get("operation") or {}
            if operation.get("location"):
                return str(operation["location"])
            if operation.get("failure-cause"):
                reason = operation["failure-cause"].get("stack-trace", "")
                raise FlinkError(f"no savepoint of job {job}: {shortened(reason)}")
            if time.monotonic() > until:
                raise FlinkError(f"no savepoint of job {job} after {timeout:.0f} s")
            time.sleep(0.2)

    def wait(
        self,
        job: str,
        *,
        timeout: float | None = None,
        on_state: Callable[[str], None] | None = None,
    ) -> str:
        """Wait until a job has ended, and return its final state.

        `on_state` is called with each new state, and the reason of a restart.

        Raises:
            FlinkError: if it has not ended within `timeout` seconds, or failed.
        """
        until = None if timeout is None else time.monotonic() + timeout
        before = ""
        while True:
            state = self.state(job)
            if state != before and on_state is not None:
                reason = self.failure(job) if state == "RESTARTING" else ""
                on_state(f"{state}: {reason}" if reason else state)
            before = state
            if state == "FAILED":
                raise FlinkError(f"job {job} failed: {self.failure(job)}")
            if state in ENDED:
                return state
            if until is not None and time.monotonic() > until:
                raise FlinkError(f"job {job} has not ended after {timeout:.0f} s: it is {state}")
            time.sleep(0.2)


class SqlGateway(_Http):
    """A SQL Gateway's REST address."""

    def run(
        self,
        script: FlinkScript,
        *,
        jar: str | None = None,
        timeout: float = 600.0,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> str:
        """Run the statements of `script` in a session; return the id of the job they start.

        `jar` is the path of our jar at the gateway, unless it is loaded already; `timeout` the
        longest wait for a statement, seconds. `on_progress` is called with the numbers of executed
        and of all statements.

        Raises:
            FlinkError: names the statement that was refused, with the reason.
        """
        loading = () if jar is None else (f"ADD JAR {literal(jar)}",)
        statements = (*loading, *script.statements)
        session = self._call("POST", "/v1/sessions", json={})["sessionHandle"]
        job: str | None = None
        try:
            for number, statement in enumerate(statements):
                job = self._execute(session, statement, timeout) or job
                if on_progress is not None:
                    on_progress(number + 1, len(statements))
        finally:
            self._call("DELETE", f"/v1/sessions/{session}")
        if job is None:
            raise FlinkError("the gateway executed all statements and started no job")
        return job

    def _execute(self, session: str, statement: str, timeout: float) -> str | None:
        """Execute one statement; return the id of the job that it started, or None."""
        path = f"/v1/sessions/{session}"
        answer = self._call("POST", f"{path}/statements", json={"statement": statement})
        operation = f"{path}/operations/{answer['operationHandle']}"
        until = time.monotonic() + timeout
        while (status := self._call("GET", f"{operation}/status")["status"]) not in _GATEWAY_ENDED:
            if time.monotonic() > until:
                raise FlinkError(f"no end of a statement after {timeout:.0f} s: {_head(statement)}")
            time.sleep(0.1)
        try:
            result = self._call("GET", f"{operation}/result/0")
        except FlinkRefusedError as error:
            raise FlinkRefusedError(f"the gateway refused {_head(statement)}: {error}") from error
        if status != "FINISHED":
            raise FlinkError(f"the gateway ended {_head(statement)}: it is {status}")
        return result.get("jobID")


def _program(script: str) -> dict[str, Any]:
    code = base64.b64encode(script.encode()).decode()
    return {"entryClass": RUNNER_CLASS, "programArgsList": ["run", code]}


def _head(statement: str) -> str:
    return repr(" ".join(statement.split())[:80])


def _reason(body: Any) -> str:
    """Return the last causes in an error of Flink."""
    errors = body.get("errors", []) if isinstance(body, dict) else []
    return shortened("\n".join(str(error) for error in errors)) or "no reason given"


def shortened(trace: str) -> str:
    """Return the last causes of a stack trace of Flink in one line."""
    causes = [line for line in trace.splitlines() if line and not line.startswith(("\t", " "))]
    lines = [line for line in causes if line.startswith("Caused by:")] or causes
    return " | ".join(lines[-3:])[:_LONGEST_REASON]


def build_runner(flink_home: Path, *, sources: Path = _SOURCES) -> Path:
    """Compile the runner, unless these sources were compiled before; return the jar.

    `flink_home` has Flink's jars in ``lib/``, as ``scripts/flink fetch`` makes it; the jar is
    stored there.

    Raises:
        FlinkError: if there are no sources, no Flink or no JDK, or they do not compile.
    """
    files = sorted(sources.rglob("*.java"))
    if not files:
        raise FlinkError(
            f"{sources}: no Java sources: the runner is built in a checkout of the repository; "
            "elsewhere name a jar that was built there"
        )
    if not any((flink_home / "lib").glob("flink-dist-*.jar")):
        raise FlinkError(f"{flink_home}: no Flink in lib/: scripts/flink fetch puts it there")
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.relative_to(sources)}\0".encode() + file.read_bytes() + b"\0")
    jar = flink_home / f"tactful-flink-{digest.hexdigest()[:16]}.jar"
    if jar.exists():
        return jar
    javac = shutil.which("javac")
    if javac is None:
        raise FlinkError("no javac on PATH: install a JDK 17 or 21 to build the runner")
    with tempfile.TemporaryDirectory(dir=flink_home) as folder:
        classes, built = Path(folder, "classes"), Path(folder, "built.jar")
        compiled = subprocess.run(
            [javac, "--release", "17", "-cp", str(flink_home / "lib" / "*"), "-d", str(classes)]
            + [str(file) for file in files],
            capture_output=True,
            text=True,
            check=False,
        )
        if compiled.returncode:
            raise FlinkError(f"the runner does not compile:\n{compiled.stderr.strip()}")
        _write_jar(classes, built)
        replace_file(jar, built.read_bytes())
    return jar


def _write_jar(classes: Path, jar: Path) -> None:
    manifest = f"Manifest-Version: 1.0\r\nMain-Class: {RUNNER_CLASS}\r\n\r\n"
    with zipfile.ZipFile(jar, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("META-INF/MANIFEST.MF", manifest)
        for file in sorted(classes.rglob("*.class")):
            archive.write(file, file.relative_to(classes).as_posix())
