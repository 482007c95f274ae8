"""Settings of the feature engine, of its Flink job and of identity resolution."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from msgspec import Meta

from tactful.config.fields import NotNegative, PositiveFloat, PositiveInt


@dataclass(frozen=True)
class EngineSettings:
    """Settings of the feature engine."""

    # what computes the features of users and visits: the ``embedded`` engine, in the server or in
    # workers, or a ``flink`` cluster
    kind: Literal["embedded", "flink"] = "embedded"
    features: Path = Path()  # file of feature definitions; empty: the packaged ones
    rules: Path = Path()  # file of rules that clean events; empty for none
    dedupe_days: Annotated[int, Meta(ge=1, le=365)] = 7  # days of receipt that ids are kept
    # largest delay of an event behind newer ones, after which windows trigger and sequences
    # continue without it
    watermark_delay_ms: NotNegative = 5_000
    # time after the end of a window in which its events still count
    allowed_lateness_ms: NotNegative = 300_000
    # memory of the process before users and visits stay on disk, in MiB; 0 for no limit, ``auto``
    # for a quarter of the machine's or container's, at most 2,048
    memory_mb: NotNegative | Literal["auto"] = "auto"
    # time for which events set aside by rules are kept; 0 for ever
    dead_letter_days: Annotated[float, Meta(ge=0)] = 30.0
    # whether events that are too late for every window of a feature are kept, too
    keep_late: bool = False
    # clock while no event comes: the ``wall`` clock, so that overdue sequences trigger, or
    # ``events`` alone, for replays of the past
    clock: Literal["wall", "events"] = "wall"
    idle_s: PositiveFloat = 5.0  # silence after which that clock is used
    batch_ms: PositiveFloat = 2.0  # longest time for which one micro-batch blocks readers
    commit_records: PositiveInt = 32_000  # commit after this number of records …
    commit_ms: PositiveInt = 1_000  # … or after this time, whichever is first …
    # … or earlier, so that a commit takes about this time: new events wait for it. Records that are
    # in the log at the start are applied without this limit.
    commit_pause_ms: PositiveFloat = 8.0


@dataclass(frozen=True)
class FlinkSettings:
    """Settings of the Flink job that computes features, if `engine.kind` is ``flink``."""

    cluster: str = ""  # REST address of the cluster, ``http://jobmanager:8081``
    job: Annotated[str, Meta(min_length=1)] = "tactful"  # name of the job, unique in the cluster
    # topic of the packed values of users and visits, written by the job; it is made if there is
    # none
    entities_topic: Annotated[str, Meta(min_length=1)] = "tactful-entities"
    # topic of erased users and devices, read by the job; it is made if there is none
    erased_topic: Annotated[str, Meta(min_length=1)] = "tactful-erased"


@dataclass(frozen=True)
class IdentitySettings:
    """Settings of links between devices and users."""

    # whether devices are linked; otherwise an event belongs to the id that it names
    enabled: bool = True
    # types of events, separated by commas, that link the device and the user they name
    logins: str = "x.login, x.link, purchase"
    logouts: str = "x.logout, x.unlink"  # types that end the link of the device they name
    link_days: PositiveFloat = 180.0  # time from the last login to the end of a link
    devices_per_user: PositiveInt = 50  # most devices of a user, in each partition of the log
    # ``assumed`` links every user who did not refuse, ``required`` only users who agreed
    # (``consent.identity`` among the properties of the user)
    consent: Literal["assumed", "required"] = "assumed"
