"""The beginnings of a sequence in one partition, and what events and time make of them.

A beginning is one event that may be the first of a match, and what has been taken since. Beginnings
in the same state move together, so an event costs as much as there are states in use, and each
taking as much as there are beginnings that take it.
"""

from __future__ import annotations

from bisect import bisect_right
from operator import itemgetter

from tactful_streaming.definitions.model import Sequence
from tactful_streaming.patterns.automaton import ENDED, compile_pattern

MAX_EVENTS = 1000
"""Most events of one match, where a step repeats without limit."""

Beginning = tuple[int, int, int, int, tuple[str, ...], str | None]
"""Timestamp and place of the first and of the last event, all ids, and who caused the last."""

Shown = tuple[int, int, int, int, str, str | None]
"""An event: timestamp, place in the log, row of its partition, code of its type, id, subject."""

Groups = dict[int, list[Beginning]]
"""Beginnings by state, each list in their order."""

TAKEN = 1
"""The bit of a transition that says that the event is taken."""

_first_time = itemgetter(0)
_first_place = itemgetter(0, 1)


class Partition:
    """All beginnings of one partition.

    Attributes:
        groups: those that wait for events or for time.
        matched: matches that an earlier beginning can still take back, in the order of beginnings.
        timer: the earliest time that is set for it.
    """

    __slots__ = ("groups", "matched", "timer")

    def __init__(self) -> None:
        """Begin empty."""
        self.groups: Groups = {}
        self.matched: list[Beginning] = []
        self.timer: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether nothing is left."""
        return not self.groups and not self.matched


class Search:
    """How one sequence is searched for; holds nothing of any partition.

    Attributes:
        automaton: the compiled pattern.
        within_ms: how long after its first event a beginning takes others.
        evicted: beginnings dropped to keep the memory bounded.
    """

    def __init__(self, sequence: Sequence, max_beginnings: int) -> None:
        """Prepare to search; at most `max_beginnings` of a partition are in the same state.

        Raises:
            DefinitionError: if the pattern is too large.
        """
        self.automaton = compile_pattern(sequence)
        self.within_ms = sequence.within_ms
        self.evicted = 0
        self._past_last = sequence.skip == "past_last"
        self._max_beginnings = max_beginnings

    def show(self, partition: Partition, event: Shown) -> None:
        """Show the next event to every beginning, and let it begin a match itself."""
        timestamp, place, _, code, event_id, subject = event
        automaton, groups = self.automaton, partition.groups
        rows, horizon = automaton.rows, timestamp - self.within_ms
        moving = [
            state
            for state, those in groups.items()
            if rows[state][code] != 2 * state or those[0][0] <= horizon
        ]
        if moving:
            self._move(partition, event, horizon)
            groups = partition.groups
        transition = automaton.first[code]
        if transition != ENDED:
            begun = (timestamp, place, timestamp, place, (event_id,), subject)
            target = transition >> 1
            if automaton.complete[target]:
                partition.matched.append(begun)
            else:
                add_to(groups, target, [begun])
                if len(groups[target]) > self._max_beginnings:
                    self.bound(partition)

    def settle(self, partition: Partition, now: int) -> None:
        """End every beginning whose time is over at `now`: as a match, or without."""
        horizon = now - self.within_ms
        groups: Groups = {}
        for state, those in partition.groups.items():
            if self.automaton.pending[state]:
                partition.matched += [b for b in those if self._deadline(b) <= now]
                left = [b for b in those if self._deadline(b) > now]
            else:
                left = those[bisect_right(those, horizon, key=_first_time) :]
            if left:
                groups[state] = left
        partition.groups = groups
        partition.matched.sort()

    def certain(self, partition: Partition) -> list[Beginning]:
        """Remove and return the matches that no earlier beginning can take back."""
        told: list[Beginning] = []
        while partition.matched:
            match = partition.matched[0]
            earliest = min((those[0] for those in partition.groups.values()), default=match)
            if earliest < match:
                break
            told.append(match)
            skipped = match[2:4] if self._past_last else match[:2]
            partition.matched = _after(partition.matched, skipped)
            partition.groups = {
                state: left
                for state, those in partition.groups.items()
                if (left := _after(those, skipped))
            }
        return told

    def due(self, partition: Partition) -> int | None:
        """When time alone decides something next, if it does."""
        due: list[int] = []
        for state, those in partition.groups.items():
            if self.automaton.pending[state]:
                due.append(min(map(self._deadline, those)))
            elif partition.matched:
                due.append(those[0][0] + self.within_ms)
        return min(due, default=None)

    def bound(self, partition: Partition) -> None:
        """Let the oldest give way where there are too many."""
        most = self._max_beginnings
        for those in (*partition.groups.values(), partition.matched):
            if len(those) > most:
                self.evicted += len(those) - most
                del those[:-most]

    def _move(self, partition: Partition, event: Shown, horizon: int) -> None:
        """Show an event to every beginning; those up to `horizon` are too old to take it."""
        timestamp, place, _, code, event_id, subject = event
        automaton = self.automaton
        rows, pending, complete = automaton.rows, automaton.pending, automaton.complete
        groups: Groups = {}
        for state, those in partition.groups.items():
            if those[0][0] <= horizon:
                cut = bisect_right(those, horizon, key=_first_time)
                old, those = those[:cut], those[cut:]
                # One that is whole already waits on for its time.
                after = rows[automaton.closed[state]][code] if pending[state] else ENDED
                if after != ENDED:
                    add_to(groups, after >> 1, old)
            transition = rows[state][code]
            if transition == ENDED or not those:
                continue
            target = transition >> 1
            if not transition & TAKEN:
                add_to(groups, target, those)
                continue
            if automaton.unbounded:
                short = [b for b in those if len(b[4]) < MAX_EVENTS]
                self.evicted += len(those) - len(short)
                those = short
            if complete[target] and self._past_last:
                # Whatever becomes of the first of them, the others are skipped.
                those = those[:1]
            taken: list[Beginning] = [
                (first, first_place, timestamp, place, (*ids, event_id), subject)
                for first, first_place, _, _, ids, _ in those
            ]
            if complete[target]:
                partition.matched += taken
            elif taken:
                add_to(groups, target, taken)
        partition.groups = groups
        partition.matched.sort()
        self.bound(partition)

    def _deadline(self, beginning: Beginning) -> int:
        """When a beginning is a match if nothing that is forbidden comes before."""
        for_ms = self.automaton.for_ms
        return beginning[0] + self.within_ms if for_ms is None else beginning[2] + for_ms


def add_to(groups: Groups, state: int, those: list[Beginning]) -> None:
    """Put beginnings into `state`; the list is given away."""
    there = groups.get(state)
    if there is None:
        groups[state] = those
        return
    ordered = there[-1] < those[0]
    there += those
    if not ordered:
        there.sort()


def _after(those: list[Beginning], place: tuple[int, int]) -> list[Beginning]:
    return those[bisect_right(those, place, key=_first_place) :]
