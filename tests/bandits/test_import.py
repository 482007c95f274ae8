"""The cost of importing the package, and the example of its README."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tactful_bandits import Ratio, assign, check_sample_ratio, compare

ROOT = Path(__file__).parents[2]
README = ROOT / "bandits" / "README.md"


def test_what_every_request_needs_loads_no_statistics() -> None:
    code = "import sys; import tactful_bandits; tactful_bandits.assign; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    modules = loaded.decode().split()
    heavy = {"scipy", "sklearn", "sqlalchemy", "torch", "gymnasium", "mlflow"}
    assert not heavy & {module.partition(".")[0] for module in modules}
    privacy = {module for module in modules if module.startswith("tactful_privacy.")}
    assert privacy == {"tactful_privacy.errors", "tactful_privacy.lazy_imports"}


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
