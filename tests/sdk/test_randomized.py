"""Randomised response in JavaScript: bit by bit what Python draws, and as often as stated."""

from __future__ import annotations

import json
import subprocess
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from tactful_privacy.mechanisms.local import RandomizedResponse

pytestmark = [pytest.mark.service("web"), pytest.mark.timeout(120)]

DRAWN = (
    "let at = 0; Object.defineProperty(globalThis, 'crypto', {value: {getRandomValues:"
    " (into) => { into.set(given.halves[at++]); return into; }}});"
)
"""Makes the browser's generator return the halves that are given."""


def run(bundle: Path, script: str, given: Any) -> Any:
    """Run a script and return its output; its input is in `given`, the client in `tactful`."""
    code = (
        f"import * as tactful from {json.dumps(bundle.joinpath('tactful.js').as_uri())};"
        "import { readFileSync } from 'node:fs';"
        f"const given = JSON.parse(readFileSync(0, 'utf8')); {script}"
    )
    command = ["node", "--input-type=module", "--eval", code]
    done = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(("categories", "epsilon"), [(2, "1"), (7, "1/3"), (300, "5")])
def test_same_bits_give_the_same_report(web_client: Path, categories: int, epsilon: str) -> None:
    generator = np.random.default_rng(5)
    response = RandomizedResponse(categories, epsilon)
    edges = response._shift.cumulative[generator.integers(0, categories, 400)]
    drawn = np.concatenate(
        [edges, edges - np.uint64(1), generator.integers(0, 2**64, 400, dtype=np.uint64)]
    )
    kept = drawn[drawn < np.uint64(response._shift.total)]
    true = generator.integers(0, categories, len(kept))
    shift = np.searchsorted(response._shift.cumulative, kept, side="right")
    halves = [[int(bits) & 0xFFFFFFFF, int(bits) >> 32] for bits in kept]
    # A first draw that lies beyond the weights is drawn again.
    halves.insert(0, [0xFFFFFFFF, 0xFFFFFFFF])
    assert response._shift.total < 2**64
    found = run(
        web_client,
        DRAWN + "const told = given.true.map((it) =>"
        " tactful.randomizedResponse(it, given.weights)); console.log(JSON.stringify([told, at]));",
        {"halves": halves, "true": true.tolist(), "weights": response.weights},
    )
    assert found == [((true + shift) % categories).tolist(), len(halves)]


@pytest.mark.slow
def test_reports_have_the_stated_probabilities(web_client: Path) -> None:
    """The browser's generator cannot be seeded: false alarm rate 1e-9, and what is low is seen."""
    n, response = 150_000, RandomizedResponse(4, 1)
    seen = run(
        web_client,
        "const seen = [0, 0, 0, 0];"
        f"for (let i = 0; i < {n}; i++) seen[tactful.randomizedResponse(1, given)]++;"
        "console.log(JSON.stringify(seen));",
        response.weights,
    )
    p = [response.other, response.truth, response.other, response.other]
    assert stats.chisquare(seen, [float(each) * n for each in p]).pvalue > 1e-9
    # One percent less truth than claimed in the log odds would not do.
    low = RandomizedResponse(4, Fraction(9, 10))
    q = [low.other, low.truth, low.other, low.other]
    assert stats.chisquare(seen, [float(each) * n for each in q]).pvalue < 1e-9


def test_what_is_no_answer_or_no_weight_is_refused(web_client: Path) -> None:
    fine: dict[str, Any] = dict(RandomizedResponse(4, 1).weights)
    wrong: list[tuple[float, dict[str, Any]]] = [(4, fine), (-1, fine), (0.5, fine)]
    swapped = {**fine, "truth": fine["other"], "other": fine["truth"]}
    wrong += [(0, swapped), (0, {**fine, "other": "0"})]
    wrong += [(0, {"categories": 2, "truth": str(2**64), "other": "1"})]
    # Sums far below 64 bits draw for ever, and one category has nothing to hide behind.
    wrong += [(0, {"categories": n, "truth": "2", "other": "1"}) for n in (1, 2, 4, 1.5, 10**9)]
    wrong += [(0, {"categories": n, "truth": 2, "other": 1}) for n in (1, "2")]
    wrong += [(0, {"categories": 2, "truth": str(2**63), "other": other}) for other in ("x", "-1")]
    refused = run(
        web_client,
        "console.log(JSON.stringify(given.map(([category, weights]) => {"
        " try { tactful.randomizedResponse(category, weights); return false; }"
        " catch (error) { return error instanceof RangeError; } })));",
        wrong,
    )
    assert refused == [True] * len(wrong)


@pytest.mark.parametrize("epsilon", ["1/3", "1", "5"])
def test_a_page_refuses_an_epsilon_above_its_own(web_client: Path, epsilon: str) -> None:
    exact = float(Fraction(epsilon))
    accepted = run(
        web_client,
        "console.log(JSON.stringify(given.limits.map((limit) => {"
        " try { return tactful.randomizedResponse(1, given.weights, limit) >= 0; }"
        " catch (error) { return error instanceof RangeError ? false : null; } })));",
        {
            "weights": RandomizedResponse(4, epsilon).weights,
            "limits": [exact, exact + 1, exact - 1e-6, 0, -1, "no number"],
        },
    )
    assert accepted == [True, True, False, False, False, False]
