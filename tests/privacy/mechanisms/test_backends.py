"""One contract for all makers of noise: distribution, freshness, intervals, refusals.

The other libraries cannot be seeded, so tests of draws are at a false alarm rate of 1e-10 each; a
planted scale is missed more rarely still.
"""

import importlib
import math
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tactful_privacy.errors import BackendError, ParameterError
from tactful_privacy.mechanisms.backends import Backend, Noise, laplace_noise
from tactful_privacy.mechanisms.laplace import WideLaplace

BACKENDS: list[Backend] = ["table", "opendp", "diffprivlib"]
FALSE_ALARM = 1e-10
DRAWS = 40_000


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> Backend:
    return request.param  # type: ignore[no-any-return]


def chance(noise: Noise, draws: list[int]) -> float:
    """P-value of the draws against the stated probabilities, rare outer values put together."""
    # Of what is put together there must be enough for chi-square to hold that far out.
    edge, tail = 0, (1 - noise.probability(0)) / 2
    while (rest := tail - noise.probability(edge + 1)) * len(draws) > 40:
        edge, tail = edge + 1, rest
    observed = np.bincount(np.clip(draws, -edge - 1, edge + 1) + edge + 1, minlength=2 * edge + 3)
    inner = [float(noise.probability(k)) for k in range(-edge, edge + 1)]
    expected = np.array([float(tail), *inner, float(tail)]) * len(draws)
    return float(stats.chisquare(observed, expected).pvalue)


@pytest.mark.slow
@pytest.mark.parametrize(("sensitivity", "epsilon"), [(1, "1"), (5, "1"), (3, "10")])
def test_draws_have_the_stated_probabilities(
    backend: Backend, sensitivity: int, epsilon: str
) -> None:
    noise = laplace_noise(sensitivity, epsilon, backend)
    assert chance(noise, noise.sample(DRAWS).tolist()) > FALSE_ALARM


@pytest.mark.slow
def test_planted_scale_ten_percent_low_is_caught(backend: Backend) -> None:
    planted, claimed = laplace_noise(10, "10/9", backend), laplace_noise(10, "1", backend)
    assert chance(claimed, planted.sample(DRAWS).tolist()) < FALSE_ALARM


def test_stated_probabilities_are_discrete_laplace(backend: Backend) -> None:
    noise = laplace_noise(5, "1", backend)
    ratio = math.exp(-1 / 5)
    for k in range(-50, 51):
        ideal = (1 - ratio) / (1 + ratio) * ratio ** abs(k)
        assert math.isclose(noise.probability(k), ideal, rel_tol=1e-12)
    assert (noise.sensitivity, noise.epsilon, noise.scale) == (5, Fraction(1), Fraction(5))
    assert noise.delta(2) <= noise.delta(1)
    assert 0 <= noise.delta(1) < Fraction(1, 10**11)
    for n in (0, 1, 7):
        assert noise.sample(n).shape == (n,)
        assert noise.sample(n).dtype == np.int64
    with pytest.raises(ParameterError, match="0 or more"):
        noise.sample(-1)


@pytest.mark.slow
def test_two_arrays_agree_by_chance_only(backend: Backend) -> None:
    noise = laplace_noise(5, "1", backend)
    same = float(sum(noise.probability(k) ** 2 for k in range(-200, 201)))
    equal = int((noise.sample(DRAWS) == noise.sample(DRAWS)).sum())
    assert stats.binomtest(equal, DRAWS, same).pvalue > FALSE_ALARM


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say(backend: Backend) -> None:
    noise = laplace_noise(5, "1", backend)
    h = noise.interval("0.9")
    exact = float(sum(noise.probability(k) for k in range(-h, h + 1)))
    covered = int((abs(noise.sample(DRAWS)) <= h).sum())
    assert exact >= 0.9
    assert stats.binomtest(covered, DRAWS, exact).pvalue > FALSE_ALARM


def test_parameters_out_of_range_are_refused(backend: Backend) -> None:
    with pytest.raises(ParameterError, match="scale"):
        laplace_noise(10**6, "1/10000", backend)
    wrong: Any
    for wrong in (0, -1, 1.0, True, "1"):
        with pytest.raises(ParameterError, match="sensitivity"):
            laplace_noise(wrong, 1, backend)


def test_epsilon_that_is_not_an_exact_number_in_range_is_refused(backend: Backend) -> None:
    wrong: Any
    for wrong in (0.1, 1.0, True, None, "one", "nan", "inf", "1/0", 0, -1, 41):
        with pytest.raises(ParameterError, match="epsilon"):
            laplace_noise(1, wrong, backend)


def test_opendp_computes_no_more_than_the_claim() -> None:
    import opendp.prelude as dp

    for epsilon in ("1", "1/3", "1/24", "2.7"):
        measurement = vars(laplace_noise(5, epsilon, "opendp"))["_measurement"]
        assert isinstance(measurement, dp.Measurement)
        computed = Fraction(measurement.map(5))  # type: ignore[no-untyped-call]
        assert 0 <= Fraction(epsilon) - computed < Fraction(1, 10**12)


@pytest.mark.parametrize("name", ["opendp", "diffprivlib"])
def test_a_missing_library_is_named_with_what_installs_it(
    name: Backend, monkeypatch: pytest.MonkeyPatch
) -> None:
    def missing(module: str) -> None:
        raise ImportError(module)

    # The package's attribute of that name is the module, whose import is what fails here.
    monkeypatch.setattr(
        importlib.import_module("tactful_privacy.mechanisms.backends"), "import_module", missing
    )
    with pytest.raises(BackendError, match=r"tactful\[noise\]"):
        laplace_noise(1, 1, name)


def test_what_a_backend_cannot_do_is_refused() -> None:
    assert isinstance(laplace_noise(200_000, 1), WideLaplace), "one table would grow too large"
    with pytest.raises(ParameterError, match="100000"):
        laplace_noise(200_000, 1, "opendp")
    with pytest.raises(ParameterError, match="no noise backend 'numpy'"):
        laplace_noise(1, 1, "numpy")  # type: ignore[arg-type]
    with pytest.raises(ParameterError, match="uses its own entropy"):
        laplace_noise(1, 1, "opendp", entropy=np.random.default_rng(1).bytes)
