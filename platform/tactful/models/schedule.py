"""Scheduled training: the rule that it is due by time or drift, and the process that runs it.

Drift is the change of feature values and scores since a model began to serve. The server starts
`tactful train --if-due` at intervals, as a process of its own with the server's settings, so that
it neither imports MLflow nor competes for the interpreter. The process decides from the audit log
of models and the lists in the log; a cron job may do likewise.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import os
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from tactful.config.recommendation import TrainingSettings
from tactful.config.settings import Settings
from tactful.config.tenants import model_store
from tactful.event_log.impressions import Impression, read_impressions
from tactful.metadata.lease import Lease
from tactful.models.audit_log import FENCE, ModelChange
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import read_pointer, untrained_recall
from tactful_streaming.log.event_log import EventLog

logger = logging.getLogger(__name__)

T = TypeVar("T")

SCORE = "score"  # name of the drift of the scores
LATEST = 2_000_000  # number of the newest records of the log that are read by default

_BINS = 10
_FLOOR = 1e-4
_HOUR = 3_600_000
_STOP_S = 10.0
_LOOK_S = 1.0
_NICENESS = 10
_SHARE = 0.05  # of the time that learning of recall may take


@dataclass(frozen=True)
class Drift:
    """Change of values."""

    by_name: Mapping[str, float]  # index of the score and of each feature, largest first

    @property
    def largest(self) -> tuple[str, float]:
        """Name and index of the largest change."""
        return next(iter(self.by_name.items()))


def measure_drift(
    log: EventLog,
    version: str,
    layout: str,
    *,
    names: Sequence[str] = RANKING_FEATURES,  # columns of the features
    lists: int = 500,
    latest: int = LATEST,
) -> Drift | None:
    """Compare the first lists of a model version with as many of its latest.

    The rows of its training are no reference: they hold candidates that are never shown, and differ
    from every list from the beginning. Read are the `latest` newest records of the log. It returns
    None while there are fewer than twice `lists` lists.
    """
    first: list[Impression] = []
    last: deque[Impression] = deque(maxlen=lists)
    for shown in read_impressions(log, latest=latest):
        if shown.version != version or shown.layout != layout or shown.features is None:
            continue
        if shown.forced or shown.features.shape[1] != len(names):
            continue
        if len(first) < lists:
            first.append(shown)
        else:
            last.append(shown)
    if len(last) < lists:
        return None
    before, now = _columns(first), _columns(last)
    indexes = {
        name: population_stability(before[:, column], now[:, column])
        for column, name in enumerate((*names, SCORE))
    }
    return Drift(dict(sorted(indexes.items(), key=lambda pair: -pair[1])))


def population_stability(before: NDArray[np.float32], now: NDArray[np.float32]) -> float:
    """Compute the population stability index of two samples, NaN for missing values.

    The sum over ten parts of `(q - p) * ln(q / p)`, where p and q are the shares of the values
    before and now in each part (Siddiqi, "Credit Risk Scorecards", 2006). Parts hold a tenth of the
    values before each; missing values are a part of their own. By custom, less than 0.1 is no
    change and more than 0.25 a large one.
    """
    known = before[~np.isnan(before)]
    inner = np.linspace(0.0, 1.0, _BINS + 1)[1:-1]
    edges = np.unique(np.quantile(known, inner)) if len(known) else np.zeros(0)
    shares = []
    for values in (before, now):
        missing = np.isnan(values)
        part = np.searchsorted(edges, values[~missing], side="left")
        counts = np.append(np.bincount(part, minlength=len(edges) + 1), missing.sum())
        shares.append(np.maximum(counts / max(len(values), 1), _FLOOR))
    p, q = shares
    return float(((q - p) * np.log(q / p)).sum())


def _columns(lists: list[Impression] | deque[Impression]) -> NDArray[np.float32]:
    """Return features and score of every item, shape (items, columns + 1)."""
    parts = []
    for shown in lists:
        scores = shown.event.properties.get("scores")
        values = np.full(len(shown.items), np.nan, np.float32)
        if isinstance(scores, list) and len(scores) == len(values):
            values = np.array(scores, np.float32)
        assert shown.features is not None
        parts.append(np.column_stack([shown.features, values]))
    return np.concatenate(parts)


def why_due(
    training: TrainingSettings,
    *,
    now: int,  # epoch milliseconds
    last: ModelChange | None,  # the latest training of the model, in any state
    champion: str | None,  # the version that serves
    drift: Callable[[], Drift | None],  # measures the drift of the champion; it may take a while
    erased_at: int = 0,  # time of the latest erasure, epoch milliseconds; 0 for none
    kept_ms: int = 0,  # retention of the training data, milliseconds; 0 for no limit
) -> str | None:
    """Return the reason why a training is due; None where it is not."""
    if last is not None and last.state == "begun":
        return "the last training was killed"
    since = None if last is None else now - last.begun_at
    if last is not None and last.state == "failed" and now - last.begun_at < _HOUR:
        return None
    if training.every_hours:
        if since is None:
            return "no model was trained yet"
        if since >= training.every_hours * _HOUR:
            return f"{training.every_hours:g} hours have passed since the last training"
    if last is not None and erased_at >= last.begun_at:
        return "a user was erased since the last training"
    if kept_ms and since is not None and since >= kept_ms:
        return "the last training used data whose retention is over"
    # While a new version waits for promotion, training again would give the same model.
    if training.drift_psi and champion and (last is None or last.version in ("", champion)):
        measured = drift()
        if measured is not None and measured.largest[1] > training.drift_psi:
            name, moved = measured.largest
            return f"drift: {name} has moved by {moved:.2f}"
    return None


def after_erasure(training: TrainingSettings) -> str:
    """Return the statement about models for the receipt of an erased user."""
    if not (training.every_hours or training.drift_psi):
        return (
            "no training is scheduled (training.every_hours, training.drift_psi): train and promote"
            " a model without this person before the erasure is due"
        )
    serves = "it serves if it is no worse" if training.promote else "it serves once it is promoted"
    return (
        f"within {training.check_minutes:g} minutes of the erasure a training without this person"
        f" begins; {serves}"
    )


def training_options(training: TrainingSettings) -> tuple[str, ...]:
    """Return the options of `tactful train` for the settings."""
    return (
        *("--name", training.name, "--label-days", str(training.label_days)),
        *("--lists", str(training.lists)),
        *("--vectors", training.vectors),
        *(("--label", training.label) if training.label else ()),
    )


async def retrain(settings: Settings, lease: Lease, *, python: str = sys.executable) -> None:
    """Start the training process at intervals; it trains if a training is due.

    Only the server that holds the lease does so. A process of one that has lost it
    is ended, and one that outlives a suspended server changes no champion: it has the fence.
    """
    training = settings.training
    command = [
        *(python, "-m", "tactful", "train", "--if-due", "--json", "--by", "tactful serve"),
        *training_options(training),
        *(("--promote", "--if-better") if training.promote else ()),
    ]
    while True:
        await asyncio.sleep(training.check_minutes * 60)
        if (fence := lease.fence) is None:
            continue
        environ = {**os.environ, **environment(settings), FENCE: str(fence)}
        try:
            finished = await _while_held(lease, fence, run_command(command, environ))
            if finished is None:
                logger.warning("training was ended: another server has the lease")
                continue
            code, message = finished
        except OSError as error:
            logger.error("training could not be started: %s", error)
            continue
        if code:
            logger.error("training failed with exit code %d: %s", code, message)


async def _while_held(lease: Lease, fence: int, work: Coroutine[Any, Any, T]) -> T | None:
    """Return the result of `work`; end it and return None once the lease is lost."""
    task = asyncio.ensure_future(work)
    try:
        while not task.done():
            await asyncio.wait({task}, timeout=_LOOK_S)
            if not task.done() and lease.fence != fence:
                return None
        return task.result()
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


class RecallLearner:
    """Learns recall in a process while there is no champion and the log grows."""

    def __init__(
        self, settings: Settings, end: Callable[[], Sequence[int]], *, python: str = sys.executable
    ) -> None:
        """Learn nothing yet; `end` returns the end of the log by partition."""
        self._settings = settings
        self._end = end
        self._python = python
        self._learned: Sequence[int] = ()
        self._is_kept = False  # whether that left an index, which an erasure removes
        self._next_at = 0.0

    async def run(self) -> None:
        """Learn if the log grew or an erasure removed what was learned.

        It takes no more than a share of the time.

        Raises:
            StreamingError: if the log does not say where it ends.
            ModelError: if the pointer to the champion is damaged.
        """
        began = time.monotonic()
        champion = await asyncio.to_thread(read_pointer, self._settings.models)
        if began < self._next_at or champion is not None:
            return
        reached = await asyncio.to_thread(self._end)
        index = untrained_recall(self._settings.models) / "index.json"
        is_removed = self._is_kept and not index.exists()
        if reached == self._learned and not is_removed:
            return
        command = [self._python, "-m", "tactful", "train", "--recall-only", "--json"]
        code, message = await run_command(command, {**os.environ, **environment(self._settings)})
        if code:
            logger.warning("recall was not learned: %s", message)
        self._learned, self._is_kept = reached, index.exists()
        ended = time.monotonic()
        self._next_at = ended + (ended - began) / _SHARE


async def run_command(
    command: list[str], environ: Mapping[str, str], *, given: bytes | None = None
) -> tuple[int, str]:
    """Run a command, and return its exit code and the last line of its stderr.

    It reads `given` from its standard input, and ends with this process.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL if given is None else asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with contextlib.suppress(ProcessLookupError):  # it ended at once
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, max(own, _NICENESS))
        _, errors = await process.communicate(given)
    except asyncio.CancelledError:
        # A training is resumed when the server runs again.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        raise
    lines = errors.decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, lines[-1] if lines else ""


def environment(settings: Settings) -> dict[str, str]:
    """Return all settings as environment variables, which override any settings file.

    Secrets are not among them: settings hold only their places.
    """
    variables = {}
    for section in dataclasses.fields(settings):
        held = getattr(settings, section.name)
        for field in dataclasses.fields(held):
            value: Any = getattr(held, field.name)
            text = json.dumps(value) if isinstance(value, (bool, dict)) else str(value)
            if isinstance(value, Path) and value != Path():  # which stands for none
                text = str(value.absolute())
            variables[f"TACTFUL_{section.name}__{field.name}".upper()] = text
    return variables | (model_store(settings) if settings.tenants.name else {})
