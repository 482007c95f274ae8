"""Probability that a category comes within some steps or days, from the visits of a user."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import ThreadpoolController

from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.pace import DAY_S, MOST_STEPS, steps_within
from tactful_federated.device.triggers import Likely, Trigger
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, OTHER, Vocabulary

CONTINUATIONS: Final = 400
"""Number of continuations of a foresight; the standard error is at most 0.025."""

_MOST_VISITS = 300  # more than the tokens that a model reads


def foresee(
    predictor: IntentPredictor,
    vocabulary: Vocabulary,
    visits: Sequence[StoredVisit],
    triggers: Sequence[Trigger],
    *,
    now: float,
    continuations: int = CONTINUATIONS,
) -> list[Likely]:
    """Return the calibrated probability of each trigger, and its likeliest category.

    Args:
        predictor: Model of the user.
        vocabulary: Public vocabulary.
        visits: Visits by time.
        triggers: Triggers; categories that the vocabulary lacks never come.
        now: Seconds since the epoch.
        continuations: Number of continuations to draw.
    """
    sets = [
        [token for token in map(vocabulary.token, trigger.categories) if token != OTHER]
        for trigger in triggers
    ]
    alone = sorted({token for tokens in sets for token in tokens})
    latest = [visit.categories for visit in visits[-_MOST_VISITS:]]
    history = [*vocabulary.sequence(latest).tolist(), BOUNDARY]
    count = sum(token >= FIRST_CATEGORY for token in history)
    # Threads that wait for each other would take most of the time of so small a model.
    with ThreadpoolController().limit(limits=1, user_api="blas"):
        by_step = predictor.likely_within(
            history,
            [*sets, *([token] for token in alone)],
            steps=max([1, *(t.steps if t.days is None else MOST_STEPS for t in triggers)]),
            seed=0,  # equal visits give equal results
            continuations=continuations,
            ends=min(1.0, history[:-1].count(BOUNDARY) / count) if count else 0.0,
        )
    found = []
    for column, (trigger, tokens) in enumerate(zip(triggers, sets, strict=True)):
        columns = [column, *(len(sets) + alone.index(token) for token in tokens)]
        whole, *each = _ahead(trigger, by_step[:, columns], visits, now).tolist()
        if trigger.calibration is not None:
            whole = trigger.calibration(whole)
        best = vocabulary.category(tokens[int(np.argmax(each))]) if tokens else ""
        found.append(Likely(whole, best or trigger.categories[0]))
    return found


def _ahead(
    trigger: Trigger, by_step: NDArray[np.float64], visits: Sequence[StoredVisit], now: float
) -> NDArray[np.float64]:
    """Return the probabilities at the end of the look-ahead, from those by step."""
    if trigger.days is None:
        row: NDArray[np.float64] = by_step[trigger.steps - 1]
        return row
    shares = steps_within(
        [visit.at for visit in visits],
        [len(set(visit.categories)) for visit in visits],
        now,
        trigger.days * DAY_S,
        trigger.pace,
    )
    likely: NDArray[np.float64] = shares[1:] @ by_step[:MOST_STEPS]
    return likely.clip(0, 1)
