"""Moves beginnings of sequences in machine code, each partition's in a chain of its own.

What it does is what `beginnings.py` does where an event decides alone: it ends a beginning, is
taken by it, is skipped or begins one, and completes one that waits for no earlier one. An event
that needs more than that is left, and so is every later one of its partition, since what has to
come before is not done here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

ID_BYTES: Final = 40
"""Bytes of an id, with the quote behind it; an event with a longer one is left."""

ID_WORDS: Final = ID_BYTES // 8

BEGINNING: Final = np.dtype(
    [
        ("first", np.int64),  # timestamp of the first event
        ("first_place", np.int64),  # its place in the log
        ("last", np.int64),  # the same of the last
        ("last_place", np.int64),
        ("state", np.int32),
        ("count", np.int32),  # events taken
        ("next", np.int32),  # in the chain of its partition, or among those not in use; -1: none
        ("event", np.int32),  # which event of the batch it took last; -1: none
    ],
    align=True,
)

ENDED: Final = -1
"""In a table of transitions: the beginning ends there, or nothing begins."""

ASKS: Final = -2
"""In a table of transitions: what comes of it is not decided here."""

COMPLETES: Final = -3
"""In a table of transitions: the beginning is a match, without a state after it."""


def move_chains(
    order: NDArray[np.int64],
    rows: NDArray[np.int64],
    times: NDArray[np.int64],
    places: NDArray[np.int64],
    codes: NDArray[np.int64],
    ids: NDArray[np.uint64],
    begun: NDArray[np.int64],
    after: NDArray[np.int64],
    within: int,
    most: int,
    past_last: bool,
    heads: NDArray[np.int32],
    apart: NDArray[np.bool_],
    pool: Any,
    taken: NDArray[np.uint64],
    free: int,
    left: NDArray[np.bool_],
    touched: NDArray[np.int32],
    matched: NDArray[np.int32],
    matched_at: NDArray[np.int64],
) -> tuple[int, int, int, int]:
    """Show events to the chains of their partitions.

    Args:
        order: of the events.
        rows: partition of each event, likewise the next five.
        times: when it happened, epoch milliseconds.
        places: its place in the log.
        codes: code of its type.
        ids: shape (events, ID_WORDS).
        begun: what an event begins, by code: a state, or :data:`ENDED` or :data:`ASKS`.
        after: what it does to a beginning, by state and code: twice the next state, plus one if it
            is taken; :data:`ENDED`, :data:`ASKS` or :data:`COMPLETES`.
        within: how long after its first event a beginning takes others, milliseconds.
        most: beginnings of one partition; where there would be more, the event is left.
        past_last: whether a match skips what begins up to its last event; else its own beginning.
        heads: first beginning of each partition; -1: none.
        apart: partitions of which all is left; grows by those of which the first event is.
        pool: beginnings, with the next of those not in use; as many of these as there are events.
        taken: ids of the events that each has taken, one behind the other.
        free: the first of those not in use.
        left: events that are left; those set already are, too.
        touched: takes which beginnings took events; there is room for all of the pool.
        matched: takes which beginnings are matches, as they were before the event that completes
            them; they stay in use. There is room for all of the pool.
        matched_at: takes which event completes each, as its place in `order`.

    Returns:
        The first of those not in use, how many fewer these are, how many were touched, and how many
        are matches.
    """
    slots = taken.shape[1] // ID_WORDS
    used = count = matches = 0
    for position in range(len(order)):
        event = order[position]
        row, code, time = rows[event], codes[event], times[event]
        begins = begun[code]
        horizon = time - within
        leaves = apart[row] or left[event] or begins == ASKS
        waiting = 0
        one = heads[row]
        while one >= 0 and not leaves:
            if pool[one].first > horizon:
                transition = after[pool[one].state, code]
                if transition == COMPLETES:
                    leaves = waiting > 0
                    if past_last:
                        break  # nothing is left of the others
                elif transition != ENDED:
                    waiting += 1
                    leaves = transition == ASKS or (
                        transition & 1 == 1 and pool[one].count == slots
                    )
            one = pool[one].next
        if leaves or (begins >= 0 and waiting >= most):
            left[event] = apart[row] = True
            continue
        before = -1
        one = heads[row]
        over = False
        while one >= 0:
            following = pool[one].next
            over_now = over or pool[one].first <= horizon
            transition = ENDED if over_now else after[pool[one].state, code]
            if transition in (ENDED, COMPLETES):
                if before < 0:
                    heads[row] = following
                else:
                    pool[before].next = following
                if transition == COMPLETES:
                    matched[matches], matched_at[matches] = one, position
                    matches += 1
                    over = past_last
                else:
                    pool[one].next = free
                    free = one
                    used -= 1
            else:
                if transition & 1:
                    begin = pool[one].count * ID_WORDS
                    for word in range(ID_WORDS):
                        taken[one, begin + word] = ids[event, word]
                    pool[one].count += 1
                    pool[one].last, pool[one].last_place = time, places[event]
                    if pool[one].event < 0:
                        touched[count] = one
                        count += 1
                    pool[one].event = event
                pool[one].state = transition >> 1
                before = one
            one = following
        if begins >= 0 and not over:
            one = free
            free = pool[one].next
            used += 1
            for word in range(ID_WORDS):
                taken[one, word] = ids[event, word]
            pool[one].first = pool[one].last = time
            pool[one].first_place = pool[one].last_place = places[event]
            pool[one].state, pool[one].count, pool[one].next = begins, 1, -1
            if pool[one].event < 0:
                touched[count] = one
                count += 1
            pool[one].event = event
            if before < 0:
                heads[row] = one
            else:
                pool[before].next = one
    return free, used, count, matches


@functools.cache
def load_kernel() -> Callable[..., tuple[int, int, int, int]]:
    """The machine code of `move_chains`. The first call of a process compiles or loads it."""
    import numba  # it takes a second, and many search for no sequence
    from numba import types

    from tactful_streaming.kernels.compile import array, compiled

    numbers, links, flags = array(types.int64), array(types.int32), array(types.boolean)
    ids, table = array(types.uint64, 2), array(types.int64, 2)
    return compiled(
        move_chains,
        (
            *(numbers, numbers, numbers, numbers, numbers, ids),
            *(numbers, table, types.int64, types.int64, types.boolean),
            *(links, flags, array(numba.from_dtype(BEGINNING)), ids, types.int64),
            *(flags, links, links, numbers),
        ),
    )
