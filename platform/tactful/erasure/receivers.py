"""Notices of erasures to the receivers of data: webhook, topics, and databases of sinks.

The row of an erasure in the metadata is the outbox: it holds the ids until every receiver has
confirmed, so a process that dies repeats a notice and loses none. States of a receiver's step in a
receipt::

    at: null, note: "waits…"  ->  at: 1767225661000, removed: 3
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

import msgspec

from tactful.config.server import ActionSettings
from tactful.config.settings import Settings, secret
from tactful.config.storage import LogSettings
from tactful.errors import ConfigError, TactfulError
from tactful.metadata.connections import kafka_settings
from tactful.schemas.users import Erasure, ErasureStep
from tactful.subjects.installation import Installation
from tactful_streaming.contract.subject_ids import SubjectIds
from tactful_streaming.errors import StreamingError
from tactful_streaming.online.store import is_redis_url
from tactful_streaming.sinks.sink import RowTarget
from tactful_streaming.sinks.webhook import post_signed

logger = logging.getLogger(__name__)

_FIRST_WAIT_MS = 5_000
_LONGEST_WAIT_MS = 600_000


@dataclass(frozen=True)
class Notice:
    """An erasure to hand on."""

    erasure: Erasure
    person: str
    traces: SubjectIds  # all ids of the user


@dataclass(frozen=True)
class Receiver:
    """A place outside the installation with data of users."""

    place: str  # name in receipts
    # hands a notice on and returns the number of removed rows; may be repeated
    send: Callable[[Notice], int]


def receivers_of(settings: Settings) -> list[Receiver]:
    """List the configured receivers; ConfigError for a variable that is not set."""
    receivers = []
    if settings.actions.webhook_url:
        receivers.append(Receiver("webhook", partial(_post, settings.actions)))
    topics = settings.consent.topics.split()
    if topics and settings.log.in_files:
        raise ConfigError("consent.topics needs log.kind = kafka, whose brokers have the topics")
    if not settings.log.in_files:
        topics += filter(None, (settings.worker.fired_topic, settings.worker.late_topic))
        receivers += [
            Receiver(f"topic {topic}", partial(_write_tombstones, settings.log, topic))
            for topic in topics
        ]
    locations = secret("consent.sinks_env", settings.consent.sinks_env) or ""
    for location in locations.split():
        receivers.append(Receiver(_place(location), partial(_delete_rows, location)))
    return [*({receiver.place: receiver for receiver in receivers}.values())]


class ErasureNotices:
    """Hands erasures on, with growing waits for a receiver that cannot be reached."""

    def __init__(self, settings: Settings) -> None:
        """Read the receivers; ConfigError for a variable that is not set."""
        self.receivers = receivers_of(settings)
        self._waits: dict[str, tuple[int, int]] = {}  # by place: next attempt, last wait

    @property
    def failing(self) -> int:
        """Number of receivers whose last attempt failed."""
        return len(self._waits)

    def pending(self) -> list[ErasureStep]:
        """Return a step of each receiver, before the first attempt."""
        return [ErasureStep(place=r.place, removed=0, note="waits") for r in self.receivers]

    def deliver(self, installation: Installation, receipt: str, person: str) -> bool:
        """Hand an erasure on where it was not yet; return whether all receivers have confirmed."""
        erasure = installation.jobs.find(receipt)
        if erasure is None:
            return False
        traces = installation.partitions.traces_of(receipt)
        notice = Notice(erasure, person, _of_person(person) if traces is None else traces)
        steps = {step.place: step for step in erasure.steps}
        complete, places = True, {receiver.place for receiver in self.receivers}
        for place, step in [*steps.items()]:
            if step.at is None and place not in places:
                text = "not configured any more"
                steps[place] = msgspec.structs.replace(step, note=text, at=installation.clock())
                installation.jobs.note(receipt, [*steps.values()])
        for receiver in self.receivers:
            earlier = steps.get(receiver.place)
            if earlier is None or earlier.at is None:
                attempt = self._attempt(installation, receiver, notice)
                if attempt is not None:
                    steps[receiver.place] = attempt
                    installation.jobs.note(receipt, [*steps.values()])
                complete &= attempt is not None and attempt.at is not None
        return complete

    def _attempt(
        self, installation: Installation, receiver: Receiver, notice: Notice
    ) -> ErasureStep | None:
        """Hand a notice on and return its step; None before the time of the next attempt."""
        now = installation.clock()
        due, wait = self._waits.get(receiver.place, (now, 0))
        if now < due:
            return None
        try:
            removed = receiver.send(notice)
        except (OSError, StreamingError, TactfulError) as error:
            wait = min(max(2 * wait, _FIRST_WAIT_MS), _LONGEST_WAIT_MS)
            self._waits[receiver.place] = now + wait, wait
            logger.warning("%s: erasures cannot be handed on: %s", receiver.place, error)
            return ErasureStep(place=receiver.place, removed=0, note=f"waits: {error}")
        self._waits.pop(receiver.place, None)
        return ErasureStep(
            place=receiver.place, removed=removed, note="handed on", at=installation.clock()
        )


def _of_person(person: str) -> SubjectIds:
    return SubjectIds(users=frozenset({person}))


def _post(settings: ActionSettings, notice: Notice) -> int:
    """Post ``{"type": "erasure", …}``; OSError unless the answer is 2xx."""
    signing = secret("actions.secret_env", settings.secret_env)
    if signing is None:
        signing = secret("actions.secret_file", "", settings.secret_file)
    body = {
        "type": "erasure",
        "receipt": notice.erasure.receipt,
        "requested_at": notice.erasure.requested_at,
        "user_ids": sorted(notice.traces.users),
        "device_ids": sorted(notice.traces.devices),
    }
    problem, _ = post_signed(
        settings.webhook_url,
        msgspec.json.encode(body),
        f"erasure-{notice.erasure.receipt}",
        secret=None if signing is None else signing.encode(),
        timeout_s=settings.timeout_s,
    )
    if problem is not None:
        raise OSError(problem)
    return 0


def _write_tombstones(log: LogSettings, topic: str, notice: Notice) -> int:
    from tactful_streaming.kafka.tombstones import write_tombstones

    settings = dataclasses.replace(kafka_settings(log), topic=topic)
    return write_tombstones(settings, notice.traces)


def _delete_rows(location: str, notice: Notice) -> int:
    with _opened(location) as target:
        return target.erase(sorted(notice.traces.people | notice.traces.sessions))


@contextlib.contextmanager
def _opened(location: str) -> Iterator[RowTarget]:
    address, _, prefix = location.partition("#")
    target: RowTarget
    if is_redis_url(address):
        from tactful_streaming.sinks.redis import RedisRows

        target = RedisRows(address, prefix=prefix or "tactful-fired", attempts=1)
    else:
        from tactful_streaming.sinks.sql import SqlRows

        target = SqlRows(address)
    with contextlib.closing(target):
        yield target


def _place(location: str) -> str:
    """Return the name of a database, without user and password."""
    address, _, prefix = location.partition("#")
    parts = urllib.parse.urlsplit(address)
    name = f"{parts.hostname or ''}{parts.path}".strip("/") or address.rpartition("/")[2]
    return f"sink {parts.scheme.split('+')[0]} {name}" + (f" {prefix}" if prefix else "")
