"""Kernel that moves partial matches of sequences, in a list for each partition.

It does what `patterns.partial_match` does where an event decides alone: the event ends a partial
match, extends it, is skipped, begins one, or completes one that waits for no earlier one. Any other
event is left, like every later event of its partition, to keep their order.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

ID_BYTES: Final = 40  # bytes of an id and the quote behind it; an event with a longer one is left
ID_WORDS: Final = ID_BYTES // 8

PARTIAL_MATCH: Final = np.dtype(
    [
        ("first", np.int64),  # timestamp of the first event
        ("first_place", np.int64),  # its place in the log
        ("last", np.int64),  # the same of the last event
        ("last_place", np.int64),
        ("state", np.int32),
        ("count", np.int32),  # events taken
        ("next", np.int32),  # in the list of its partition, or among the free ones; -1: none
        ("event", np.int32),  # event of the batch taken last; -1: none
    ],
    align=True,
)

ENDED: Final = -1  # transition: the partial match ends, or nothing begins
ASKS: Final = -2  # transition: not decided by the kernel
COMPLETES: Final = -3  # transition: the partial match is a match, without a state after it


class EventArrays(NamedTuple):
    """Events of a batch: partition, time, place in the log, code of the type, id."""

    rows: NDArray[np.int64]
    times: NDArray[np.int64]
    places: NDArray[np.int64]
    codes: NDArray[np.int64]
    ids: NDArray[np.uint64]  # shape (events, ID_WORDS)


class PatternArrays(NamedTuple):
    """A compiled pattern."""

    # By code, the state that an event begins, or `ENDED` or `ASKS`.
    begun: NDArray[np.int64]
    # By state and code, twice the next state, plus one if the event is taken; or `ENDED`,
    # `ASKS` or `COMPLETES`.
    after: NDArray[np.int64]
    within: int  # time after its first event in which a partial match takes others, milliseconds
    most: int  # most partial matches of a partition; an event that would begin one more is left
    past_last: bool  # whether a match skips what begins up to its last event; else only itself


class MatchArrays(NamedTuple):
    """Partial matches of all partitions."""

    heads: NDArray[np.int32]  # first partial match of each partition; -1: none
    # Partitions whose events are left; each event that is left adds its own.
    apart: NDArray[np.bool_]
    pool: Any  # elements of `PARTIAL_MATCH`; at least as many are free as there are events
    ids: NDArray[np.uint64]  # ids of the events taken by each, one behind the other


class Outcome(NamedTuple):
    """Arrays that receive the results; the last three have room for all of the pool."""

    left: NDArray[np.bool_]  # events that are left; those set before, too
    touched: NDArray[np.int32]  # partial matches that took events
    # Matches, as they were before the event that completes them; not freed.
    matched: NDArray[np.int32]
    matched_at: NDArray[np.int64]  # position in the order of the event that completes each match


def move_matches(
    order: NDArray[np.int64],
    events: EventArrays,
    pattern: PatternArrays,
    matches: MatchArrays,
    free: int,
    outcome: Outcome,
) -> tuple[int, int, int, int]:
    """Apply events, in `order`, to the partial matches of their partitions.

    Returns the first free element of the pool, at first `free`, how many fewer are free, how many
    were touched and how many completed.
    """
    pool = matches.pool
    used = touched = completed = 0
    for position in range(len(order)):
        event = order[position]
        row, code = events.rows[event], events.codes[event]
        if matches.apart[row] or outcome.left[event] or undecided(event, events, pattern, matches):
            outcome.left[event] = matches.apart[row] = True
            continue
        horizon = events.times[event] - pattern.within
        before, match, over = -1, matches.heads[row], False
        while match >= 0:
            following = pool[match].next
            transition = pattern.after[pool[match].state, code]
            if over or pool[match].first <= horizon:
                transition = ENDED
            if transition in (ENDED, COMPLETES):
                link(before, following, row, matches)
                if transition == COMPLETES:
                    outcome.matched[completed], outcome.matched_at[completed] = match, position
                    completed += 1
                    over = pattern.past_last
                else:
                    pool[match].next = free
                    free = match
                    used -= 1
            else:
                if transition & 1:
                    touched = take_event(match, event, events, matches, outcome.touched, touched)
                pool[match].state = transition >> 1
                before = match
            match = following
        if pattern.begun[code] >= 0 and not over:
            match, free = free, pool[free].next
            used += 1
            pool[match].first, pool[match].first_place = events.times[event], events.places[event]
            pool[match].state, pool[match].count, pool[match].next = pattern.begun[code], 0, -1
            touched = take_event(match, event, events, matches, outcome.touched, touched)
            link(before, match, row, matches)
    return free, used, touched, completed


def undecided(
    event: int, events: EventArrays, pattern: PatternArrays, matches: MatchArrays
) -> bool:
    """Return whether an event needs more than moves of single partial matches."""
    code, pool = events.codes[event], matches.pool
    if pattern.begun[code] == ASKS:
        return True
    horizon = events.times[event] - pattern.within
    slots = matches.ids.shape[1] // ID_WORDS
    waiting = 0
    match = matches.heads[events.rows[event]]
    while match >= 0:
        if pool[match].first > horizon:
            transition = pattern.after[pool[match].state, code]
            if transition == COMPLETES:
                if waiting > 0 or pattern.past_last:
                    return waiting > 0  # a match that skips the others leaves none of them
            elif transition != ENDED:
                waiting += 1
                full = transition & 1 == 1 and pool[match].count == slots
                if transition == ASKS or full:
                    return True
        match = pool[match].next
    return pattern.begun[code] >= 0 and waiting >= pattern.most


def take_event(
    match: int,
    event: int,
    events: EventArrays,
    matches: MatchArrays,
    touched: NDArray[np.int32],
    count: int,
) -> int:
    """Append an event to a partial match; return the new number of those touched."""
    pool = matches.pool
    begin = pool[match].count * ID_WORDS
    for word in range(ID_WORDS):
        matches.ids[match, begin + word] = events.ids[event, word]
    pool[match].count += 1
    pool[match].last, pool[match].last_place = events.times[event], events.places[event]
    if pool[match].event < 0:
        touched[count] = match
        count += 1
    pool[match].event = event
    return count


def link(before: int, match: int, row: int, matches: MatchArrays) -> None:
    """Let `match` follow `before` in the list of a partition; -1: become its head."""
    if before < 0:
        matches.heads[row] = match
    else:
        matches.pool[before].next = match


@functools.cache
def load_kernel() -> Callable[..., tuple[int, int, int, int]]:
    """Load the compiled `move_matches`; the first call of a process may compile it."""
    import numba  # importing it takes a second: only for sequences
    from numba import types
    from numba.extending import register_jitable

    from tactful_streaming.kernels.compile import array, compiled

    for helper in (undecided, take_event, link):
        register_jitable(helper)
    whole, links, flags = array(types.int64), array(types.int32), array(types.boolean)
    ids, table = array(types.uint64, 2), array(types.int64, 2)
    members: dict[Any, tuple[Any, ...]] = {
        EventArrays: (whole, whole, whole, whole, ids),
        PatternArrays: (whole, table, types.int64, types.int64, types.boolean),
        MatchArrays: (links, flags, array(numba.from_dtype(PARTIAL_MATCH)), ids),
        Outcome: (flags, links, links, whole),
    }
    events, pattern, matches, outcome = (
        types.NamedTuple(kinds, structure)  # type: ignore[no-untyped-call]
        for structure, kinds in members.items()
    )
    return compiled(move_matches, (whole, events, pattern, matches, types.int64, outcome))
