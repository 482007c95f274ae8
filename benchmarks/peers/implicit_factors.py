"""Factors of visits and items by `implicit`: alternating least squares or BPR.

Usage: implicit_factors.py IN OUT SETTINGS

IN is an npz with two sparse matrices in CSR parts: `held_…`, which items each past visit held, and
`asked_…`, the weights of what is known at each question. OUT becomes an npz with `questions`, shape
(questions, factors), and `items`, shape (items, factors), whose products are the scores. SETTINGS
is JSON: `model` and the model's own settings. Runs in the peers' own environment.
"""

import importlib.metadata
import json
import sys

import numpy as np
from implicit.cpu.als import AlternatingLeastSquares
from implicit.cpu.bpr import BayesianPersonalizedRanking
from scipy import sparse


def main(source: str, target: str, settings: str) -> None:
    """Fit and fold in."""
    options = json.loads(settings)
    model = options.pop("model")
    with np.load(source) as arrays:
        held, asked = (
            sparse.csr_matrix(
                (arrays[f"{name}_data"], arrays[f"{name}_indices"], arrays[f"{name}_indptr"]),
                tuple(arrays[f"{name}_shape"]),
            ).astype(np.float32)
            for name in ("held", "asked")
        )
    if model == "als":
        fitted = AlternatingLeastSquares(num_threads=2, random_state=0, **options)
        fitted.fit(held, show_progress=False)
        questions = fitted.recalculate_user(np.arange(asked.shape[0]), asked)
    else:
        fitted = BayesianPersonalizedRanking(num_threads=2, random_state=0, **options)
        fitted.fit(held, show_progress=False)
        # A visit that was not trained on is the mean of its items; the last factor is the bias.
        totals = np.maximum(np.asarray(asked.sum(axis=1)), 1e-9)
        questions = (asked @ fitted.item_factors) / totals
        questions[:, -1] = 1.0
    np.savez(target, questions=questions, items=fitted.item_factors)
    print(importlib.metadata.version("implicit"))


if __name__ == "__main__":
    main(*sys.argv[1:])
