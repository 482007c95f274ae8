"""Starts, resumes and upgrades a job so that one of its name runs, with state that fits.

Our jobs name an operator by what it computes, and from what: after a change of one definition the
operators of others find their state again. Flink would name them by the shape of a plan, and after
a change from a window of two minutes to one of three continue the sums of two. An upgrade compares
the plans first, so that state is neither lost nor given to another operator unasked.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from tactful_streaming.errors import FlinkError, FlinkRefusedError
from tactful_streaming.flink.options import FlinkScript
from tactful_streaming.flink.rest_client import FlinkCluster, FoundJob, shortened
from tactful_streaming.flink.retained_state import (
    CHECKPOINT_DIR,
    SAVEPOINT_DIR,
    RetainedState,
    fingerprint,
    is_of,
    make_job_id,
    retained_states,
)

_START_S: Final = 120.0
_MISFIT: Final = re.compile(
    r"Cannot map checkpoint/savepoint state|There is no operator for the state|StateMigration"
    r"|must not be incompatible|cannot be restored|Failed to rollback to checkpoint"
)
_NUMBER: Final = re.compile(r"\[\d+\]")  # `Calc[17]`
_CHAINED: Final = re.compile(r"<br/>.*", re.DOTALL)  # operators behind the one with the state
_SHOWN: Final = 160


@dataclass(frozen=True)
class Program:
    """A compiled job to run."""

    name: str
    script: FlinkScript
    parallelism: int = 0  # 0: the default of script and cluster


@dataclass(frozen=True)
class Started:
    """A started job, and the state that it began with; None if it began empty."""

    job: str
    restored: str | None = None


@dataclass(frozen=True)
class PlanChange:
    """Operators with state before and after a change of definitions, by their description."""

    kept: tuple[str, ...]  # described as before
    changed: tuple[str, ...]  # would take the state of another definition
    dropped: tuple[str, ...]  # their state has no operator any more
    added: tuple[str, ...]  # begin empty


def active_jobs(cluster: FlinkCluster, name: str) -> list[FoundJob]:
    """Return the jobs of this name that have not ended, newest first."""
    return [job for job in cluster.jobs() if job.name == name and not job.ended]


def submit_job(
    cluster: FlinkCluster,
    jar: str,
    program: Program,
    *,
    resume: bool = True,
    savepoint: str | None = None,
    clock: Callable[[], float] = time.time,
) -> Started:
    """Start a job, from `savepoint` or else from the newest state that a job of its name has left.

    Args:
        cluster: cluster to run on.
        jar: id of the uploaded jar.
        program: job to run.
        resume: whether retained state is looked for, without `savepoint`.
        savepoint: path of the state to restore.
        clock: returns seconds since the epoch, for the id of the job.

    Raises:
        FlinkRefusedError: if a job of this name runs already, or state does not fit; the message
            says what to do.
    """
    _refuse_second(active_jobs(cluster, program.name), program.name)
    state = savepoint
    if state is None and resume:
        newest = next(iter(retained_states(cluster, program.name)), None)
        state = None if newest is None else _checked(newest, program)
    job = _run(cluster, jar, program, state, claim=savepoint is None, clock=clock)
    rivals = [it for it in active_jobs(cluster, program.name) if it.id != job]
    if older := [it for it in rivals if (it.started_at, it.id) < _started(cluster, job)]:
        cluster.cancel(job)
        _refuse_second(older, program.name)
    if state is not None:
        _await_start(cluster, job, state)
    return Started(job, state)


def upgrade_job(
    cluster: FlinkCluster,
    jar: str,
    program: Program,
    *,
    allow_dropped: bool = False,
    from_start: bool = False,
    folder: str | None = None,
    clock: Callable[[], float] = time.time,
    progress: Callable[[str], None] = lambda _: None,
) -> Started:
    """Stop the job of this name with a savepoint and start `program` from it.

    Args:
        cluster: cluster to run on.
        jar: id of the uploaded jar.
        program: the job with its new definitions.
        allow_dropped: whether state may be dropped that no operator takes any more.
        from_start: whether the new job begins empty, at the beginning of the log.
        folder: folder of the savepoint, by default the cluster's.
        clock: returns seconds since the epoch.
        progress: is called with a line for each step.

    Raises:
        FlinkRefusedError: if no job runs or its state does not fit; the old job runs on, or the
            message names its savepoint.
    """
    running = active_jobs(cluster, program.name)
    if len(running) != 1:
        raise FlinkRefusedError(
            f"{len(running)} jobs {program.name} run: an upgrade needs exactly one; "
            + ("end the others with `tactful flink stop --job`" if running else _SUBMIT)
        )
    (old,) = running
    if not from_start:
        change = _change(cluster, old.id, jar, program)
        _check_change(change, allow_dropped=allow_dropped)
        if change.added:
            progress("what is new begins empty: its windows are incomplete for their length")
    savepoint = stop_job(cluster, old.id, folder)
    progress(f"job {old.id} is stopped; its state is in {savepoint}")
    state = None if from_start else savepoint
    try:
        job = _run(cluster, jar, program, state, allow_dropped=allow_dropped, clock=clock)
        if state is not None:
            _await_start(cluster, job, state)
    except FlinkError as error:
        raise FlinkRefusedError(
            f"{error}. No job runs now: submit the earlier definitions with "
            f"`--savepoint {savepoint}` to go back"
        ) from error
    return Started(job, state)


def stop_job(cluster: FlinkCluster, job: str, folder: str | None = None) -> str:
    """Stop a job, whose folder of savepoints has its id; return the path of its savepoint."""
    if folder is None:
        settings = cluster.settings()
        folder = settings.get(SAVEPOINT_DIR, "")
        if not folder:
            raise FlinkRefusedError(
                f"the cluster has no folder for savepoints: set {SAVEPOINT_DIR} in its "
                f"config.yaml, beside {CHECKPOINT_DIR}, or give one with --savepoint-dir"
            )
    savepoint = cluster.stop(job, f"{folder.rstrip('/')}/{job}")
    cluster.wait(job, timeout=_START_S)
    return savepoint


def compare_plans(
    old: Mapping[str, str], new: Mapping[str, str], stateful: Iterable[str]
) -> PlanChange:
    """Compare two plans, descriptions by id of an operator; only those with state count.

    A source keeps its offsets whatever is done with the records.
    """
    stateful = set(stateful) & set(old)
    same = {key for key in stateful & set(new) if old[key] == new[key] or _is_source(old[key])}
    return PlanChange(
        kept=tuple(sorted(old[key] for key in same)),
        changed=tuple(sorted(new[key] for key in (stateful & set(new)) - same)),
        dropped=tuple(sorted(old[key] for key in stateful - set(new))),
        added=tuple(sorted(new[key] for key in set(new) - set(old))),
    )


def described(plan: Mapping[str, Any]) -> dict[str, str]:
    """Return the description of each operator of a plan by its id, without numbers.

    An operator that has its state by key begins a chain. Those behind it, such as projections for
    other definitions, come and go.
    """
    return {
        str(it["id"]): _NUMBER.sub("", _CHAINED.sub("", str(it["description"])))
        for it in plan["nodes"]
    }


_SUBMIT: Final = "start it with `tactful flink submit`"


def _refuse_second(running: list[FoundJob], name: str) -> None:
    if running:
        raise FlinkRefusedError(
            f"job {name} is {running[0].state} on this cluster already ({running[0].id}), and two "
            "would write the same topics: `tactful flink upgrade` replaces it and keeps its "
            "state, `tactful flink stop` ends it, and another --name starts a job beside it, "
            "with topics and a group of its own"
        )


def _checked(state: RetainedState, program: Program) -> str:
    if is_of(state.job, program.name, fingerprint(program.script)):
        return state.path
    raise FlinkRefusedError(
        f"the newest state of job {program.name} is {state.path}, and it was made by other "
        "definitions, topics or options: submit those, then `tactful flink upgrade`; or "
        "`--no-resume` computes everything again from the beginning of the log"
    )


def _run(
    cluster: FlinkCluster,
    jar: str,
    program: Program,
    state: str | None,
    *,
    claim: bool = False,
    allow_dropped: bool = False,
    clock: Callable[[], float],
) -> str:
    try:
        return cluster.run(
            jar,
            program.script.text,
            parallelism=program.parallelism,
            savepoint=state,
            job_id=make_job_id(program.name, fingerprint(program.script), int(clock())),
            claim=claim,
            allow_dropped=allow_dropped,
        )
    except FlinkRefusedError as error:
        if state is not None and _MISFIT.search(str(error)):
            raise _misfit(state, str(error)) from error
        raise


def _started(cluster: FlinkCluster, job: str) -> tuple[int, str]:
    return next(((it.started_at, it.id) for it in cluster.jobs() if it.id == job), (0, job))


def _await_start(cluster: FlinkCluster, job: str, state: str, timeout: float = _START_S) -> None:
    """Wait until all tasks have read their state; cancel the job if it does not fit."""
    until = time.monotonic() + timeout
    while time.monotonic() < until:
        detail = cluster.read(f"/jobs/{job}")
        reason = cluster.failure(job)
        if _MISFIT.search(reason) or detail["state"] == "FAILED":
            if detail["state"] != "FAILED":
                cluster.cancel(job)
            raise _misfit(state, reason)
        statuses = {vertex["status"] for vertex in detail["vertices"]}
        if detail["state"] == "RUNNING" and statuses == {"RUNNING"}:
            return
        time.sleep(0.2)


def _misfit(state: str, reason: str) -> FlinkRefusedError:
    return FlinkRefusedError(
        f"the state {state} does not fit these definitions: {shortened(reason)[:400]}. "
        "`--from-start` of an upgrade, or `--no-resume` of a submit, computes everything again "
        "from the beginning of the log"
    )


def _change(cluster: FlinkCluster, job: str, jar: str, program: Program) -> PlanChange:
    old = described(cluster.plan(job))
    new = described(cluster.plan_of(jar, program.script.text))
    return compare_plans(old, new, _stateful(cluster, job, old))


def _stateful(cluster: FlinkCluster, job: str, operators: Iterable[str]) -> set[str]:
    """Return the operators that had state in the last checkpoint; without one, all."""
    latest = (cluster.read(f"/jobs/{job}/checkpoints").get("latest") or {}).get("completed")
    if not latest:
        return set(operators)
    tasks = cluster.read(f"/jobs/{job}/checkpoints/details/{latest['id']}").get("tasks", {})
    return {key for key in operators if tasks.get(key, {}).get("state_size", 1) > 0}


def _check_change(change: PlanChange, *, allow_dropped: bool) -> None:
    counts = f"{len(change.kept)} operators keep their state"
    if change.changed:
        raise FlinkRefusedError(
            f"{counts}, but {len(change.changed)} would continue that of another definition, "
            f"first {_head(change.changed[0])}: `--from-start` computes everything again from the "
            "beginning of the log. The job runs on"
        )
    if change.dropped and not allow_dropped:
        raise FlinkRefusedError(
            f"{counts}, {len(change.dropped)} would lose it and {len(change.added)} would begin "
            f"empty, first {_head(change.dropped[0])}: `--from-start` computes everything again "
            "from the beginning of the log, `--allow-dropped-state` goes on from here, and windows "
            "are incomplete for their length. The job runs on"
        )


def _is_source(description: str) -> bool:
    return description.lstrip(":").startswith(("TableSourceScan", "Source:"))


def _head(description: str) -> str:
    return repr(description.lstrip(":")[:_SHOWN])
