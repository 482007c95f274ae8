"""Evaluations of a flag with a condition and an experiment, beside GrowthBook's Python SDK."""

import math
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

from benchmarks.figures import Figure
from tactful_bandits.flags import Features, evaluate

FIGURES = [
    ("flag_evaluations_per_s", "1/s"),
    ("flag_evaluations_per_s_growthbook", "1/s"),
    ("flag_values_unlike_growthbook", "1"),
]
_PAYLOAD: dict[str, Any] = {
    "features": {
        "new-cart": {
            "defaultValue": False,
            "rules": [
                {
                    "condition": {"country": {"$in": ["CH", "AT"]}, "age": {"$gte": 18}},
                    "key": "new-cart-2027",
                    "variations": [False, True],
                    "weights": [0.5, 0.5],
                    "coverage": 0.8,
                    "hashVersion": 2,
                    "hashAttribute": "id",
                }
            ],
        }
    }
}
_WHAT = "one condition of two attributes and one experiment, one thread, per second of CPU time"


def figures(quick: bool) -> list[Figure]:
    """Evaluate the same flag for the same people with both, and compare all values."""
    count = 20_000 if quick else 100_000
    people = [
        {"id": f"user-{number}", "country": ("CH", "AT", "DE")[number % 3], "age": number % 80}
        for number in range(count)
    ]
    features = Features.from_payload(_PAYLOAD)
    own = _rate(lambda person: evaluate(features, "new-cart", person).value, people)
    figure = Figure("flag_evaluations_per_s", own[2], "1/s", own[0], own[-1], 5, _WHAT)
    try:
        peer = import_module("growthbook").GrowthBook(features=_PAYLOAD["features"])
    except ImportError:
        missing = "needs pip install growthbook"
        return [figure, *(Figure(name, None, unit, note=missing) for name, unit in FIGURES[1:])]

    def peer_value(person: dict[str, Any]) -> Any:
        peer.set_attributes(person)
        return peer.eval_feature("new-cart").value

    theirs = _rate(peer_value, people)
    unlike = sum(
        peer_value(person) != evaluate(features, "new-cart", person).value for person in people
    )
    version = getattr(import_module("growthbook"), "__version__", "")
    note = f"growthbook {version}, set_attributes and eval_feature; {_WHAT}"
    return [
        figure,
        Figure(
            "flag_evaluations_per_s_growthbook", theirs[2], "1/s", theirs[0], theirs[-1], 5, note
        ),
        Figure("flag_values_unlike_growthbook", unlike, "1", note=f"of {count} people"),
    ]


def _rate(value: Callable[[dict[str, Any]], Any], people: list[dict[str, Any]]) -> list[float]:
    """Return evaluations for each second of CPU time in five runs, sorted."""
    rates = []
    for _ in range(5):
        start = time.process_time()
        for person in people:
            value(person)
        rates.append(len(people) / max(time.process_time() - start, math.ulp(1.0)))
    return sorted(rates)
