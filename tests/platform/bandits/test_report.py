"""Verdicts and regret from the log, against known truth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from tests.platform.bandits.shop import HOUR, NOW, banner, clicked, decided
from tests.platform.memory_log import MemoryLog

from tactful.bandits.definitions import BanditDefinition
from tactful.bandits.report import NO_SHADOW, NO_SUPPORT, outcomes_of, read_decisions
from tactful.schemas.experiments.bandits import BanditOutcomes


def _report(payloads: list[bytes], definition: BanditDefinition | None = None) -> BanditOutcomes:
    definition, now = definition or banner(), NOW + 100 * HOUR
    found, waiting = read_decisions([MemoryLog(payloads)], definition, since=NOW, now=now)
    return outcomes_of(definition, found, waiting=waiting, since=NOW, now=now)


def _shadow(rates: Sequence[float], own: Sequence[float], explore: float, n: int) -> list[bytes]:
    """Return n decisions of a shadow whose bandit has fixed probabilities, with their clicks."""
    rng, log = np.random.default_rng(5), []
    served = np.full(3, explore / 3)
    served[0] += 1 - explore
    for number in range(n):
        arm = int(rng.choice(3, p=served))
        shares: dict[str, Any] = {
            "propensity": float(served[arm]),
            "probability": own[arm],
            "floor": float(served.min()),
            "live": False,
        }
        user = f"u{number}"
        log.append(decided(number, "abc"[arm], NOW + number, user, **shares))
        if rng.random() < rates[arm]:
            log.append(clicked(number, NOW + number + 1, user))
    return log


def _within(value: float, interval: Any, more: float = 0.0) -> bool:
    return bool(interval.low - more < value < interval.high + more)


def test_the_shadow_is_judged_by_what_it_would_have_done() -> None:
    rates, own = (0.1, 0.4, 0.1), (0.1, 0.8, 0.1)
    found = _report(_shadow(rates, own, 0.3, 6_000))
    assert found.decisions == 6_000
    served = 0.8 * 0.1 + 0.1 * 0.4 + 0.1 * 0.1
    truth = float(np.dot(rates, own)) - served
    assert found.verdict is not None
    assert found.verdict.verdict == "better"
    assert _within(truth, found.verdict.interval)
    for arm, rate in zip(found.arms, rates, strict=True):
        assert arm.interval is not None
        assert _within(rate, arm.interval, 0.02)
    assert found.regret is not None
    assert found.regret.best == "b"
    assert _within(0.4 - float(np.dot(rates, own)), found.regret.interval)
    assert sum(point.decisions for point in found.series) == 6_000
    worse = _report(_shadow((0.4, 0.1, 0.1), own, 0.3, 6_000))
    assert worse.verdict is not None
    assert worse.verdict.verdict == "worse"


def test_a_shadow_that_explores_nothing_is_not_judged() -> None:
    log = [decided(n, "a", NOW, f"u{n}", propensity=1.0, floor=0.0, live=False) for n in range(9)]
    found = _report(log)
    assert (found.verdict, found.regret) == (None, None)
    assert found.reasons == [NO_SHADOW, NO_SUPPORT]
    assert found.reward == 0.0


@pytest.mark.parametrize("users", [0, 1, 2])
def test_few_decisions_are_no_verdict(users: int) -> None:
    log = [
        decided(n, "a", NOW, f"u{n % users}", live=False, probability=0.0)
        for n in range(6 if users else 0)
    ]
    found = _report(log)
    assert found.verdict is None or found.verdict.verdict == "inconclusive"
    assert found.regret is None
    assert found.reasons


def test_rewards_that_never_arrive_leave_a_bandit_that_loses_nothing() -> None:
    log = [
        decided(n, "abc"[n % 3], NOW + n, f"u{n}", propensity=1 / 3, probability=1 / 3)
        for n in range(900)
    ]
    found = _report(log)
    assert found.reward == 0
    assert found.regret is not None
    assert found.regret.regret == 0
