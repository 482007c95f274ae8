"""Sessions: events of a cell, none further than a gap from the next.

An event at t is a session ``[t, t + gap)`` of its own; sessions that overlap or touch become one,
as Flink merges them. A session is emitted when the watermark reaches its end, and is over once the
allowed lateness has passed, too: until then an event may join it, and it is emitted again. The
watermark before an event decides which sessions it may join: batches do not change results.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from tactful_streaming.arrays import Rows
from tactful_streaming.definitions.model import Feature, SessionWindow
from tactful_streaming.windows.accumulators import ACCUMULATORS, Accumulator, Values
from tactful_streaming.windows.columns import Selection, StateColumn, sampled_bytes


class Closed(NamedTuple):
    """A session whose end, a gap after its last event, the watermark has reached."""

    end: int  # epoch milliseconds
    start: int  # epoch milliseconds
    row: int
    group: str | None  # None without groups
    state: Any  # accumulator, packed as it was at the end
    again: bool  # whether the same session was closed before, and changed


@dataclass(slots=True, eq=False)
class _Session:
    start: int
    last: int
    state: Accumulator
    emitted: bool
    again: bool = False  # whether it was emitted before, with the same bounds


class Sessions(StateColumn):
    """Sessions of each cell with accumulators: ``{cell: [session, ...]}``, by start."""

    def __init__(
        self, kind: str, feature: Feature, name_of: Callable[[int], tuple[int, str | None]] | None
    ) -> None:
        """Create an empty column for `feature` and others of the same kind and gap.

        `name_of` returns row and group of a cell; None if nothing is emitted.
        """
        assert isinstance(feature.window, SessionWindow)
        self._gap = feature.window.gap_ms
        self._kind: type[Accumulator] = ACCUMULATORS[kind]
        self.packed_type = list[tuple[int, int, bool, self._kind.packed_type]]  # type: ignore[name-defined]
        self._feature = feature
        self._source = {"count": "ones", "hll": "texts", "values": "texts"}.get(kind, "amounts")
        self._sessions: dict[int, list[_Session]] = {}
        self._name_of = name_of
        # A session that went on gets a new timer when the old one passes.
        self._timers: list[tuple[int, int]] = []
        self._timer_of: dict[int, int] = {}
        self._closed: list[Closed] = []
        self._horizon = 0

    @property
    def memory_ms(self) -> int:
        """Gap of the sessions."""
        return self._gap

    @property
    def nbytes(self) -> int:
        """Approximate memory, estimated from a sample of cells."""
        cells = self._sessions.values()
        return sampled_bytes(cells, lambda of: 160 + sum(100 + part.state.nbytes for part in of))

    def apply(self, cells: Rows, events: Selection, lateness_ms: int) -> Rows:
        """Add each event to its session; return the positions of the late events."""
        columns = (cells, events.timestamps, events.watermarks)
        values = events.values(self._source)
        rows = zip(*(column.tolist() for column in columns), values, strict=True)
        late = [
            number
            for number, (cell, timestamp, watermark, value) in enumerate(rows)
            if not self._join(cell, timestamp, watermark, watermark - lateness_ms, value)
        ]
        return np.array(late, np.int64)

    def read_one(self, cell: int, feature: Feature, at: int) -> Any:
        """Return the result of the session open at time `at`; None without one."""
        for session in self._sessions.get(cell, ()):
            if session.start <= at < session.last + self._gap:
                return self._kind.result([session.state], feature)
        return None

    def result(self, closed: Closed, feature: Feature) -> Any:
        """Return the value of a closed session."""
        return self._kind.result([self._kind.unpack(closed.state, self._feature)], feature)

    def next_end(self) -> int | None:
        """Return a time before which no session ends; None without sessions to emit."""
        return self._timers[0][0] if self._timers else None

    def close(self, watermark: int) -> list[Closed]:
        """Return sessions that ended since the last call, by end, start and row.

        Sessions that changed after their end are returned again.
        """
        while self._timers and self._timers[0][0] <= watermark:
            end, cell = heapq.heappop(self._timers)
            if self._timer_of.get(cell) == end:
                del self._timer_of[cell]
                self._close(cell, watermark)
                self._set_timer(cell)
        newest = {closed[:4]: closed for closed in self._closed}
        self._closed = []
        return sorted(newest.values(), key=lambda closed: closed[:3])

    def settle(self, cells: Iterable[tuple[int, int]]) -> None:
        """Close the sessions of cells to be cleared, up to the watermark of each."""
        for cell, watermark in cells:
            self._close(cell, watermark)

    def clear(self, cells: Rows) -> None:
        """Delete cells."""
        for cell in cells.tolist():
            self._sessions.pop(cell, None)
            self._timer_of.pop(cell, None)

    def drop_texts(self, cell: int, drops: Callable[[str], bool]) -> None:
        """Delete texts that the sessions of a cell count one by one."""
        for session in self._sessions.get(cell, ()):
            if isinstance(session.state, Values):
                session.state.drop(drops)

    def expire(self, horizon: int) -> None:
        """Store `horizon`: sessions over are deleted when their cell is changed or packed."""
        self._horizon = horizon

    def pack(self, cells: Rows, horizon: int) -> list[list[tuple[int, int, bool, Any]]]:
        """Return the packed sessions of each cell that are not over."""
        return [
            [
                (session.start, session.last, session.emitted, session.state.pack())
                for session in self._sessions.get(cell, ())
                if session.last + self._gap > horizon
            ]
            for cell in cells.tolist()
        ]

    def absorb(self, cells: Rows, packed: Sequence[Any]) -> None:
        """Merge packed sessions; sessions over merge with none."""
        for cell, sessions in zip(cells.tolist(), packed, strict=True):
            self._drop_over(cell, self._horizon)
            for start, last, emitted, packed_state in sessions:
                state = self._kind.unpack(packed_state, self._feature)
                self._merge(cell, _Session(start, last, state, emitted))

    def _join(self, cell: int, timestamp: int, watermark: int, horizon: int, value: Any) -> bool:
        """Count an event if it is in time; return whether it is."""
        gap = self._gap
        sessions = self._sessions.get(cell)
        if sessions:
            # Mostly the event extends the last session.
            last = sessions[-1]
            if last.start <= timestamp <= last.last + gap and last.last + gap > watermark:
                last.last = max(last.last, timestamp)
                last.state.add(value, timestamp)
                return True
            self._close(cell, watermark)
            self._drop_over(cell, horizon)
        near = self._sessions.get(cell, ())
        if timestamp + gap <= horizon and not any(
            session.start - gap <= timestamp <= session.last + gap for session in near
        ):
            return False
        state = self._kind(self._feature)
        state.add(value, timestamp)
        self._merge(cell, _Session(timestamp, timestamp, state, emitted=False))
        self._close(cell, watermark)
        return True

    def _drop_over(self, cell: int, horizon: int) -> None:
        sessions = self._sessions.get(cell, [])
        kept = [session for session in sessions if session.last + self._gap > horizon]
        if len(kept) < len(sessions):
            self._sessions[cell] = kept

    def _merge(self, cell: int, new: _Session) -> None:
        """Add a session to those of a cell; all that touch become one."""
        gap = self._gap
        apart: list[_Session] = []
        for session in self._sessions.get(cell, ()):
            if session.start <= new.last + gap and new.start <= session.last + gap:
                # Merging the newer into the older keeps sums in the order of the log.
                session.state.merge(new.state)
                start, last = min(session.start, new.start), max(session.last, new.last)
                emitted = session.emitted and new.emitted
                again = any(
                    (part.emitted or part.again) and (part.start, part.last) == (start, last)
                    for part in (session, new)
                )
                new = _Session(start, last, session.state, emitted, again)
            else:
                apart.append(session)
        self._sessions[cell] = sorted([*apart, new], key=lambda session: session.start)
        if self._name_of is not None:
            self._set_timer(cell)

    def _close(self, cell: int, watermark: int) -> None:
        """Close the sessions of `cell` that the watermark has reached, each once."""
        if self._name_of is None:
            return
        for session in self._sessions.get(cell, ()):
            end = session.last + self._gap
            if end <= watermark and not session.emitted:
                session.emitted = True
                name, packed = self._name_of(cell), session.state.pack()
                self._closed.append(Closed(end, session.start, *name, packed, session.again))

    def _set_timer(self, cell: int) -> None:
        """Set the timer of `cell`, which has one, to the first end of its sessions."""
        gap = self._gap
        ends = [s.last + gap for s in self._sessions.get(cell, ()) if not s.emitted]
        if ends and min(ends) < self._timer_of.get(cell, min(ends) + 1):
            self._timer_of[cell] = min(ends)
            heapq.heappush(self._timers, (min(ends), cell))
