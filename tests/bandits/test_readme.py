from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactful_bandits.analysis.comparison import compare
from tactful_bandits.analysis.sample_ratio import check_sample_ratio
from tactful_bandits.analysis.samples import Ratio
from tactful_bandits.assignment.assign import assign

README = Path(__file__).parents[2] / "bandits" / "README.md"


def test_the_example_runs_and_finds_a_simulated_difference() -> None:
    """The example's experiment on 5,000 simulated users finds the difference put in."""
    code = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    experiment, estimate = names["experiment"], names["result"].estimate
    assert names["arm"] in experiment.shares
    assert estimate.value == pytest.approx(6 / 26 - 3 / 24)
    assert names["low"] < estimate.value < names["high"]
    users = [f"user-{number}" for number in range(5000)]
    arms = np.array([assign(experiment, user).arm for user in users])
    rng = np.random.default_rng(1)
    questions = 1 + rng.poisson(8, len(users))
    hits = rng.binomial(questions, np.where(arms == "challenger", 0.36, 0.30))
    champion, challenger = (
        Ratio.from_units(hits[arms == arm], questions[arms == arm]) for arm in experiment.shares
    )
    interval = compare(champion, challenger).anytime
    assert 0 < interval.low < 0.06 < interval.high
    counts = [int((arms == arm).sum()) for arm in experiment.shares]
    assert not check_sample_ratio(counts, list(experiment.shares.values())).mismatch
