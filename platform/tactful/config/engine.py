"""Settings of the feature engine and of identity resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import NotNegative, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the feature engine.

    Attributes:
        features: file of feature definitions; empty: the packaged ones.
        rules: file of rules that clean events; empty for none.
        dedupe_days: time for which event ids are remembered.
        watermark_delay_ms: largest delay of an event behind newer ones, after which windows
            trigger and sequences continue without it.
        allowed_lateness_ms: time after the end of a window in which its events still count.
        memory_mb: memory of entities before the rest stays on disk; 0 for no limit.
        dead_letter_days: time for which events set aside by rules are kept; 0 for ever.
        keep_late: whether events that are too late for every window of a feature are kept, too.
        clock: clock while no event comes: the ``wall`` clock, so that overdue sequences trigger,
            or ``events`` alone, for replays of the past.
        idle_s: silence after which that clock is used.
        batch_ms: longest time for which one micro-batch blocks readers.
        commit_records: commit after this number of records …
        commit_ms: … or after this time, whichever is first …
        commit_pause_ms: … or earlier, so that a commit takes about this time: new events wait for
            it. Records that are in the log at the start are applied without this limit.
    """

    features: Path = Path()
    rules: Path = Path()
    dedupe_days: Annotated[int, Meta(ge=1, le=365)] = 7
    watermark_delay_ms: NotNegative = 5_000
    allowed_lateness_ms: NotNegative = 300_000
    memory_mb: NotNegative = 0
    dead_letter_days: Annotated[float, Meta(ge=0)] = 30.0
    keep_late: bool = False
    clock: Literal["wall", "events"] = "wall"
    idle_s: PositiveFloat = 5.0
    batch_ms: PositiveFloat = 2.0
    commit_records: PositiveInt = 32_000
    commit_ms: PositiveInt = 1_000
    commit_pause_ms: PositiveFloat = 8.0


@dataclass(frozen=True)
class IdentitySettings:
    """Settings of links between devices and users.

    Attributes:
        enabled: whether devices are linked; otherwise an event belongs to the id that it names.
        logins: types of events, separated by commas, that link the device and the user they name.
        logouts: types that end the link of the device they name.
        link_days: time from the last login to the end of a link.
        devices_per_user: most devices of a user, in each partition of the log.
        consent: ``assumed`` links every user who did not refuse, ``required`` only users who
            agreed (``consent.identity`` among the properties of the user).
    """

    enabled: bool = True
    logins: str = "x.login, x.link, purchase"
    logouts: str = "x.logout, x.unlink"
    link_days: PositiveFloat = 180.0
    devices_per_user: PositiveInt = 50
    consent: Literal["assumed", "required"] = "assumed"
