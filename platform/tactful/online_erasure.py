"""Erases people from the log and the letters of a server that is at work.

A log in Kafka stays as it is: there the keys of its sealed records go, and workers are asked to
purge what they keep.

Only the process that writes to a log may change it. It ends the segment that it writes to; another
process, of low priority, looks through the ended ones and writes those anew in which something is
to go, beside their place; then the first moves each into its place, in one step and between two
appends. Readers finish with the file that they have open.

The state stays as it is until the next start: there the job goes on, finds the log done, removes
the person from the state and searches every file.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Literal

from tactful.config import Settings
from tactful.connections import open_installation
from tactful.erasure import (
    Installation,
    ask_owners,
    blank_letter,
    blanking,
    delete_keys,
    find_person,
    is_purged_here,
    load_found,
    purge_online,
    save_found,
    work_of,
)
from tactful.erasure_traces import Found
from tactful.low_priority import low_priority
from tactful.messages import ErasureStep
from tactful.suppression import open_suppression
from tactful_streaming import DEVICE_PREFIX, EmbeddedLog, draft_segment, load_definitions

_SETTLED_MS = 2_000
"""After so long, nothing of whom was suppressed is on its way any more, in no process."""


class OnlineErasures:
    """The erasures that wait, as far as a server can do them while it is at work.

    For one thread at a time.
    """

    def __init__(
        self,
        installation: Installation,
        logs: Mapping[str, EmbeddedLog],
        *,
        executor: Executor | None = None,
    ) -> None:
        """Prepare; nothing is done before `run`.

        Args:
            installation: whose data directory this process holds.
            logs: the log and the letters that it writes, by their names in the data directory.
            executor: runs what takes long; None: a process of low priority, when there is any.
        """
        self._installation = installation
        self._logs = dict(logs)
        self._executor = executor
        self._first_seen: dict[str, int] = {}
        self._done: set[str] = set()
        self._stopping = False

    def stop(self) -> None:
        """Let `run` return after the segment at hand."""
        self._stopping = True

    def run(self) -> int:
        """Take every erasure that waits as far as can be; how many got there now.

        Raises:
            StorageError: if something cannot be used; what was done is done, and the rest waits.
        """
        installation = self._installation
        waiting = [
            (receipt, person)
            for receipt, person in installation.jobs.waiting()
            if receipt not in self._done and not is_purged_here(installation, receipt)
        ]
        count = 0
        with contextlib.ExitStack() as stack:
            executor = self._executor
            for receipt, person in waiting if not self._stopping else ():
                if not self._is_settled(receipt):
                    continue
                if executor is None:
                    executor = stack.enter_context(low_priority())
                count += self._erase(executor, receipt, person)
        return count

    def _is_settled(self, receipt: str) -> bool:
        now = self._installation.clock()
        return now - self._first_seen.setdefault(receipt, now) >= _SETTLED_MS

    def _erase(self, executor: Executor, receipt: str, person: str) -> bool:
        installation = self._installation
        settings = installation.settings
        work = work_of(installation, receipt)
        found = executor.submit(_find, settings, person).result()
        own = [DEVICE_PREFIX + device for device in found.traces.devices]
        known = load_found(work)
        if any(device not in installation.suppression.suppressed for device in own):
            # Their devices were not suppressed until now: what is on its way comes first.
            installation.suppression.suppress(own)
            del self._first_seen[receipt]
            return False
        if known is not None:
            found |= known
        save_found(work, found)
        steps = []
        for name, log in self._logs.items():
            step = self._rewrite(executor, name, log, found)
            if step is None:
                return False
            steps.append(step)
        if settings.online.kind == "redis":
            definitions = load_definitions(settings.features)
            steps.append(purge_online(settings, definitions, found))
        steps += delete_keys(installation, found)
        if settings.log.kind == "kafka":
            steps.append(ask_owners(installation, receipt, found)[1])
        told = installation.jobs.find(receipt)
        if told is None or told.done_at is not None:
            return False
        before = {step.place: step for step in told.steps}
        installation.jobs.note(
            receipt,
            [s if s.removed >= (b := before.get(s.place, s)).removed else b for s in steps],
        )
        self._done.add(receipt)
        return True

    def _rewrite(
        self, executor: Executor, name: str, log: EmbeddedLog, found: Found
    ) -> ErasureStep | None:
        """Remove them from a log, segment by segment; None if the server stops meanwhile."""
        settings = self._installation.settings
        kind: Literal["log", "letters"] = "log" if name == "log" else "letters"
        replaced = written = 0
        for segment in log.seal():
            if self._stopping:
                return None
            with log.rewriting:
                drafted = executor.submit(_draft, settings, kind, segment, found).result()
                adopted = drafted is not None and log.adopt(drafted[0])
            if drafted is not None and adopted:
                replaced += drafted[1]
                written += 1
        removed = max(replaced, found.records) if kind == "log" else replaced
        note = f"{written} segments were written anew while the server ran"
        return ErasureStep(place=name, removed=removed, note=note)


def _find(settings: Settings, person: str) -> Found:
    with _installation(settings) as installation:
        return find_person(installation, person)


def _draft(
    settings: Settings, kind: Literal["log", "letters"], segment: Path, found: Found
) -> tuple[Path, int] | None:
    """Write one segment anew; None where nothing of theirs is in it."""
    with contextlib.ExitStack() as stack:
        try:
            installation = stack.enter_context(_installation(settings))
            needles, replace = stack.enter_context(blanking(installation, found))
            if kind == "letters":
                replace = blank_letter(replace)
            draft, count = draft_segment(segment, needles, replace)
        except FileNotFoundError:  # retention has removed it
            return None
    return None if draft is None else (draft, count)


@contextlib.contextmanager
def _installation(settings: Settings) -> Iterator[Installation]:
    with contextlib.closing(open_installation(settings)) as metadata:
        suppression = open_suppression(settings, metadata, clock=_now)
        yield Installation(settings, metadata, suppression, _now)


def _now() -> int:
    return time.time_ns() // 1_000_000
