"""Scheduled training: the rule that it is due by time or drift, and the process that runs it.

The server starts `tactful train --if-due` at intervals, as a process of its own with the server's
settings, so that it neither imports MLflow nor competes for the interpreter. The process decides
from the audit log of models and the lists in the log; a cron job may do likewise.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tactful.config.recommendation import TrainingSettings
from tactful.config.settings import Settings
from tactful.models.audit_log import ModelChange
from tactful.models.drift import Drift

logger = logging.getLogger(__name__)

_HOUR = 3_600_000
_STOP_S = 10.0
_NICENESS = 10


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


async def retrain(settings: Settings, *, python: str = sys.executable) -> None:
    """Start the training process at intervals; it trains if a training is due."""
    training = settings.training
    command = [
        *(python, "-m", "tactful", "train", "--if-due", "--json", "--by", "tactful serve"),
        *("--name", training.name, "--label-days", str(training.label_days)),
        *("--lists", str(training.lists)),
        *("--vectors", training.vectors),
        *(("--promote", "--if-better") if training.promote else ()),
    ]
    while True:
        await asyncio.sleep(training.check_minutes * 60)
        try:
            code, message = await run_command(command, {**os.environ, **environment(settings)})
        except OSError as error:
            logger.error("training could not be started: %s", error)
            continue
        if code:
            logger.error("training failed with exit code %d: %s", code, message)


async def run_command(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Run a command, and return its exit code and the last line of its stderr.

    It ends with this process.
    """
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with contextlib.suppress(ProcessLookupError):  # it ended at once
            own = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, max(own, _NICENESS))
        _, errors = await process.communicate()
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
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if isinstance(value, Path) and value != Path():  # which stands for none
                text = str(value.absolute())
            variables[f"TACTFUL_{section.name}__{field.name}".upper()] = text
    return variables
