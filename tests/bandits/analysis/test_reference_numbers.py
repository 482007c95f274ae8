from collections.abc import Callable
from typing import Any

import pytest

from benchmarks.experiments import oracle
from tactful_bandits.analysis.comparison import Interval, fixed_horizon_interval


def test_every_reference_number_is_ours_too(published: Callable[[str], Any]) -> None:
    checked = list(oracle.comparisons(published("gbstats-oracle.json")))
    assert len(checked) >= 2000
    assert [what for what, ours, theirs in checked if not oracle.agree(ours, theirs)] == []


def test_a_wrong_formula_would_be_counted(
    published: Callable[[str], Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def slightly_wide(*args: Any, **options: Any) -> Interval:
        interval = fixed_horizon_interval(*args, **options)
        return Interval(interval.low * (1 + 1e-6), interval.high, interval.confidence, "wrong")

    monkeypatch.setattr(oracle, "fixed_horizon_interval", slightly_wide)
    checked = oracle.comparisons(published("gbstats-oracle.json"))
    wrong = {what for what, ours, theirs in checked if not oracle.agree(ours, theirs)}
    assert len(wrong) == 2 * 48  # of "less" the lower end is infinite
