"""Verification of erasures: search every file of an installation for ids of users.

The files are those of the data directory and, if they lie elsewhere on this host, models, reports,
and MLflow's store with the artifacts of runs.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from urllib.parse import unquote, urlsplit

from tactful.config.settings import Settings
from tactful.erasure.survivors import STORES, ids_of_others, short_ids_left, texts_left
from tactful.metadata.scratch import SCRATCH, remove_abandoned_copy
from tactful.schemas.users import ErasureStep
from tactful.subjects.trace_search import SearchResult, needles_of
from tactful.util.multi_substring import SHORTEST, MultiSubstring
from tactful_streaming.state.store import open_beside

VERIFICATION = "verification"
"""Place of the verification in a receipt."""

WORK = "erasures"
"""Folder in the data directory for the search results of jobs."""

_SQLITE = "sqlite:///"


def still_there(settings: Settings, results: Sequence[SearchResult]) -> list[str]:
    """List the files and stores in which an id occurs, also in compressed values, or an own text.

    Short ids and texts are those of `tactful.erasure.survivors`. Paths in the data directory are
    relative to it.
    """
    if not results:
        return []
    ids = {name for result in results for name in result.ids}
    data = settings.storage.data
    remove_abandoned_copy(data)
    files = [path for path in sorted(data.rglob("*")) if _is_ours(settings, path)]
    # A backup that is being sent is a copy elsewhere, as soon as it is complete.
    files = [path for path in files if SCRATCH not in path.relative_to(data).parts[:1]]
    # The metadata and the search results of jobs hold the ids until the end.
    files = [path for path in files if "metadata" not in path.name and path.parent.name != WORK]
    names = _prepared(ids)
    hits, shared = _found(data, files, names), set[str]()
    if any(Path(hit).parts[0] in STORES for hit in hits):
        shared = ids_of_others(settings, results)
    if shared:
        stored = [path for path in files if path.relative_to(data).parts[0] in STORES]
        hits = {hit for hit in hits if Path(hit).parts[0] not in STORES}
        hits |= _found(data, stored, _prepared(ids - shared))
    elsewhere = [
        path for place in places_elsewhere(settings) for path in [place, *place.rglob("*")]
    ]
    hits |= {str(path) for path in elsewhere if path.is_file() and _occurs_in(names, path)}
    hits |= short_ids_left(settings, results, shared)
    return sorted(hits | texts_left(settings, results, [*files, *elsewhere]))


def _prepared(ids: Iterable[str]) -> MultiSubstring:
    return MultiSubstring(needle for needle in needles_of(ids) if len(needle) >= SHORTEST)


def _found(data: Path, files: Sequence[Path], names: MultiSubstring) -> set[str]:
    """Return the files, and the directories of state stores, in which a name occurs."""
    hits = {
        str(path.relative_to(data)) for path in files if path.is_file() and _occurs_in(names, path)
    }
    for path in (path for path in files if path.name == "CURRENT"):
        with contextlib.closing(open_beside(path.parent)) as store:
            if names.occur_in_pairs(store.scan(b""), whole=True):
                hits.add(str(path.parent.relative_to(data)))
    return hits


def places_elsewhere(
    settings: Settings, environ: Mapping[str, str] = os.environ
) -> tuple[Path, ...]:
    """List the files and directories of an installation outside the data directory.

    Environment variables name MLflow's store.
    """
    places = [settings.models, settings.storage.reports]
    tracking = environ.get("MLFLOW_TRACKING_URI") or f"{_SQLITE}mlflow.db"
    if tracking.startswith(_SQLITE):
        database = Path(unquote(urlsplit(tracking).path[1:]))
        places += [database, database.with_name(f"{database.name}-wal"), *_artefacts_of(database)]
    elif (local := _local(tracking)) is not None:
        places.append(local)
    data = settings.storage.data.absolute()
    paths = dict.fromkeys(place.absolute() for place in places)
    return tuple(path for path in paths if not path.is_relative_to(data))


def verified(result: SearchResult, hits: Sequence[str]) -> ErasureStep:
    """Describe the result of a verification as a step of the receipt."""
    short = sum(len(name.encode()) < SHORTEST for name in result.ids)
    note = (
        f"{len(result.ids) - short} ids were searched for in every file of the data directory, of "
        f"the models and of MLflow on this host, and {len(result.texts)} texts that others may have"
    )
    if short:
        note += f", {short} shorter ids in every store of users"
    inside = [hit for hit in hits if not Path(hit).is_absolute()]
    outside = [hit for hit in hits if Path(hit).is_absolute()]
    if inside:
        note += f"; still there in: {', '.join(inside)}: erase with --rebuild"
    if outside:
        note += (
            f"; still there in: {', '.join(outside)}: train without them, and remove old versions "
            "(tactful expire --models) or these files"
        )
    return ErasureStep(place=VERIFICATION, removed=len(hits), note=note)


def _artefacts_of(database: Path) -> Iterator[Path]:
    """Yield the local directories of artifacts in MLflow's store."""
    if not database.is_file():
        return
    with contextlib.closing(
        sqlite3.connect(f"{database.absolute().as_uri()}?mode=ro", uri=True)
    ) as store:
        try:
            rows = store.execute("SELECT artifact_location FROM experiments").fetchall()
        except sqlite3.OperationalError:  # not a store of MLflow, or an empty one
            rows = []
    for (location,) in rows:
        if (local := _local(location or "")) is not None:
            yield local


def _local(uri: str) -> Path | None:
    """Return the path of a URI of a local directory; None for other URIs."""
    parts = urlsplit(uri)
    if parts.scheme not in ("", "file") or not parts.path:
        return None
    return Path(unquote(parts.path) if parts.scheme else uri)


def _occurs_in(names: MultiSubstring, path: Path) -> bool:
    try:
        return names.occur_in_file(path, whole=_is_delimited(path))
    except FileNotFoundError:  # compaction has moved its content to another file, which is read
        return False


def _is_delimited(path: Path) -> bool:
    """Return whether a file separates ids, as logs, state stores and JSON do."""
    return (
        ".log" in path.suffixes
        or path.suffix in (".json", ".jsonl")
        or (path.parent / "CURRENT").exists()
    )


def _is_ours(settings: Settings, path: Path) -> bool:
    """Return whether no worker on this host owns a file; workers purge their own."""
    workers = (settings.storage.data / "partitions", settings.worker.checkpoints)
    return not any(path.is_relative_to(folder) for folder in workers if folder != Path())
