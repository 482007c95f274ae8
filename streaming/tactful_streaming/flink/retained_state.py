"""State that a job left behind: retained checkpoints and savepoints, found again by the job's name.

A job's id is derived from its name and its definitions, and a checkpoint's path contains the id. A
cluster that has lost its memory together with its JobManager therefore still shows, by the folders
of its checkpoints alone, which state belongs to which job and whether the definitions are the same.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import msgspec

from tactful_streaming.errors import FlinkRefusedError
from tactful_streaming.flink.options import FlinkScript
from tactful_streaming.flink.rest_client import FlinkCluster

CHECKPOINT_DIR: Final = "execution.checkpointing.dir"
"""Setting of a cluster: folder of checkpoints."""

SAVEPOINT_DIR: Final = "execution.checkpointing.savepoint-dir"
"""Setting of a cluster: folder of savepoints."""

_NAME, _DEFINITIONS, _TIME = 12, 10, 10  # hexadecimal digits of an id, 32 together
_METADATA = "_metadata"
_ENTITIES = "ENTITIES "
_SURVIVED = frozenset({"servers", "kafka", "group", "publish_ms", "look_ms"})


@dataclass(frozen=True)
class RetainedState:
    """A checkpoint or savepoint that a job can be started from."""

    path: str
    made_at: int  # epoch milliseconds
    job: str  # id of the job that made it


def fingerprint(script: FlinkScript) -> str:
    """Return a digest of all in a script that decides its state.

    Settings of the execution and addresses of brokers are left out: state survives their change.
    """
    digest = hashlib.sha256()
    for statement in script.statements:
        if statement.startswith("SET "):
            continue
        if statement.startswith(_ENTITIES):
            lines = [_kept_layout(statement)]
        else:
            lines = [line for line in statement.splitlines() if "'properties." not in line]
        digest.update("\n".join(lines).encode() + b"\0")
    return digest.hexdigest()[:_DEFINITIONS]


def _kept_layout(statement: str) -> str:
    """Return the layout of a job that publishes entities, without what state survives."""
    text = statement.removeprefix(_ENTITIES).strip("'").replace("''", "'")
    layout = msgspec.json.decode(text, type=dict[str, Any])
    kept = {key: value for key, value in layout.items() if key not in _SURVIVED}
    return msgspec.json.encode(kept, order="deterministic").decode()


def make_job_id(name: str, definitions: str, now_s: int) -> str:
    """Return an id for a job of this name and :func:`fingerprint`, started at this time.

    >>> make_job_id("tactful", "0123456789", 1_700_000_000)
    'ded4b3a36b350123456789006553f100'
    """
    return f"{_prefix(name)}{definitions}{now_s:0{_TIME}x}"


def is_of(job: str, name: str, definitions: str) -> bool:
    """Whether a job's id was made for this name and these definitions."""
    return job.startswith(f"{_prefix(name)}{definitions}")


def retained_states(cluster: FlinkCluster, name: str) -> list[RetainedState]:
    """Find the state that ended jobs of this name have left, newest first.

    The cluster names the state of jobs that it remembers. Those of forgotten jobs are found in its
    folders, where these are on this machine or mounted at the same path.
    """
    found = {state.path: state for state in (*_remembered(cluster, name), *_stored(cluster, name))}
    return sorted(found.values(), key=lambda state: (state.made_at, state.path), reverse=True)


def _prefix(name: str) -> str:
    return hashlib.sha256(name.encode()).hexdigest()[:_NAME]


def _remembered(cluster: FlinkCluster, name: str) -> Iterator[RetainedState]:
    for job in cluster.jobs():
        if job.name != name or not job.ended:
            continue
        try:
            latest = cluster.read(f"/jobs/{job.id}/checkpoints").get("latest") or {}
        except FlinkRefusedError:  # of a job without checkpoints, or removed meanwhile
            continue
        for kind in ("completed", "savepoint"):
            checkpoint: dict[str, Any] = latest.get(kind) or {}
            path = checkpoint.get("external_path")
            if path and not checkpoint.get("discarded") and _exists(path):
                yield RetainedState(path, int(checkpoint["latest_ack_timestamp"]), job.id)


def _stored(cluster: FlinkCluster, name: str) -> Iterator[RetainedState]:
    settings = cluster.settings()
    folders = (settings.get(key, "") for key in (CHECKPOINT_DIR, SAVEPOINT_DIR))
    for folder in _local(folders):
        for metadata in folder.glob(f"{_prefix(name)}*/*/{_METADATA}"):
            made_at = int(metadata.stat().st_mtime * 1000)
            yield RetainedState(f"file:{metadata.parent}", made_at, metadata.parts[-3])


def _local(folders: Iterable[str]) -> Iterator[Path]:
    """Yield those of a cluster's folders that this machine has."""
    for folder in folders:
        if (path := local_path(folder)) is not None and path.is_dir():
            yield path


def local_path(folder: str) -> Path | None:
    """Return the path of a ``file:`` address or plain path; None for other file systems.

    >>> local_path("file:///var/flink"), local_path("s3://bucket/flink")
    (PosixPath('/var/flink'), None)
    """
    address = urlsplit(folder)
    if address.scheme not in ("", "file") or not address.path.startswith("/"):
        return None
    return Path(unquote(address.path))


def _exists(path: str) -> bool:
    """Whether a path that a cluster names is there; also if this machine cannot know."""
    local = local_path(path)
    if local is None or not local.parent.parent.is_dir():
        return True
    return (local / _METADATA).is_file()
