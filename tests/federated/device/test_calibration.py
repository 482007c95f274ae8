"""Calibrated probabilities: monotone, within 0 to 1, and right against other implementations."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import brier_score_loss

from tactful_federated.device.calibration import (
    Calibration,
    brier_score,
    calibration_error,
    fit_isotonic,
    fit_sigmoid,
    reliability,
)
from tactful_federated.errors import SettingsError

FITS = (fit_isotonic, fit_sigmoid)


def drawn(size: int, seed: int = 1) -> tuple[np.ndarray, np.ndarray]:
    """Overconfident probabilities, some of them equal, and what came."""
    random = np.random.default_rng(seed)
    truth = random.random(size)
    odds = 3 * np.log(truth / (1 - truth))
    return (1 / (1 + np.exp(-odds))).round(2).clip(0.01, 0.99), random.random(size) < truth


def test_isotonic_agrees_with_scikit_learn() -> None:
    raw, came = drawn(700)
    theirs = IsotonicRegression(out_of_bounds="clip").fit(raw, came)
    asked = np.linspace(0, 1, 501)
    ours = fit_isotonic(raw, came, "public")
    assert ours.apply(asked) == pytest.approx(theirs.predict(asked), abs=1e-12)
    assert ours(0.37) == pytest.approx(float(theirs.predict([0.37])[0]), abs=1e-12)
    assert (ours.source, ours.questions) == ("public", 700)


def test_sigmoid_agrees_with_a_logistic_regression() -> None:
    """Of many answers, where Platt's targets are nearly 0 and 1."""
    raw, came = drawn(20_000)
    inside = raw.clip(1e-6, 1 - 1e-6)
    odds = np.log(inside / (1 - inside))[:, None]
    theirs = LogisticRegression(C=1e6).fit(odds, came)
    some = np.linspace(0.05, 0.95, 19)
    expected = theirs.predict_proba(np.log(some / (1 - some))[:, None])[:, 1]
    assert fit_sigmoid(raw, came, "device").apply(some) == pytest.approx(expected, abs=2e-3)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.floats(0, 1), min_size=40, max_size=80), st.randoms(use_true_random=False))
def test_every_calibration_is_monotone_and_a_probability(raw: list[float], random: object) -> None:
    came = [number % 2 for number in range(len(raw))]
    random.shuffle(came)  # type: ignore[attr-defined]
    asked = np.linspace(0, 1, 101)
    for fit in FITS:
        values = fit(raw, came, "public").apply(asked)
        assert values.min() >= 0 and values.max() <= 1
        assert (np.diff(values) >= 0).all()


def test_a_model_that_is_wrong_gets_the_base_rate() -> None:
    raw = np.repeat([0.1, 0.9], 200)
    came = np.concatenate([np.arange(200) < 120, np.arange(200) < 40])
    for fit in FITS:
        values = fit(raw, came, "public").apply([0.1, 0.9])
        assert values == pytest.approx([0.4, 0.4], abs=0.01)


def test_scores_against_other_implementations() -> None:
    raw, came = drawn(5_000)
    assert brier_score(raw, came) == pytest.approx(brier_score_loss(came, raw), abs=1e-12)
    assert brier_score([0.0, 1.0, 0.5], [0, 0, 1]) == pytest.approx((0 + 1 + 0.25) / 3)
    rows = reliability([0.05, 0.06, 0.95, 1.0], [0, 1, 1, 1])
    assert np.array(rows) == pytest.approx(np.array([[0.055, 0.5, 2], [0.975, 1.0, 2]]))
    expected = (2 * (0.5 - 0.055) + 2 * (1 - 0.975)) / 4
    assert calibration_error([0.05, 0.06, 0.95, 1.0], [0, 1, 1, 1]) == pytest.approx(expected)
    for fit in FITS:
        mended = fit(*drawn(5_000, 2), "public").apply(raw)
        assert calibration_error(mended, came) < 0.03 < calibration_error(raw, came)
    assert np.isnan(brier_score([], [])) and np.isnan(calibration_error([], []))


def test_too_few_answers_and_damaged_maps_are_refused() -> None:
    for fit in FITS:
        with pytest.raises(SettingsError, match="19 of 60 foresights came"):
            fit(np.linspace(0, 1, 60), np.arange(60) < 19, "public")
        with pytest.raises(SettingsError, match="0 to 1"):
            fit([1.5] * 60, np.arange(60) < 30, "public")
        with pytest.raises(SettingsError, match="one answer"):
            fit([0.5] * 60, np.arange(59) < 30, "public")
    for raw, calibrated in (
        ((), ()),
        ((0.1, 0.2), (0.1,)),
        ((0.2, 0.1), (0.1, 0.2)),
        ((0.1, 0.2), (0.2, 0.1)),
        ((0.1, 0.2), (0.1, 1.2)),
        ((0.1, float("nan")), (0.1, 0.2)),
    ):
        with pytest.raises(SettingsError):
            Calibration(source="public", questions=40, raw=raw, calibrated=calibrated)
