"""Calibrated probabilities of foresights: fit, application and scores.

A model's probability that a category comes within some steps is fitted to what came, by isotonic
regression (Zadrozny & Elkan, "Transforming classifier scores into accurate multiclass probability
estimates", KDD 2002) where many answers are known, and where few are by Platt's sigmoid
("Probabilistic outputs for support vector machines", 1999). Both never fall when the model's
probability rises.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_federated.errors import SettingsError, require

FEWEST: Final = 20
"""Least number of answers of either kind to fit a calibration to."""

_KNOTS = 200
_EDGE = 1e-6

Floats = NDArray[np.float64]


class Calibration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Monotone map of a model's probability to a calibrated one, linear between its knots.

    Attributes:
        source: Name of the public data that it was fitted to.
        questions: Number of the answers.
        raw: Probabilities of the model, rising, at most 1,000.
        calibrated: Calibrated ones, never falling.
    """

    source: str
    questions: int
    raw: tuple[float, ...]
    calibrated: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise `SettingsError` unless the map is monotone and within [0, 1]."""
        raw, calibrated = np.asarray(self.raw), np.asarray(self.calibrated)
        require(
            0 < len(raw) == len(calibrated) <= 1_000,
            f"a calibration has {len(raw)} and {len(calibrated)} knots: give 1 to 1,000 of both",
        )
        for name, values, least in (("raw", raw, _tiny), ("calibrated", calibrated, 0.0)):
            inside = bool(((values >= 0) & (values <= 1)).all())
            require(
                inside and bool((np.diff(values) >= least).all()),
                f"{name} of a calibration must rise within 0 to 1",
            )

    def __call__(self, probability: float) -> float:
        """Return the calibrated probability, in [0, 1]."""
        return float(np.interp(probability, self.raw, self.calibrated))

    def apply(self, probabilities: ArrayLike) -> Floats:
        """Return the calibrated probabilities of an array."""
        return np.interp(np.asarray(probabilities, dtype=np.float64), self.raw, self.calibrated)


_tiny = float(np.nextafter(0, 1))


def fit_isotonic(probabilities: ArrayLike, came: ArrayLike, source: str) -> Calibration:
    """Fit the isotonic regression of answers by pool adjacent violators.

    Blocks of equal value are reduced to their two ends, and to 200 knots at most.

    Args:
        probabilities: Predictions of the model, in any order.
        came: Whether the foreseen came.
        source: Name of the data.

    Raises:
        SettingsError: Lengths differ, or there are fewer than 20 answers of either kind.
    """
    raw, answers = _answers(probabilities, came)
    # Equal probabilities get one value: their mean.
    knots, first, counts = np.unique(raw, return_index=True, return_counts=True)
    means = np.add.reduceat(answers, first) / counts
    blocks: list[tuple[float, int, int]] = []  # value, weight, number of knots
    for value, weight in zip(means.tolist(), counts.tolist(), strict=True):
        length = 1
        while blocks and blocks[-1][0] >= value:
            before, its_weight, its_length = blocks.pop()
            value = (value * weight + before * its_weight) / (weight + its_weight)
            weight, length = weight + its_weight, length + its_length
        blocks.append((value, weight, length))
    ends, at = list[int](), 0
    for _, _, length in blocks:
        ends += [at] if length == 1 else [at, at + length - 1]
        at += length
    fitted = np.repeat([value for value, _, _ in blocks], [length for _, _, length in blocks])
    kept = np.asarray(ends)
    if len(kept) > _KNOTS:
        kept = kept[np.unique(np.linspace(0, len(kept) - 1, _KNOTS).round().astype(int))]
    return _calibration(source, len(raw), knots[kept], fitted[kept])


def fit_sigmoid(probabilities: ArrayLike, came: ArrayLike, source: str) -> Calibration:
    """Fit Platt's sigmoid of the log-odds, with his targets for few answers, by Newton's method.

    The slope is at least 0: a model that is wrong the other way round gets the base rate.

    Args:
        probabilities: Predictions of the model, in any order.
        came: Whether the foreseen came.
        source: Name of the data.

    Raises:
        SettingsError: Lengths differ, or there are fewer than 20 answers of either kind.
    """
    raw, answers = _answers(probabilities, came)
    right = answers.sum()
    targets = np.where(answers > 0, (right + 1) / (right + 2), 1 / (len(raw) - right + 2))
    inputs = np.stack([_log_odds(raw), np.ones(len(raw))], axis=1)
    weights = np.array([1.0, 0.0])
    for _ in range(50):
        fitted = _sigmoid(inputs @ weights)
        gradient = inputs.T @ (fitted - targets) + [1e-3 * (weights[0] - 1), 0]
        curvature = (inputs * (fitted * (1 - fitted))[:, None]).T @ inputs + np.diag([1e-3, 1e-9])
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step / max(1.0, float(np.abs(step).max()))
        if np.abs(step).max() < 1e-9:
            break
    if weights[0] < 0:
        weights = np.array([0.0, float(_log_odds(np.array([targets.mean()]))[0])])
    # Beyond the probabilities that were seen it stays constant, as an isotonic one does.
    lowest, highest = _log_odds(raw[[0, -1]]).tolist()
    knots = np.unique(_sigmoid(np.linspace(lowest, highest, 99)))
    values = _sigmoid(weights[0] * _log_odds(knots) + weights[1])
    return _calibration(source, len(raw), knots, values)


def brier_score(probabilities: ArrayLike, came: ArrayLike) -> float:
    """Return the mean squared difference of probability and answer; NaN without answers.

    Brier, "Verification of forecasts expressed in terms of probability", 1950.
    """
    errors = np.asarray(probabilities, dtype=np.float64) - np.asarray(came, dtype=np.float64)
    return float(np.square(errors).mean()) if errors.size else float("nan")


def reliability(
    probabilities: ArrayLike, came: ArrayLike, bins: int = 10
) -> list[tuple[float, float, int]]:
    """Return mean probability, share that came and number of answers of each bin with answers.

    Bins have equal widths.
    """
    raw, answers = np.asarray(probabilities, dtype=np.float64), np.asarray(came, dtype=np.float64)
    number = np.minimum((raw * bins).astype(int), bins - 1)
    return [
        (float(raw[inside].mean()), float(answers[inside].mean()), int(inside.sum()))
        for inside in (number == each for each in range(bins))
        if inside.any()
    ]


def calibration_error(probabilities: ArrayLike, came: ArrayLike, bins: int = 10) -> float:
    """Return the expected calibration error; NaN without answers.

    Guo et al., "On calibration of modern neural networks", ICML 2017, over bins of equal width.
    """
    rows = reliability(probabilities, came, bins)
    total = sum(count for _, _, count in rows)
    if not total:
        return float("nan")
    return sum(abs(mean - share) * count for mean, share, count in rows) / total


def _answers(probabilities: ArrayLike, came: ArrayLike) -> tuple[Floats, Floats]:
    """Return both sorted by probability."""
    raw, answers = np.asarray(probabilities, dtype=np.float64), np.asarray(came, dtype=np.float64)
    require(raw.shape == answers.shape and raw.ndim == 1, "give one answer for each probability")
    require(bool(((raw >= 0) & (raw <= 1)).all()), "probabilities must lie in 0 to 1")
    right = int((answers > 0).sum())
    if min(right, len(raw) - right) < FEWEST:
        raise SettingsError(
            f"{right} of {len(raw)} foresights came: give histories with {FEWEST} that came and"
            f" {FEWEST} that did not"
        )
    order = np.argsort(raw, kind="stable")
    return raw[order], answers[order]


def _calibration(
    source: str, questions: int, raw: Sequence[float] | Floats, calibrated: Floats
) -> Calibration:
    values = np.maximum.accumulate(np.clip(calibrated, 0, 1))  # rounding must not make it fall
    knots = tuple(np.asarray(raw).tolist())
    return Calibration(
        source=source, questions=questions, raw=knots, calibrated=tuple(values.tolist())
    )


def _log_odds(probabilities: Floats) -> Floats:
    inside = np.clip(probabilities, _EDGE, 1 - _EDGE)
    return np.log(inside / (1 - inside))


def _sigmoid(x: Floats) -> Floats:
    values: Floats = 0.5 * (1 + np.tanh(0.5 * x))
    return values
