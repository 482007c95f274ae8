"""Answer of a device to an evaluation: three bounded shares, from the counts of its questions.

They are noised within a budget. Requests for exact counts are refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Final

import numpy as np

from tactful_federated.model.scores import Score
from tactful_federated.model.vectors import Vector

ANSWER_SIZE: Final = 3
"""Size of an answer: 1 if there was a question, share ranked first, share in the first five."""

ANSWER_NORM: Final = math.sqrt(ANSWER_SIZE)
"""Divisor of an answer, which bounds its Euclidean norm by 1."""

EXACT_REFUSED: Final = (
    "counts of right answers on a history are not private: score weights on your own data, or ask"
    " devices by `tactful federated evaluate`"
)
"""Refusal of a device to count its right answers for a server."""


def evaluator(evaluate: Callable[[Vector], Score]) -> Callable[[Vector, int], Vector]:
    """Return the function that answers evaluations on a device, instead of a trainer.

    The norm of an answer is at most 1 for every history, and each device has the same weight.
    """

    def answer(weights: Vector, round_number: int) -> Vector:
        score = evaluate(weights)
        if not score.steps:
            return np.zeros(ANSWER_SIZE, dtype=np.float32)
        shares = np.array([1.0, score.top1_rate, score.top5_rate]) / ANSWER_NORM
        # Rounded towards zero, so the norm stays within the bound.
        return np.nextafter(shares.astype(np.float32), np.float32(0.0))

    return answer
