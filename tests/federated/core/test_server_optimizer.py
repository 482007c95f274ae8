"""Server steps against their papers' formulas, written out one coordinate at a time."""

import math
from typing import Any

import numpy as np
import pytest

from tactful_federated.core.server_optimizer import ModelState, Optimizer, step
from tactful_federated.errors import SettingsError, WeightsError

UPDATES = [0.5, -0.25, 0.0, 0.125, 2.0]


@pytest.mark.parametrize("kind", ["fedavg", "fedadam", "fedyogi"])
def test_steps_follow_the_formulas(kind: Any) -> None:
    settings = Optimizer(kind, 0.5, 0.8, second_moment=0.9, adaptivity=0.01, averaging=0.15)
    for sign, column in ((1.0, 0), (-1.0, 1)):
        w, m, v, mean = sign, 0.0, 0.0, sign
        state = ModelState.begin(np.array([1.0, -1.0], dtype=np.float32))
        for t, update in enumerate(UPDATES, 1):
            state = step(state, np.array([update, -update]), settings)
            g = sign * update
            if kind == "fedavg":
                m = 0.8 * m + g
                w += 0.5 * m
            else:
                m = 0.8 * m + 0.2 * g
                if kind == "fedadam":
                    v = 0.9 * v + 0.1 * g * g
                else:
                    v = v - 0.1 * g * g * ((v > g * g) - (v < g * g))
                w += 0.5 * m / (math.sqrt(v) + 0.01)
            decay = min(0.15, t / (t + 9))
            mean = decay * mean + (1 - decay) * w
            assert state.weights[column] == pytest.approx(w)
            assert state.average[column] == pytest.approx(mean)
    assert state.steps == len(UPDATES)
    assert state.release().dtype == state.broadcast().dtype == np.float32


def test_settings_out_of_range_and_averages_that_do_not_fit_are_refused() -> None:
    wrong: dict[str, tuple[Any, ...]] = {
        "kind": ("sgd",),
        "learning_rate": (0.0, math.nan, math.inf),
        "adaptivity": (math.inf,),
        "momentum": (1.0,),
        "second_moment": (-0.1,),
        "averaging": (1.0, -0.1),
    }
    for name, value in ((name, value) for name, values in wrong.items() for value in values):
        with pytest.raises(SettingsError):
            Optimizer(**{name: value})
    state = ModelState.begin(np.zeros(2, dtype=np.float32))
    for average in (np.zeros(3), np.array([0.0, np.nan])):
        with pytest.raises(WeightsError):
            step(state, average, Optimizer())
