"""Sessions: events of a cell none of which is further than a gap from the next.

An event at t is a session ``[t, t + gap)`` of its own; sessions that overlap or touch become one,
as Flink merges them. A session fires when the watermark reaches its end, and is over when the
allowed lateness has passed, too: until then an event may still join it, and it is fired again.
Whether an event finds a session is decided by the watermark before that event, so that it does not
matter how the log was cut into batches.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.definitions.model import Feature, SessionWindow
from tactful_streaming.windows.accumulators import ACCUMULATORS, Accumulator, Values
from tactful_streaming.windows.columns import Selection, StateColumn, sampled_bytes


class Closed(NamedTuple):
    """A session whose end the watermark has reached.

    Attributes:
        end: a gap after the last event, epoch milliseconds.
        start: time of the first event, epoch milliseconds.
        row: whose it is.
        group: its group; None where there are none.
        state: what it has gathered, as packed then.
    """

    end: int
    start: int
    row: int
    group: str | None
    state: Any


class _Session:
    __slots__ = ("fired", "gathered", "last", "start")

    def __init__(self, start: int, last: int, gathered: Accumulator, *, fired: bool) -> None:
        self.start, self.last, self.gathered, self.fired = start, last, gathered, fired


class Sessions(StateColumn):
    """Accumulators of the sessions of each cell: ``{cell: [session, ...]}``, by start."""

    def __init__(
        self, kind: str, feature: Feature, name_of: Callable[[int], tuple[int, str | None]] | None
    ) -> None:
        """Begin empty.

        Args:
            kind: one of :data:`~tactful_streaming.windows.accumulators.ACCUMULATORS`.
            feature: what is computed; others of the same kind and gap may be read from this, too.
            name_of: row and group of a cell; None if nothing is ever fired.
        """
        assert isinstance(feature.window, SessionWindow)
        self._gap = feature.window.gap_ms
        self._kind: type[Accumulator] = ACCUMULATORS[kind]
        self.packed_type = list[tuple[int, int, bool, self._kind.packed_type]]  # type: ignore[name-defined]
        self._feature = feature
        self._source = {"count": "ones", "hll": "texts", "values": "texts"}.get(kind, "amounts")
        self._sessions: dict[int, list[_Session]] = {}
        self._name_of = name_of
        # A session may have gone on when its timer comes: then it gets another.
        self._timers: list[tuple[int, int]] = []
        self._timer_of: dict[int, int] = {}
        self._closed: list[Closed] = []
        self._horizon = 0

    @property
    def memory_ms(self) -> int:
        """The gap."""
        return self._gap

    @property
    def nbytes(self) -> int:
        """Approximate memory, estimated from a sample of cells."""

        def size(sessions: list[_Session]) -> int:
            return 160 + sum(100 + session.gathered.nbytes for session in sessions)

        return sampled_bytes(self._sessions.values(), size)

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Join each event to its session; returns the positions of those whose session is over."""
        values: Sequence[Any]
        if self._source == "ones":
            values = [1.0] * len(cells)
        elif self._source == "texts":
            assert events.texts is not None
            values = events.texts
        else:
            assert events.amounts is not None
            values = events.amounts.tolist()
        late = [
            number
            for number, (cell, timestamp, watermark, value) in enumerate(
                zip(
                    cells.tolist(),
                    events.timestamps.tolist(),
                    events.watermarks.tolist(),
                    values,
                    strict=True,
                )
            )
            if not self._join(cell, timestamp, watermark, watermark - lateness_ms, value)
        ]
        return np.array(late, np.int64)

    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """Result of the session that is on at time `at`."""
        for session in self._sessions.get(cell, ()):
            if session.start <= at < session.last + self._gap:
                return self._kind.result([session.gathered], feature)
        return None

    def result(self, closed: Closed, feature: Feature) -> Any:
        """The value of a closed session."""
        return self._kind.result([self._kind.unpack(closed.state, self._feature)], feature)

    def next_end(self) -> int | None:
        """A time before which no session ends; None without any to fire."""
        return self._timers[0][0] if self._timers else None

    def close(self, watermark: int) -> list[Closed]:
        """Sessions that the watermark has reached since the last call, by end, start and row.

        Those that changed after it are among them again.
        """
        while self._timers and self._timers[0][0] <= watermark:
            end, cell = heapq.heappop(self._timers)
            if self._timer_of.get(cell) == end:
                del self._timer_of[cell]
                self._close(cell, watermark)
                self._set_timer(cell)
        newest = {one[:-1]: one for one in self._closed}
        self._closed = []
        return sorted(newest.values(), key=lambda one: one[:3])

    def settle(self, cells: Iterable[tuple[int, int]]) -> None:
        """Close the sessions of cells that are about to be cleared, up to a watermark for each."""
        for cell, watermark in cells:
            self._close(cell, watermark)

    def clear(self, cells: Rows) -> None:
        """Forget cells."""
        for cell in cells.tolist():
            self._sessions.pop(cell, None)
            self._timer_of.pop(cell, None)

    def drop_texts(self, cell: int, drops: Callable[[str], bool]) -> None:
        """Forget texts that the sessions of a cell have counted one by one."""
        for session in self._sessions.get(cell, ()):
            if isinstance(session.gathered, Values):
                session.gathered.drop(drops)

    def expire(self, horizon: int) -> None:
        """Take note: what is over goes when its cell is touched or packed."""
        self._horizon = horizon

    def pack(self, cells: Rows, horizon: int) -> list[list[tuple[int, int, bool, Any]]]:
        """Sessions of each cell that are not over."""
        return [
            [
                (session.start, session.last, session.fired, session.gathered.pack())
                for session in self._sessions.get(cell, ())
                if session.last + self._gap > horizon
            ]
            for cell in cells.tolist()
        ]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Merge sessions; with what is over nothing merges any more."""
        for cell, sessions in zip(cells.tolist(), packed, strict=True):
            self._drop_over(cell, self._horizon)
            for start, last, fired, state in sessions:
                gathered = self._kind.unpack(state, self._feature)
                self._merge(cell, _Session(start, last, gathered, fired=fired))

    def _join(self, cell: int, timestamp: int, watermark: int, horizon: int, value: Any) -> bool:
        """Whether the event is in time; then it is counted."""
        gap = self._gap
        sessions = self._sessions.get(cell)
        if sessions:
            # Most often the last session just goes on.
            last = sessions[-1]
            if last.start <= timestamp <= last.last + gap and last.last + gap > watermark:
                last.last = max(last.last, timestamp)
                last.gathered.add(value, timestamp)
                return True
            self._close(cell, watermark)
            self._drop_over(cell, horizon)
        if timestamp + gap <= horizon and not self._near(cell, timestamp):
            return False
        gathered = self._kind(self._feature)
        gathered.add(value, timestamp)
        self._merge(cell, _Session(timestamp, timestamp, gathered, fired=False))
        self._close(cell, watermark)
        return True

    def _drop_over(self, cell: int, horizon: int) -> None:
        sessions = self._sessions.get(cell, [])
        kept = [session for session in sessions if session.last + self._gap > horizon]
        if len(kept) < len(sessions):
            self._sessions[cell] = kept

    def _near(self, cell: int, timestamp: int) -> bool:
        return any(
            session.start - self._gap <= timestamp <= session.last + self._gap
            for session in self._sessions.get(cell, ())
        )

    def _merge(self, cell: int, new: _Session) -> None:
        """Add a session to those of a cell; all that it touches become one."""
        gap = self._gap
        apart: list[_Session] = []
        for session in self._sessions.get(cell, ()):
            if session.start <= new.last + gap and new.start <= session.last + gap:
                # The older gathers the newer, which keeps sums in the order of the log.
                session.gathered.merge(new.gathered)
                new = _Session(
                    min(session.start, new.start),
                    max(session.last, new.last),
                    session.gathered,
                    fired=session.fired and new.fired,
                )
            else:
                apart.append(session)
        self._sessions[cell] = sorted([*apart, new], key=lambda session: session.start)
        if self._name_of is not None:
            self._set_timer(cell)

    def _close(self, cell: int, watermark: int) -> None:
        """Fire the sessions of `cell` that the watermark has reached and that have not fired."""
        if self._name_of is None:
            return
        for session in self._sessions.get(cell, ()):
            end = session.last + self._gap
            if end <= watermark and not session.fired:
                session.fired = True
                state = session.gathered.pack()
                self._closed.append(Closed(end, session.start, *self._name_of(cell), state))

    def _set_timer(self, cell: int) -> None:
        """Look at `cell` when the first of its sessions may end; each cell has one timer."""
        gap = self._gap
        ends = [one.last + gap for one in self._sessions.get(cell, ()) if not one.fired]
        if ends and min(ends) < self._timer_of.get(cell, min(ends) + 1):
            self._timer_of[cell] = min(ends)
            heapq.heappush(self._timers, (min(ends), cell))
