from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from benchmarks.experiments import canary
from tactful_bandits.analysis.noisy_samples import ReleasedProportion
from tactful_bandits.analysis.samples import Mean, Proportion, Sample
from tactful_bandits.analysis.skewed_means import SkewedMean
from tactful_bandits.errors import DefinitionError, StatisticsError
from tactful_bandits.rollouts.guardrails import Guardrail, check_guardrails

CTR = Guardrail("ctr")


def verdict(guardrail: Guardrail, control: Sample, treatment: Sample) -> str:
    (look,) = check_guardrails([guardrail], {guardrail.metric: (control, treatment)})
    return look.verdict


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.12, 0.03])
def test_harmless_canaries_are_rarely_rolled_back(rate: float) -> None:
    # At 5 %, more than 33 of 400 come once in five hundred seeds; this is one fixed seed.
    assert canary.simulate(400, rate, 0.0, seed=11).share <= 33 / 400


def test_a_drop_of_a_fifth_is_rolled_back_and_soon() -> None:
    # Within 6,000 canary users all but one in some two thousand are.
    dropped = canary.simulate(200, 0.12, -0.2, seed=12)
    assert dropped.share >= 0.99
    assert np.median(dropped.rolled_back) <= 1300


@pytest.mark.slow
def test_with_noise_it_takes_a_little_longer() -> None:
    dropped = canary.simulate(200, 0.12, -0.2, seed=13, epsilon=1)
    assert dropped.share >= 0.97
    assert np.median(dropped.rolled_back) <= 1600
    assert canary.simulate(200, 0.12, 0.0, seed=14, epsilon=1).share <= 0.1


@pytest.mark.slow
def test_a_rule_that_forgets_the_noise_would_be_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    told = canary._arm
    monkeypatch.setattr(canary, "_arm", lambda n, clicks, added, _: told(n, clicks, added, 0.0))
    quarter: Any = "0.25"
    assert canary.simulate(100, 0.12, 0.0, seed=15, epsilon=quarter).share > 0.25


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.12, 0.03])
def test_false_rollbacks_stay_below_five_percent(rate: float) -> None:
    assert canary.simulate(4000, rate, 0.0, seed=16).share <= 0.05


MANY, FEW_ERRORS = Proportion(90_000, 10_800), Proportion(9000, 4)
FEW_RELEASED = ReleasedProportion(4, 8996, 2, 2)
WORSE = Proportion(900_000, 108_000), Proportion(100_000, 11_300)  # 5.8 % lower
SLOWER = tuple(Mean(5000, 5000 * m, 5000 * (m**2 + 400)) for m in (100.0, 105.0))
LOWER = Guardrail("m", better="lower")
RARE = Guardrail("m", better="lower", margin=0.5)


@pytest.mark.parametrize(
    ("guardrail", "control", "treatment", "expected"),
    [
        (CTR, MANY, Proportion(10_000, 960), "harm"),
        (CTR, MANY, Proportion(10_000, 1200), "undecided"),
        (CTR, MANY, Proportion(10_000, 1500), "no harm"),
        (CTR, MANY, Proportion(399, 60), "too few data"),
        (LOWER, MANY, Proportion(10_000, 1500), "harm"),
        (LOWER, MANY, Proportion(10_000, 960), "no harm"),
        # A margin permits a small loss.
        (CTR, *WORSE, "harm"),
        (Guardrail("ctr", margin=0.1), *WORSE, "no harm"),
        (LOWER, *SLOWER, "harm"),
        (Guardrail("ms", better="lower", margin=0.1), *SLOWER, "no harm"),
        # No clicks at all: the counts that the normal law asks for would never come.
        (CTR, Proportion(4500, 540), Proportion(500, 0), "harm"),
        (CTR, ReleasedProportion(540, 3960, 20, 20), ReleasedProportion(-3, 503, 20, 20), "harm"),
        # Rare outcomes are judged exactly.
        (RARE, FEW_ERRORS, Proportion(1000, 0), "undecided"),
        (RARE, FEW_ERRORS, Proportion(1000, 2), "undecided"),
        (RARE, FEW_ERRORS, Proportion(1000, 60), "harm"),
        (RARE, FEW_ERRORS, Proportion(399, 60), "too few data"),
        (replace(RARE, margin=0.9), Proportion(90_000, 40), Proportion(90_000, 0), "no harm"),
        (RARE, FEW_RELEASED, ReleasedProportion(60, 940, 2, 2), "too few data"),
    ],
)
def test_verdict(guardrail: Guardrail, control: Sample, treatment: Sample, expected: str) -> None:
    assert verdict(guardrail, control, treatment) == expected


def test_what_is_not_critical_warns_only_and_all_share_alpha() -> None:
    rails = [CTR, Guardrail("errors", better="lower", critical=False)]
    bad = (Proportion(90_000, 10_800), Proportion(10_000, 960))
    worse = (Proportion(90_000, 10_800), Proportion(10_000, 1500))
    looks = check_guardrails(rails, {"ctr": bad, "errors": worse})
    assert [look.verdict for look in looks] == ["harm", "harm"]
    assert [look.rolls_back for look in looks] == [True, False]
    alone = check_guardrails([CTR], {"ctr": bad})[0].loss
    beside = check_guardrails([CTR, Guardrail("sales")], {"ctr": bad, "sales": bad})[0].loss
    assert alone is not None
    assert beside is not None
    assert beside.low < alone.low


def test_what_cannot_guard_is_refused() -> None:
    for options, message in (
        ({"metric": ""}, "name of its metric"),
        ({"metric": "m", "better": "up"}, "better must be one of higher, lower"),
        ({"metric": "m", "margin": 1}, "margin must lie in"),
        ({"metric": "m", "minimum_units": 1}, "minimum_units must be at least 2"),
    ):
        with pytest.raises(DefinitionError, match=message):
            Guardrail(**options)
    with pytest.raises(StatisticsError, match=r"no samples of this metric; samples exist for \[\]"):
        check_guardrails([CTR], {})


def test_the_last_look_sees_what_was_saved_for_it() -> None:
    control = Proportion(54_000, 6480)
    for clicks, at_last in ((674, "undecided"), (665, "harm")):  # 1.8 and 2.1 standard errors
        samples = {"ctr": (control, Proportion(6000, clicks))}
        assert check_guardrails([CTR], samples)[0].verdict == "undecided"
        assert check_guardrails([CTR], samples, last_look=True)[0].verdict == at_last


@pytest.mark.slow
def test_rare_errors_seldom_cry_wolf() -> None:
    rng = np.random.default_rng(17)
    errors = Guardrail("errors", better="lower")
    rolled_back = 0
    for _ in range(200):
        control = np.cumsum(rng.binomial(450, 0.002, 60))
        treatment = np.cumsum(rng.binomial(50, 0.002, 60))
        rolled_back += any(
            verdict(
                errors,
                Proportion(450 * (look + 1), int(control[look])),
                Proportion(50 * (look + 1), int(treatment[look])),
            )
            == "harm"
            for look in range(60)
        )
    assert rolled_back <= 10


REVENUE = Guardrail("revenue")


def revenue(rng: np.random.Generator, users: int, buyers: float, scale: float = 1.0) -> SkewedMean:
    """Lognormal amounts of sigma 2 for a share of the users."""
    bought = rng.binomial(users, buyers)
    amounts = np.zeros(users)
    amounts[:bought] = scale * rng.lognormal(3, 2, bought)
    return SkewedMean.from_units(amounts)


@pytest.mark.slow
@pytest.mark.parametrize("alpha", [0.01, 0.05])
def test_revenue_seldom_rolls_back_a_harmless_change(alpha: float) -> None:
    """At 2 % buyers in the small arm of a canary; 40 % of them were rolled back at alpha 1 %.

    At a true rate of alpha, more than 3 (1 %) or 9 (5 %) of 80 come once in a hundred seeds.
    """
    rng = np.random.default_rng(18)
    rolled_back = 0
    for _ in range(80):
        samples = {"revenue": (revenue(rng, 59_400, 0.02), revenue(rng, 600, 0.02))}
        (look,) = check_guardrails([REVENUE], samples, alpha=alpha, last_look=True)
        rolled_back += look.rolls_back
    assert rolled_back <= (3 if alpha == 0.01 else 9)


@pytest.mark.parametrize(
    ("control", "change", "expected"),
    [
        ((20_000, 0.1, 1.0), (20_000, 0.07, 1.0), "harm"),
        ((20_000, 0.1, 1.0), (20_000, 0.1, 0.4), "harm"),
        ((20_000, 0.1, 1.0), (20_000, 0.13, 1.0), "no harm"),
        ((20_000, 0.1, 1.0), (20_000, 0.1, 1.0), "undecided"),
        # Fewer than 50 buyers are judged by bets, which see an arm where nobody buys any more.
        ((50_000, 0.02, 1.0), (2_300, 0.0, 1.0), "harm"),
        ((50_000, 0.02, 1.0), (2_300, 0.01, 1.0), "undecided"),
        ((50_000, 0.0, 1.0), (2_300, 0.0, 1.0), "undecided"),
        ((300, 0.1, 1.0), (20_000, 0.0, 1.0), "too few data"),
    ],
)
def test_verdict_on_revenue(
    control: tuple[int, float, float], change: tuple[int, float, float], expected: str
) -> None:
    rng = np.random.default_rng(19)
    assert verdict(REVENUE, revenue(rng, *control), revenue(rng, *change)) == expected


def test_bets_on_a_metric_that_should_be_low() -> None:
    rng = np.random.default_rng(20)
    low, high = revenue(rng, 2_000, 0.0), revenue(rng, 2_000, 0.024)
    assert verdict(Guardrail("complaints", better="lower"), low, high) == "harm"
    assert verdict(Guardrail("complaints", better="lower"), high, low) == "no harm"


def test_a_lucky_small_arm_has_no_small_error() -> None:
    """An arm without a large outcome varies little; the error is that of arms that vary alike."""
    control = Mean.from_units([0.0] * 5_000 + [1_000.0] * 50)
    (look,) = check_guardrails(
        [REVENUE], {"revenue": (control, Mean.from_units([0.1] * 500 + [0] * 5))}
    )
    assert look.loss is not None
    assert look.loss.low < 0


def test_smaller_amounts_are_not_proven_harmless() -> None:
    """All amounts fall by the margin; their capped means fall by less, and looked harmless."""
    rng = np.random.default_rng(21)
    guardrail = Guardrail("revenue", margin=0.2)
    verdicts = [
        verdict(guardrail, revenue(rng, 10_000, 0.3), revenue(rng, 10_000, 0.3, 0.8))
        for _ in range(40)
    ]
    assert verdicts.count("no harm") <= 5  # of 40, at 5 %: more come once in eighty seeds
    assert verdicts.count("harm") == 0
    same = verdict(guardrail, revenue(rng, 60_000, 0.3), revenue(rng, 60_000, 0.3))
    assert same == "no harm"
