"""Rewrites the logs of a running server without some records, segment by segment.

Only the process that writes to a log may change it. It ends the current segment; another process,
of low priority, writes the ended segments that hold such records anew, beside their place; then the
first replaces each by a rename between two appends. Readers finish with the file that they have
open.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from concurrent.futures import Executor
from pathlib import Path

from tactful.config.settings import Settings
from tactful.erasure.offline_stores import LETTERS, RecordOwner, blank_letter, blanking
from tactful.util.clock import now_ms
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.log.redaction import draft_segment


def rewrite_log(
    executor: Executor,
    settings: Settings,
    name: str,  # folder of the log in the data directory
    log: EmbeddedLog,
    owner: RecordOwner,  # can be sent to another process
    *,
    stopping: Callable[[], bool] = lambda: False,
) -> tuple[int, int] | None:
    """Replace the records of an owner by blank ones; None if the server stops meanwhile.

    Returns the number of segments that were written anew, and of replaced records.
    """
    replaced = written = 0
    for segment in log.seal():
        if stopping():
            return None
        with log.rewriting:
            drafted = executor.submit(_draft, settings, name, segment, owner).result()
            adopted = drafted is not None and log.adopt(drafted[0])
        if drafted is not None and adopted:
            replaced += drafted[1]
            written += 1
    return written, replaced


def _draft(
    settings: Settings, name: str, segment: Path, owner: RecordOwner
) -> tuple[Path, int] | None:
    """Write one segment anew; None if it holds no record of the owner."""
    with contextlib.ExitStack() as stack:
        try:
            needles, replace = stack.enter_context(blanking(settings, owner, clock=now_ms))
            if name in LETTERS:
                replace = blank_letter(replace)
            draft, count = draft_segment(segment, needles, replace)
        except FileNotFoundError:  # retention has removed it
            return None
    return None if draft is None else (draft, count)
