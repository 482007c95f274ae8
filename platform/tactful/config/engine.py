"""Settings of the feature engine and of identity resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import NotNegative, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class EngineSettings:
    """How the feature engine works.

    Attributes:
        features: feature definitions; empty means the ones that come with the package.
        rules: rules that clean events; empty means none.
        dedupe_days: how long event ids are remembered.
        watermark_delay_ms: how much later than newer ones an event may come before windows fire
            and sequences go on without it.
        allowed_lateness_ms: how long after a window ended what comes for it still counts.
        memory_mb: memory that entities may take before the rest stays on disk; 0 for any amount.
        dead_letter_days: how long events that rules set aside are kept; 0 keeps them.
        keep_late: whether events that came after the last window of a feature are kept, too.
        clock: whether time passes by the ``wall`` clock while no event comes, so that sequences
            whose time is over fire, or by ``events`` alone, for replays of the past.
        idle_s: silence after which it does.
        batch_ms: how long the engine may hold readers up while it applies one micro-batch.
        commit_records: commit after so many records …
        commit_ms: … or after so long, whichever is first …
        commit_pause_ms: … or after fewer, so that a commit takes about so long: events that come
            meanwhile wait for it. What is in the log at the start is applied without.
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
    """How devices are joined to people.

    Attributes:
        enabled: whether they are at all; otherwise an event is of whom it names.
        logins: types of events, separated by commas, that link the device and the user they name.
        logouts: types that end the link of the device they name.
        link_days: how long after the last login a device is somebody's.
        devices_per_user: most devices of a person, in each partition of the log.
        consent: whether silence is consent: ``assumed`` links all who did not refuse, ``required``
            only who agreed (``consent.identity`` among the properties of the user).
    """

    enabled: bool = True
    logins: str = "x.login, x.link, purchase"
    logouts: str = "x.logout, x.unlink"
    link_days: PositiveFloat = 180.0
    devices_per_user: PositiveInt = 50
    consent: Literal["assumed", "required"] = "assumed"
