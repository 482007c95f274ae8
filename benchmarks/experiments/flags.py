"""Evaluations of a flag with a condition and an experiment: Python, Node, GrowthBook's SDK."""

import gzip
import json
import math
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure
from tactful_bandits.flags import Features, evaluate

FIGURES = [
    ("flag_evaluations_per_s", "1/s"),
    ("flag_evaluations_per_s_growthbook", "1/s"),
    ("flag_values_unlike_growthbook", "1"),
    ("flag_evaluations_per_s_node", "1/s"),
    ("flag_values_unlike_node", "1"),
    ("flags_bundle_gzip_bytes", "byte"),
]
_ROOT = Path(__file__).resolve().parents[2]
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
    values = [evaluate(features, "new-cart", person).value for person in people]
    return [figure, *_growthbook(people, values), *_node(people, values)]


def _growthbook(people: list[dict[str, Any]], values: list[Any]) -> list[Figure]:
    try:
        peer = import_module("growthbook").GrowthBook(features=_PAYLOAD["features"])
    except ImportError:
        missing = "needs pip install growthbook"
        return [Figure(name, None, unit, note=missing) for name, unit in FIGURES[1:3]]

    def peer_value(person: dict[str, Any]) -> Any:
        peer.set_attributes(person)
        return peer.eval_feature("new-cart").value

    theirs = _rate(peer_value, people)
    unlike = sum(peer_value(person) != value for person, value in zip(people, values, strict=True))
    version = getattr(import_module("growthbook"), "__version__", "")
    note = f"growthbook {version}, set_attributes and eval_feature; {_WHAT}"
    return [
        Figure(
            "flag_evaluations_per_s_growthbook", theirs[2], "1/s", theirs[0], theirs[-1], 5, note
        ),
        Figure("flag_values_unlike_growthbook", unlike, "1", note=f"of {len(people)} people"),
    ]


def _node(people: list[dict[str, Any]], values: list[Any]) -> list[Figure]:
    """Evaluate by the browser client in Node, and compare all values."""
    if shutil.which("npm") is None:
        missing = "needs Node: scripts/web install"
        return [Figure(name, None, unit, note=missing) for name, unit in FIGURES[3:]]
    given = {"payload": _PAYLOAD, "key": "new-cart", "people": people}
    with tempfile.TemporaryDirectory() as folder:
        built = Path(folder)
        command = [str(_ROOT / "scripts" / "web"), "build", folder]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        script = Path(__file__).with_name("flags.mjs")
        # Node reads a file as a module by its name, whatever folder holds it.
        bundle = built / "flags-core.js"
        module = bundle.rename(bundle.with_suffix(".mjs"))
        done = subprocess.run(
            ["node", script, module], input=json.dumps(given).encode(), stdout=-1, check=True
        )
        size = len(gzip.compress((built / "flags.js").read_bytes(), 9))
    found = json.loads(done.stdout)
    unlike = sum(left != right for left, right in zip(found["values"], values, strict=True))
    rates = found["rates"]
    version = subprocess.run(["node", "--version"], capture_output=True, text=True).stdout.strip()
    about = f"Node {version}, {_WHAT}"
    return [
        Figure("flag_evaluations_per_s_node", rates[2], "1/s", rates[0], rates[-1], 5, about),
        Figure("flag_values_unlike_node", unlike, "1", note=f"of {len(people)} people"),
        Figure("flags_bundle_gzip_bytes", size, "byte", note="flags.js, minified, with gzip"),
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
