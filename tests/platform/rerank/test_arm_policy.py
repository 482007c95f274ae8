"""Parameters of an arm: what is wrong is refused, with its place."""

from __future__ import annotations

import pytest

from tactful.errors import ConfigError
from tactful.recall.candidates import Quotas
from tactful.rerank.arm_policy import policy_parts
from tactful.rerank.diversity import Diversity
from tactful.rerank.exploration import Exploration
from tactful.rerank.objective import PLAIN, Objective

NAN = float("nan")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("quotas", {"vector": 3}, "unknown field `vector`; its fields are following, together"),
        ("quotas", {"vectors": 1_001}, r"^arm: quotas: Expected `int` <= 1000 - at `\$\.vectors`"),
        *(("quotas", wrong, "Expected `int`") for wrong in ({"vectors": True}, {"vectors": 2.0})),
        ("quotas", [], "Expected `object`"),
        ("objective", [], "Expected `object`"),
        ("objective", {"profit": 1}, "unknown field `profit`; its fields are relevance, price"),
        *(
            ("objective", {"margin": wrong}, r"\$\.margin")
            for wrong in (-0.1, 10.1, NAN, "1", True)
        ),
        ("objective", {"relevance": 0}, "all weights are 0"),
        *(("diversity", wrong, "arm: diversity") for wrong in (3, {"power": 1})),
        *(("diversity", {"strength": wrong}, "strength") for wrong in (-1, 101, "1", NAN)),
        *(("diversity", {"places": wrong}, "places") for wrong in (0, 1.5, True)),
        *(("exploration", wrong, "arm: exploration") for wrong in (0.5, {"epsilon": 0.1})),
        *(("exploration", wrong, "places") for wrong in ({"places": 0}, {"places": 2.5})),
        ("exploration", {"pool": 1}, "pool"),
        *(
            ("exploration", {"temperature": wrong}, "temperature")
            for wrong in (-0.1, 0.0001, NAN, True)
        ),
        ("quota", {}, "there is no parameter 'quota'; there are quotas"),
    ],
)
def test_wrong_parameters_are_refused(name: str, value: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        policy_parts({name: value}, where="arm")


def test_parameters_over_the_defaults() -> None:
    given = {
        "quotas": {"total": 9},
        "objective": {"margin": 1, "price": 0},
        "diversity": {"strength": 1, "places": 3},
        "exploration": {"temperature": 1},
    }
    parts = policy_parts(given, where="arm")
    assert parts == {
        "quotas": Quotas(total=9),
        "objective": Objective(margin=1.0),
        "diversity": Diversity(1.0, 3),
        "exploration": Exploration(1.0, 20, 100),
    }
    assert parts["objective"].nonzero_weights() == {"relevance": 1.0, "margin": 1.0}
    empty = policy_parts({"objective": {}, "exploration": {}}, where="arm")
    assert empty == {"objective": PLAIN, "exploration": Exploration()}
