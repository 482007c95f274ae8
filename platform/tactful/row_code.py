"""What recall does to rows and scores, written to become machine code.

Each list of candidates takes a dozen sums, orders and look-ups of some hundred rows. In numpy each
of these is several calls, and the calls cost more than the work. Rows are sorted by counting their
digits (radix sort), which is stable and takes no comparison.

Numba keeps machine code until this file changes, so that all of its source has to be in here.
"""

from __future__ import annotations

from typing import Any

import numba
import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.int64]
Floats = NDArray[np.float32]

_DIGIT = 11
_FEW = 24
_FIRST_DIGITS = 13
_SEARCHED = 16

_compiled: Any = numba.njit(error_model="numpy")


def _order_code(keys: Rows) -> Rows:
    """What sorts keys of at least 0, ties in the order they come in."""
    count = len(keys)
    order = np.arange(count)
    if count <= _FEW:
        for end in range(1, count):
            moved, place = order[end], end
            while place and keys[order[place - 1]] > keys[moved]:
                order[place] = order[place - 1]
                place -= 1
            order[place] = moved
        return order
    largest = np.int64(0)
    for place in range(count):
        largest = max(largest, keys[place])
    other = np.empty(count, np.int64)
    mask = np.int64((1 << _DIGIT) - 1)
    shift = np.int64(0)
    while largest >> shift:
        starts = np.zeros((1 << _DIGIT) + 1, np.int64)
        for place in range(count):
            starts[((keys[place] >> shift) & mask) + 1] += 1
        for digit in range(1 << _DIGIT):
            starts[digit + 1] += starts[digit]
        for place in range(count):
            digit = (keys[order[place]] >> shift) & mask
            other[starts[digit]] = order[place]
            starts[digit] += 1
        order, other = other, order
        shift += _DIGIT
    return order


_order: Any = _compiled(_order_code)


def _add_code(rows: Rows, values: NDArray[np.float64], found: Rows, totals: Floats) -> int:
    """Write the sums of rows as `sums` gives them; how many there are."""
    order = _order(rows)
    count = place = 0
    while place < len(rows):
        row, total = rows[order[place]], 0.0
        while place < len(rows) and rows[order[place]] == row:
            total += values[order[place]]
            place += 1
        if total > 0:
            found[count], totals[count] = row, total
            count += 1
    return count


_add: Any = _compiled(_add_code)


def sums(rows: Rows, values: NDArray[np.float64]) -> tuple[Rows, Floats]:
    """Rows that sum to more than 0, ascending, and their sums, added up in the order they come."""
    found, totals = np.empty(len(rows), np.int64), np.empty(len(rows), np.float32)
    count = _add(rows, values, found, totals)
    return found[:count], totals[:count]


def _neighbours_code(
    items: NDArray[np.int32],
    weights: Floats,
    sources: Rows,
    shares: Floats,
    rows: Rows,
    values: NDArray[np.float64],
) -> int:
    """Write the neighbours of several items and what each counts; how many there are."""
    count = 0
    for source in range(len(sources)):
        of = sources[source]
        if of >= len(items):
            continue
        for place in range(items.shape[1]):
            if items[of, place] >= 0:
                rows[count] = items[of, place]
                values[count] = np.float64(weights[of, place] * shares[source])
                count += 1
    return count


_neighbours: Any = _compiled(_neighbours_code)


def neighbour_sums(
    items: NDArray[np.int32], weights: Floats, sources: Rows, shares: Floats
) -> tuple[Rows, Floats]:
    """Summed weights of the neighbours of several items, and the rows they are of.

    Args:
        items: neighbours of each row, -1 for none.
        weights: of each neighbour.
        sources: rows; those beyond `items` have no neighbours.
        shares: what each source counts.
    """
    most = len(sources) * items.shape[1]
    rows, values = np.empty(most, np.int64), np.empty(most, np.float64)
    count = _neighbours(items, weights, sources, shares, rows, values)
    found, totals = np.empty(count, np.int64), np.empty(count, np.float32)
    count = _add(rows[:count], values[:count], found, totals)
    return found[:count], totals[:count]


def _keys_code(values: Floats) -> Rows:
    """Numbers from 0 to 2**32, the smaller the larger a value is; of two zeros one."""
    # The bits of floats are in order as integers are; those of negative ones in reverse.
    bits = (values + np.float32(0.0)).view(np.int32)
    keys = np.empty(len(values), np.int64)
    for place in range(len(values)):
        rank = np.int64(bits[place])
        reverse = np.int64(-0x80000000) - rank - np.int64(1)
        keys[place] = np.int64(0x7FFFFFFF) - (rank if rank >= 0 else reverse)
    return keys


_keys: Any = _compiled(_keys_code)


def _best_code(values: Floats) -> Rows:
    """What sorts values in descending order, ties in the order they come in."""
    found: Rows = _order(_keys(values))
    return found


best: Any = _compiled(_best_code)


def largest(rows: Rows, values: Floats, count: int) -> tuple[Rows, Floats]:
    """The `count` rows with the largest values, the largest first, ties by row.

    Args:
        rows: each once, in any order.
        values: of each of them, none NaN.
        count: at least 1 and at most as many as there are.
    """
    # Most rows are ruled out by the first digits of their keys.
    every = _keys(values)
    shift = np.int64(32 - _FIRST_DIGITS)
    sizes = np.zeros(1 << _FIRST_DIGITS, np.int32)
    for place in range(len(rows)):
        sizes[every[place] >> shift] += 1
    last, taken = 0, sizes[0]
    while taken < count:
        last += 1
        taken += sizes[last]
    some, keys = np.empty(taken, np.int64), np.empty(taken, np.int64)
    at = 0
    for place in range(len(rows)):
        if every[place] >> shift <= last:
            some[at], keys[at] = place, every[place]
            at += 1
    order = _order(keys)
    for end in range(1, taken):
        moved, place = order[end], end
        while (
            place
            and keys[order[place - 1]] == keys[moved]
            and rows[some[order[place - 1]]] > rows[some[moved]]
        ):
            order[place] = order[place - 1]
            place -= 1
        order[place] = moved
    found, theirs = np.empty(count, np.int64), np.empty(count, np.float32)
    for place in range(count):
        one = some[order[place]]
        found[place], theirs[place] = rows[one], values[one]
    return found, theirs


def merge(
    rows: Rows, sizes: Rows, channels: NDArray[np.int8], total: int
) -> tuple[Rows, NDArray[np.int8]]:
    """At most `total` rows of several channels, ascending, and the channel of each.

    A row belongs to the channel that placed it highest, of two the one that comes first. If there
    are more rows than `total`, those placed highest stay, of equal places the lower rows.

    Args:
        rows: of all channels, one channel after the other, each with its best first.
        sizes: how many each channel brings.
        channels: their numbers.
        total: how many to keep.
    """
    count = len(rows)
    places, of = np.empty(count, np.int64), np.empty(count, np.int8)
    at = most = 0
    for number in range(len(sizes)):
        most = max(most, sizes[number])
        for place in range(sizes[number]):
            places[at], of[at] = place, channels[number]
            at += 1
    order = _order(rows)
    kept, kept_at = np.empty(count, np.int64), np.empty(count, np.int64)
    kept_of = np.empty(count, np.int8)
    found = 0
    for number in range(count):
        one = order[number]
        if found and kept[found - 1] == rows[one]:
            if places[one] < kept_at[found - 1]:
                kept_at[found - 1], kept_of[found - 1] = places[one], of[one]
        else:
            kept[found], kept_at[found], kept_of[found] = rows[one], places[one], of[one]
            found += 1
    if found <= total:
        return kept[:found], kept_of[:found]
    at_place = np.zeros(most + 1, np.int64)
    for number in range(found):
        at_place[kept_at[number]] += 1
    last = 0
    before = np.int64(0)
    while before + at_place[last] <= total:
        before += at_place[last]
        last += 1
    left = total - before
    count = 0
    for number in range(found):
        if kept_at[number] < last or (kept_at[number] == last and left > 0):
            left -= np.int64(kept_at[number] == last)
            kept[count], kept_of[count] = kept[number], kept_of[number]
            count += 1
    return kept[:count], kept_of[:count]


def look_up(
    rows: Rows,
    scored: Rows,
    values: Floats,
    ends: Rows,
    absent: Floats,
    columns: Rows,
    features: Floats,
) -> None:
    """Several columns become the values that lists of scores have of `rows`.

    Args:
        rows: ascending.
        scored: rows of all lists, one list after the other, each ascending and each row once.
        values: of `scored`.
        ends: where each list ends.
        absent: by list, the value of a row that is not in it.
        columns: by list, which of `features` it becomes.
        features: shape (columns, len(rows)).
    """
    count = len(rows)
    start = np.int64(0)
    for each in range(len(ends)):
        found, none = features[columns[each]], absent[each]
        for number in range(count):
            found[number] = none
        begin = np.int64(0)
        few = (ends[each] - start) * _SEARCHED < count
        for place in range(start, ends[each]):
            row = scored[place]
            if few:
                end = np.int64(count)
                while begin < end:
                    middle = (begin + end) >> 1
                    if rows[middle] < row:
                        begin = middle + 1
                    else:
                        end = middle
            else:
                while begin < count and rows[begin] < row:
                    begin += 1
            if begin == count:
                break
            if rows[begin] == row:
                found[begin] = values[place]
                begin += 1
        start = ends[each]


def look_up_places(rows: Rows, scored: Rows, values: Floats, found: Floats) -> None:
    """``found[i]`` becomes the place of ``rows[i]`` among `scored` by value, 0 the best.

    NaN for a row that is not among them or whose value is not above 0.

    Args:
        rows: ascending.
        scored: ascending, each once.
        values: of `scored`.
        found: of the length of `rows`.
    """
    order = best(values)
    places = np.empty(len(scored), np.int64)
    for place in range(len(order)):
        places[order[place]] = place
    place = 0
    for number in range(len(rows)):
        row = rows[number]
        while place < len(scored) and scored[place] < row:
            place += 1
        here = place < len(scored) and scored[place] == row and values[place] > 0
        found[number] = np.float32(places[place]) if here else np.float32(np.nan)


def _stood_code(
    session_starts: Rows,
    session_items: NDArray[np.int32],
    visits: NDArray[np.int32],
    places: NDArray[np.int32],
    row: int,
    step: int,
    rows: Rows,
) -> int:
    """Write what stood beside an item in each of some visits; in how many of them anything did."""
    count = 0
    for number in range(len(visits)):
        start, end = session_starts[visits[number]], session_starts[visits[number] + 1]
        at = start + places[number] + step
        if start <= at < end and session_items[at] != row:
            rows[count] = session_items[at]
            count += 1
    return count


_stood: Any = _compiled(_stood_code)


def beside(
    session_starts: Rows,
    session_items: NDArray[np.int32],
    visits: NDArray[np.int32],
    places: NDArray[np.int32],
    row: int,
    step: int,
) -> tuple[Rows, Floats]:
    """How many of some visits have each item so many places after another one.

    Args:
        session_starts: where each visit begins in `session_items`, and the end.
        session_items: items visit by visit.
        visits: those to look at.
        places: the place of the other item in each of them.
        row: the other item, which is not counted itself.
        step: how many places after it, or before it if it is below 0.
    """
    rows = np.empty(len(visits), np.int64)
    count = _stood(session_starts, session_items, visits, places, row, step, rows)
    found, counts = np.empty(count, np.int64), np.empty(count, np.float32)
    count = _add(rows[:count], np.ones(count, np.float64), found, counts)
    return found[:count], counts[:count]


def around(
    following_items: NDArray[np.int32],
    following_weights: Floats,
    together_items: NDArray[np.int32],
    together_weights: Floats,
    session_starts: Rows,
    session_items: NDArray[np.int32],
    visit_starts: Rows,
    visits: NDArray[np.int32],
    visit_places: NDArray[np.int32],
    recent: Rows,
    visited: int,
    fading: Floats,
    nearer: Floats,
    doubt: float,
    allowed: NDArray[np.bool_],
    quotas: Rows,
) -> tuple[Rows, Floats, Rows, Rows, Rows]:
    """What is known of the items around those of a visit and a history, as lists of scores.

    They are, one list after the other: what followed the last item, what followed the last three,
    what followed the visit, what was together with the visit, with the history and with the last
    item; how often items stood right after the last one, two places after the last but one, and
    right before the last. The last are those of the history where the visit is empty.

    Args:
        following_items: as of `neighbour_sums`, of what followed.
        following_weights: likewise.
        together_items: likewise, of what was together.
        together_weights: likewise.
        session_starts: as of `beside`.
        session_items: likewise.
        visit_starts: where each item begins in `visits`, and the end.
        visits: those that each item was in.
        visit_places: the place of the item in each of them.
        recent: rows of the visit, then of the history, each newest first.
        visited: how many of them are of the visit.
        fading: what each item of the visit and of the history counts, by its place, the first 1.
        nearer: what each of the last three counts.
        doubt: so many visits without an item are taken to be there besides.
        allowed: which rows may be chosen.
        quotas: by list, how many of its best may be chosen.

    Returns:
        Rows of all lists, each list ascending; their values; where each list ends; the chosen rows
        of all lists, the best of each first; and how many of each they are.
    """
    last = min(len(nearer), visited if visited else len(recent))
    width = max(following_items.shape[1], together_items.shape[1])
    most = (2 + last + visited + len(recent)) * width
    steps = (1, 2, -1)
    begins, stops = np.zeros(3, np.int64), np.zeros(3, np.int64)
    for number in range(3):
        row = recent[number % 2] if number % 2 < last else len(visit_starts)
        if row < len(visit_starts) - 1:
            begins[number], stops[number] = visit_starts[row], visit_starts[row + 1]
        most += stops[number] - begins[number]
    every, values = np.empty(most, np.int64), np.empty(most, np.float32)
    chosen = np.empty(most, np.int64)
    ends, sizes = np.empty(9, np.int64), np.zeros(9, np.int64)
    rows, counts = np.empty(most, np.int64), np.empty(most, np.float64)
    total = np.int64(0)
    picked = np.int64(0)
    # One place for all that is done to a list: what is seldom called is slow by its length.
    for number in range(9):
        share = np.float64(1.0)
        if number < 6:
            start = visited if number == 4 else 0
            stop = (1, last, visited, visited, len(recent), 1)[number]
            count = _neighbours(
                following_items if number < 3 else together_items,
                following_weights if number < 3 else together_weights,
                recent[start:stop],
                nearer if number == 1 else fading,
                rows,
                counts,
            )
        else:
            step, begin, stop = steps[number - 6], begins[number - 6], stops[number - 6]
            count = 0
            if stop > begin:
                count = _stood(
                    session_starts,
                    session_items,
                    visits[begin:stop],
                    visit_places[begin:stop],
                    recent[(number - 6) % 2],
                    step,
                    rows,
                )
            counts[:count] = 1.0
            share = np.float64(stop - begin) + doubt
        found = _add(rows[:count], counts[:count], every[total:], values[total:])
        if number >= 6:
            for place in range(total, total + found):
                values[place] = np.float64(values[place]) / share
        if quotas[number]:
            order = best(values[total : total + found])
            for place in range(found):
                row = every[total + order[place]]
                if sizes[number] < quotas[number] and allowed[row]:
                    chosen[picked] = row
                    picked += 1
                    sizes[number] += 1
        total += found
        ends[number] = total
    return every[:total], values[:total], ends, chosen[:picked], sizes


def of_items(
    rows: Rows,
    prices: Floats,
    categories: NDArray[np.int32],
    tables: Floats,
    last: np.int64,
    usual: np.float32,
    columns: Rows,
    features: Floats,
) -> Rows:
    """Columns of what the catalogue says of `rows`; their categories, -1 for an unknown one.

    Args:
        rows: any.
        prices: of every row.
        categories: of every row, -1 for an unknown one.
        tables: numbers by category, and at the end of an unknown one; shape (tables, categories).
        last: category of the latest item, -1 if it has none, -2 if there is no such item.
        usual: what prices are divided by.
        columns: which of `features` becomes the price, the price by the usual one, whether the
            category is the latest, and the numbers of each table.
        features: shape (columns, len(rows)).
    """
    unknown = tables.shape[1] - 1
    found, costs = np.empty(len(rows), np.int64), features[columns[0]]
    # Rows lie far apart. A loop that does nothing else has more of them on their way at once.
    for number in range(len(rows)):
        found[number] = categories[rows[number]]
        costs[number] = prices[rows[number]]
    for number in range(len(rows)):
        category = found[number]
        features[columns[1], number] = costs[number] / usual
        same = np.float32(category == last and category >= 0)
        features[columns[2], number] = same if last > -2 else np.float32(np.nan)
        for table in range(len(tables)):
            at = category if category >= 0 else unknown
            features[columns[3 + table], number] = tables[table, at]
    return found
