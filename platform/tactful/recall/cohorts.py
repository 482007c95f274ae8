"""Cold start: recommendations by cohort, for users without a history.

Users are described by properties (age, gender, membership...). Each value of each property is a
cohort, and for each cohort training counts how much more or less often than others its users take
an item. The cohorts of a user add up, as in naive Bayes, on the scale of log-odds: that of
popularity and of the ranking model. Every item the user looks at reduces their weight, down to
zero after a few: behaviour says more than demographics.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeGuard

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.request_context import RequestContext
from tactful.errors import ModelError
from tactful.kernels.sparse_scores import Scores
from tactful.util.checked_arrays import is_finite, map_array, require, within
from tactful_privacy.decoding import DECODE_ERRORS

FEWEST_PEOPLE = 10
"""A cohort of fewer users is left out: it would reveal the choices of single users."""

KNOWN_ITEMS = 5
"""With so many items of the visit and the history, demographics count for nothing."""

_FILE = "cohorts.json"
_SHARE = 0.5
_PRIOR_PEOPLE = 50.0
_BINS = 6
_MOST_VALUES = 64
_MOST_LIFTS = 500

Properties = Mapping[str, Any]


class _Layout(msgspec.Struct, frozen=True):
    """Layout of the cohorts, such as ``{"member": {"yes": 0}, "age": {"#0": 1}}``."""

    values: dict[str, dict[str, int]]  # cohort by property and value; of a number, by bin
    edges: dict[str, list[float]]  # inner edges of the bins of properties that are numbers


@dataclass(frozen=True)
class Cohorts:
    """Lifts of items by cohort."""

    layout: _Layout
    # rows of items whose lift matters most, shape (cohorts, k); -1 where there are fewer
    items: NDArray[np.int32]
    # their lifts, shape (cohorts, k): logarithm of the ratio between the rate at which the cohort
    # takes the item and the rate of all
    lifts: NDArray[np.float32]
    shares: NDArray[np.float32]  # share of all described users who took each item, shape (n_items,)

    @classmethod
    def empty(cls) -> Cohorts:
        """Make an empty set of cohorts."""
        return cls(
            _Layout({}, {}),
            np.zeros((0, 1), np.int32),
            np.zeros((0, 1), np.float32),
            np.zeros(0, np.float32),
        )

    @classmethod
    def fit(
        cls,
        people: Sequence[Properties],
        person: NDArray[np.int64],  # number in `people` of the user who took an item, shape (n,)
        item: NDArray[np.int64],  # row of the item, shape (n,)
        count: int,
        *,
        most: int = _MOST_LIFTS,  # lifts to keep for each cohort: those with the largest effect
    ) -> Cohorts:
        """Count the items that each cohort takes.

        Numbers are cut into six bins of about equally many users; a text, a truth value or each
        element of a list stands for itself. Properties with more than 64 values, like postcodes,
        are left out; so are those about consent, and cohorts of fewer than `FEWEST_PEOPLE`. Lifts
        shrink towards 0 as if 50 more users of the cohort chose like all users.
        """
        from scipy import sparse  # only learning needs it: 20 MB in every process that serves

        active = np.unique(person)
        if len(active) < FEWEST_PEOPLE:
            return cls.empty()
        shape = (len(people), count)
        took = sparse.coo_matrix((np.ones(len(item), np.float32), (person, item)), shape=shape)
        taken = took.tocsr()
        taken.data[:] = 1.0
        taken = taken[active]
        layout, members = _lay_out([people[number] for number in active.tolist()])
        shares = np.asarray(taken.sum(axis=0)).ravel() / np.float32(len(active))
        items = np.full((len(members), most), -1, np.int32)
        lifts = np.zeros((len(members), most), np.float32)
        popular = np.flatnonzero(shares > 0)
        expected = shares[popular]
        for number, rows in enumerate(members):
            seen = np.asarray(taken[rows].sum(axis=0)).ravel()[popular]
            chance = (seen + _PRIOR_PEOPLE * expected) / (len(rows) + _PRIOR_PEOPLE)
            lift = np.log(chance / expected)
            best = np.lexsort((popular, -np.abs(lift) * expected))[:most]
            items[number, : len(best)] = popular[best]
            lifts[number, : len(best)] = lift[best]
        return cls(layout, items, lifts, shares.astype(np.float32))

    @classmethod
    def load(cls, directory: Path, count: int) -> Cohorts:
        """Map the cohorts of `count` items.

        Raises:
            ModelError: if a file is missing, or does not fit the others; the message names it.
        """
        layout_path, *paths = (
            directory / name for name in (_FILE, *(f"{name}.npy" for name in cls.empty().arrays()))
        )
        try:
            layout = msgspec.json.decode(layout_path.read_bytes(), type=_Layout)
        except (OSError, *DECODE_ERRORS) as error:
            raise ModelError(f"{layout_path}: cannot be read: {error}") from error
        kinds = ((np.int32, 2), (np.float32, 2), (np.float32, 1))
        arrays = [map_array(path, *kind) for path, kind in zip(paths, kinds, strict=True)]
        items, lifts, shares = arrays
        require(within(items, count, begin=-1), paths[0], "rows of items")
        require(lifts.shape == items.shape and is_finite(lifts), paths[1], "lifts")
        fits = len(shares) == (count if len(items) else len(shares)) and is_finite(shares)
        require(fits, paths[2], "shares of items")
        numbers = [number for cohorts in layout.values.values() for number in cohorts.values()]
        fits = all(0 <= number < len(items) for number in numbers)
        require(fits, layout_path, "numbers of cohorts")
        return cls(layout, items, lifts, shares)

    def save(self, directory: Path) -> None:
        """Write the layout; the arrays go with those of the index."""
        (directory / _FILE).write_bytes(msgspec.json.encode(self.layout))

    def arrays(self) -> dict[str, NDArray[Any]]:
        """Return the arrays by the names they are saved under."""
        return {
            "cohort_items": self.items,
            "cohort_lifts": self.lifts,
            "cohort_shares": self.shares,
        }

    def of(self, properties: Properties) -> list[int]:
        """Return the cohorts of a user, ascending."""
        numbers = set()
        for name, known in self.layout.values.items():
            for value in _values(properties.get(name), self.layout.edges.get(name)):
                if value in known:
                    numbers.add(known[value])
        return sorted(numbers)

    def lift(self, properties: Properties) -> Scores | None:
        """Return the user's lift of each item in log-odds; None for a user of no cohort.

        It is half the sum of the lifts of the user's cohorts: properties overlap (students are
        young), and the whole sum would count the overlap twice.
        """
        cohorts = self.of(properties) if properties else []
        if not cohorts:
            return None
        items, lifts = self.items[cohorts].ravel(), self.lifts[cohorts].ravel()
        rows, places = np.unique(items[items >= 0], return_inverse=True)
        totals = np.bincount(places, weights=lifts[items >= 0], minlength=len(rows))
        return Scores(rows.astype(np.int64), (_SHARE * totals).astype(np.float32))

    def expected(self, lift: Scores) -> NDArray[np.int64]:
        """Return the rows with a lift by the probability of being taken, best first."""
        shares = self.shares[lift.rows]
        worth = np.log(np.maximum(shares, np.float32(1e-9))) + lift.values
        return lift.rows[np.lexsort((lift.rows, -worth))]


def coldness(context: RequestContext) -> float:
    """Return 1 for a user without items, falling to 0 at `KNOWN_ITEMS` items or more."""
    known = len({*context.session, *context.history})
    return max(0.0, 1.0 - known / KNOWN_ITEMS)


def _lay_out(people: Sequence[Properties]) -> tuple[_Layout, list[list[int]]]:
    """Lay out the cohorts of some users, and list the members of each."""
    numbers: dict[str, list[float]] = defaultdict(list)
    for properties in people:
        for name, value in properties.items():
            if _is_number(value):
                numbers[name].append(float(value))
    edges = {}
    for name, values_of_name in numbers.items():
        cuts = np.quantile(values_of_name, np.linspace(0.0, 1.0, _BINS + 1)[1:-1])
        edges[name] = np.unique(cuts).tolist()
    members: dict[str, dict[str, list[int]]] = defaultdict(lambda: defaultdict(list))
    for number, properties in enumerate(people):
        for name, value in properties.items():
            if name.startswith("consent"):
                continue
            for text in _values(value, edges.get(name)):
                members[name][text].append(number)
    values: dict[str, dict[str, int]] = {}
    cohorts: list[list[int]] = []
    for name in sorted(members):
        if len(members[name]) > _MOST_VALUES:
            continue
        for text in sorted(members[name]):
            if len(members[name][text]) >= FEWEST_PEOPLE:
                values.setdefault(name, {})[text] = len(cohorts)
                cohorts.append(members[name][text])
    return _Layout(values, {name: cuts for name, cuts in edges.items() if name in values}), cohorts


def _values(value: Any, edges: Sequence[float] | None) -> list[str]:
    """Return the values of a property as texts; a number by its bin."""
    if isinstance(value, list):
        return sorted({text for element in value for text in _values(element, edges)})
    if _is_number(value):
        return [] if edges is None else [f"#{int(np.searchsorted(edges, value, side='right'))}"]
    if isinstance(value, bool):
        return ["yes" if value else "no"]
    return [f"={value}"] if isinstance(value, str) and value else []


def _is_number(value: Any) -> TypeGuard[int | float]:
    """Return whether `value` is a number; a boolean or NaN is not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value
