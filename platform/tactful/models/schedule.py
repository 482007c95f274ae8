"""Training again, by the clock or by drift: when it is due, and the process that does it.

The server only starts ``tactful train --if-due`` now and then, as a process of its own with the
server's settings, so that it neither imports MLflow nor competes for its interpreter. What is due
is decided there, from the audit log of models and the lists in the log; a cron job may do likewise.
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
    now: int,
    last: ModelChange | None,
    champion: str | None,
    drift: Callable[[], Drift | None],
    erased_at: int = 0,
    kept_ms: int = 0,
) -> str | None:
    """Whether it is time to train again, and why.

    Args:
        training: what makes it due.
        now: epoch milliseconds.
        last: the latest training of the model, however it ended.
        champion: the version that serves.
        drift: measures the drift of the champion; it may take a while.
        erased_at: when somebody was erased last, epoch milliseconds; 0 for never.
        kept_ms: how long what models learn from is kept, milliseconds; 0 for ever.

    Returns:
        The reason in words; None where it is not time.
    """
    if last is not None and last.state == "begun":
        return "the last training was killed"
    since = None if last is None else now - last.begun_at
    if since is not None and last is not None and last.state == "failed" and since < _HOUR:
        return None
    if training.every_hours:
        if since is None:
            return "no model was trained yet"
        if since >= training.every_hours * _HOUR:
            return f"{training.every_hours:g} hours have passed since the last training"
    if last is not None and erased_at >= last.begun_at:
        return "somebody was erased since the last training"
    if kept_ms and since is not None and since >= kept_ms:
        return "the last training learned from what is not kept any more"
    # A version that waits to be promoted would not be another one if it were trained again.
    if training.drift_psi and champion and (last is None or last.version in ("", champion)):
        found = drift()
        if found is not None and found.largest[1] > training.drift_psi:
            name, moved = found.largest
            return f"drift: {name} has moved by {moved:.2f}"
    return None


def after_erasure(training: TrainingSettings) -> str:
    """What is promised of models to somebody who was erased, for their receipt."""
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
    """Ask now and then, in a process of its own, whether it is time, and let it train.

    Args:
        settings: of the server.
        python: the interpreter to start.
    """
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
            code, said = await run_command(command, {**os.environ, **environment(settings)})
        except OSError as error:
            logger.error("training could not be started: %s", error)
            continue
        if code:
            logger.error("training failed with exit code %d: %s", code, said)


async def run_command(command: list[str], environ: Mapping[str, str]) -> tuple[int, str]:
    """Exit code and last line of what it said is wrong; it is ended with us."""
    process = await asyncio.create_subprocess_exec(
        *command,
        env=dict(environ),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        with contextlib.suppress(ProcessLookupError):  # it ended at once
            ours = os.getpriority(os.PRIO_PROCESS, 0)
            os.setpriority(os.PRIO_PROCESS, process.pid, max(ours, _NICENESS))
        _, said = await process.communicate()
    except asyncio.CancelledError:
        # It goes on where it was when the server is there again.
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(process.wait(), _STOP_S)
        raise
    lines = said.decode("utf-8", "replace").strip().splitlines()
    return process.returncode or 0, lines[-1] if lines else ""


def environment(settings: Settings) -> dict[str, str]:
    """All settings as environment variables, which win over any file that is found.

    Secrets are not among them: settings only say where these are.
    """
    found = {}
    for section in dataclasses.fields(settings):
        held = getattr(settings, section.name)
        for field in dataclasses.fields(held):
            value: Any = getattr(held, field.name)
            text = str(value).lower() if isinstance(value, bool) else str(value)
            if isinstance(value, Path) and value != Path():  # which stands for none
                text = str(value.absolute())
            found[f"TACTFUL_{section.name}__{field.name}".upper()] = text
    return found
