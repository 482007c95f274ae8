"""Options of an engine: its consumers, callbacks and what these get."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field

from tactful_streaming.contract.log_entries import PERSONALISATION, Event, Item
from tactful_streaming.definitions.model import Feature
from tactful_streaming.identity.resolver import Identity
from tactful_streaming.log.dead_letters import DeadLetter
from tactful_streaming.online.store import OnlineStore
from tactful_streaming.patterns.match import Match
from tactful_streaming.rules.rules import Cleaner
from tactful_streaming.windows.triggers import WindowResult


class CoCommittedConsumer(ABC):
    """A consumer of events whose state commits together with the log offset.

    A commit calls :meth:`before_commit` of all consumers, then :meth:`snapshot` of each, in the
    order of their registration. A crash after :meth:`before_commit` repeats the events since the
    commit before, so its side effects have to be idempotent.
    """

    purpose: str = PERSONALISATION  # the consumer gets the events that may be used for this purpose
    # Whether no event of one user may decide if the consumer gets an event of another
    independent: bool = False
    # Fields of events that the consumer reads besides type, times, user and device; None for all,
    # then the engine decodes every field of every event
    fields: frozenset[str] | None = None

    @abstractmethod
    def apply(self, event: Event, item: Item | None) -> None:
        """Count an accepted event; `item` is its current description in the catalogue.

        A consumer that names its `fields` may get no `item`.
        """

    def observe(self, history: str | None, event: Event, item: Item | None) -> None:
        """Count an accepted event of a history, by its key; None if it is in no history here."""
        self.apply(event, item)

    def before_commit(self) -> None:  # noqa: B027  # most consumers have no side effects
        """Perform side effects before a commit, such as writing to another store."""

    @abstractmethod
    def snapshot(self) -> bytes | None:
        """Return the state, or None to keep the one stored before; without side effects."""

    @abstractmethod
    def restore(self, state: bytes) -> None:
        """Replace the state by a snapshot."""

    def delete_users(self, keys: Collection[str]) -> None:  # noqa: B027
        """Delete the data of users, by the keys of their histories."""


@dataclass(frozen=True)
class LateEvent:
    """An event that came too late for some features, with its place in the log."""

    payload: bytes
    features: tuple[str, ...]
    partition: int
    offset: int


@dataclass(frozen=True)
class EngineOptions:
    """Options of an engine.

    The callbacks are called while a batch is applied. A caller that stores what they report before
    :meth:`Engine.commit` loses nothing; reports since the last commit are repeated after a crash.

    Attributes:
        dedupe_days: days, by time of receipt, for which event ids are kept, at least; with 0 every
            event counts as often as it is in the log.
        most_ids: number of ids at least that are remembered without a commit; a replay that never
            commits has to name one. None: all.
        watermark_delay_ms: distance of the watermark from the newest event, or from the receipt of
            one that is ahead of it: an event may come so much later than newer ones before a window
            is emitted without it.
        allowed_lateness_ms: late events still count so long after the end of their window.
        consumers: consumers whose state commits with the engine's, by name.
        cleaner: judges each event before it counts.
        memoryless: judges it instead for consumers that are independent, without looking at other
            events; None: `cleaner` looks at none either.
        online: copy of each entity's packed state for other processes, written after a commit.
        partition: number of the partition of the log, for dead letters and marks in `online`.
        identity: rules that link devices to users. None: an event belongs to the user it names, and
            an anonymous one to its device for ever.
        suppressed: keys of erased users; their events only advance time. It may grow; an empty one
            is false and costs nothing.
        partition_of: partition that a key is routed to, so that histories of devices reach users of
            other partitions (:attr:`Engine.transfers`). None: there is one partition.
        rebuild: clear the state and begin at offset 0, to compute it again from the log.
        memory_bytes: approximate memory for entities; beyond, users and sessions untouched for the
            longest time are kept in the store alone. None keeps all in memory.
        resident: returns the memory of the process, bytes; `memory_bytes` then bounds this.
        tracked: by kind of entity, the keys that will be read: others of that kind get no features,
            which saves their memory. All of a kind that is not named. For replays that never
            commit; histories of devices that are merged into a tracked user must be tracked, too.
        also_reads: features of other engines: the fields that they read are decoded, and so
            checked, by this one too.
        on_results: called with the results of windows that ended, some `portion_rows` rows at once.
        portion_rows: rows after which results are passed on, however many windows end at once.
        on_late: called with events that came too late for some features.
        on_match: called with matches of sequences and joins.
        on_dead_letter: called with records that do not count.
    """

    dedupe_days: int = 7
    most_ids: int | None = None
    watermark_delay_ms: int = 0
    allowed_lateness_ms: int = 300_000
    consumers: Mapping[str, CoCommittedConsumer] = field(default_factory=dict)
    cleaner: Cleaner | None = None
    memoryless: Cleaner | None = None
    online: OnlineStore | None = None
    partition: int = 0
    identity: Identity | None = None
    suppressed: Container[str] = frozenset()
    partition_of: Callable[[str], int] | None = None
    rebuild: bool = False
    memory_bytes: int | None = None
    resident: Callable[[], int] | None = None
    tracked: Mapping[str, Container[str]] = field(default_factory=dict)
    also_reads: tuple[Feature, ...] = ()
    on_results: Callable[[list[WindowResult]], None] | None = None
    portion_rows: int = 50_000
    on_late: Callable[[list[LateEvent]], None] | None = None
    on_match: Callable[[list[Match]], None] | None = None
    on_dead_letter: Callable[[list[DeadLetter]], None] | None = None


DEFAULT_OPTIONS = EngineOptions()
