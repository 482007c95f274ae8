"""Replay of histories: what a device would have foreseen after each visit, and what came.

It fits calibrations to public histories, and measures foresights.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import msgspec

from tactful_federated.device.calibration import fit_isotonic, fit_sigmoid
from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.foresee import foresee
from tactful_federated.device.pace import DAY_S, public_pace
from tactful_federated.device.triggers import Trigger
from tactful_federated.errors import HistoryError
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import FIRST_CATEGORY, Vocabulary

_ISOTONIC_FROM = 1_000

Prophet = Callable[[Sequence[StoredVisit], float], Sequence[float]]
"""Returns the probability of each trigger after some visits, at a time."""


@dataclass(frozen=True)
class History:
    """Visits of a person.

    Attributes:
        visits: Visits by time, numbered from 1.
        until: End of the observation, seconds since the epoch.
        start: Number of visits before the first question; they are known only.
    """

    visits: Sequence[StoredVisit]
    until: float
    start: int = 0


@dataclass(frozen=True)
class Answer:
    """Truth about a trigger after a visit.

    Attributes:
        came: Whether one of its categories came within the look-ahead.
        visit: Index of the visit with it; -1 if none came.
        steps: Categories from the question to it, at least 1; 0 if none came.
        seconds: Time to it; 0 if none came.
    """

    came: bool
    visit: int = -1
    steps: int = 0
    seconds: float = 0.0


def answer_after(
    history: History, index: int, trigger: Trigger, vocabulary: Vocabulary
) -> Answer | None:
    """Return what came after the visit of an index; None if the observation ends too early."""
    visits, now = history.visits, history.visits[index].at
    wanted = {vocabulary.token(name) for name in trigger.categories}
    passed, ends = 0, None if trigger.days is None else now + trigger.days * DAY_S
    for place in range(index + 1, len(visits)):
        visit = visits[place]
        if ends is not None and visit.at > ends:
            return Answer(False)
        for token in vocabulary.sequence([visit.categories]).tolist():
            passed += token >= FIRST_CATEGORY
            if ends is None and passed > trigger.steps:
                return Answer(False)
            if token in wanted and token >= FIRST_CATEGORY:
                return Answer(True, place, passed, visit.at - now)
    is_over = passed >= trigger.steps if ends is None else ends <= history.until
    return Answer(False) if is_over else None


def model_prophet(
    predictor: IntentPredictor,
    vocabulary: Vocabulary,
    triggers: Sequence[Trigger],
    *,
    continuations: int = 200,
) -> Prophet:
    """Return the foresight of a device with a model, without calibration."""
    bare = [msgspec.structs.replace(trigger, calibration=None) for trigger in triggers]

    def foretell(visits: Sequence[StoredVisit], now: float) -> list[float]:
        likely = foresee(predictor, vocabulary, visits, bare, now=now, continuations=continuations)
        return [each.probability for each in likely]

    return foretell


def replay(
    history: History, prophet: Prophet, triggers: Sequence[Trigger], vocabulary: Vocabulary
) -> Iterator[tuple[int, list[tuple[float, Answer | None]]]]:
    """Yield the index of each visit from the start on, and probability and truth by trigger."""
    for index in range(max(0, history.start - 1), len(history.visits)):
        likely = prophet(history.visits[: index + 1], history.visits[index].at)
        yield (
            index,
            [
                (probability, answer_after(history, index, trigger, vocabulary))
                for probability, trigger in zip(likely, triggers, strict=True)
            ],
        )


def with_pace(triggers: Sequence[Trigger], histories: Sequence[History]) -> list[Trigger]:
    """Return the triggers with the pace of public histories where they look ahead by days."""
    spans = {trigger.days for trigger in triggers if trigger.days is not None}
    timed = [
        ([visit.at for visit in each.visits], [len({*visit.categories}) for visit in each.visits])
        for each in histories
    ]
    paces = {days: public_pace(timed, days * DAY_S) for days in spans}
    return [
        trigger
        if trigger.days is None
        else msgspec.structs.replace(trigger, pace=paces[trigger.days])
        for trigger in triggers
    ]


def calibrate(
    triggers: Sequence[Trigger],
    predictor: IntentPredictor,
    vocabulary: Vocabulary,
    histories: Sequence[History],
    source: str,
) -> list[Trigger]:
    """Return triggers with pace and calibration, fitted to histories.

    Triggers with the same look-ahead share a calibration. It is isotonic from 1,000 answers on, and
    Platt's sigmoid with fewer.

    Args:
        triggers: Triggers; their calibrations are replaced.
        predictor: Shared model; the histories must not be among those that it was trained on.
        vocabulary: Public vocabulary.
        histories: Histories of people other than the users.
        source: Name of the histories, which devices can read.

    Raises:
        HistoryError: There is no history.
        SettingsError: Too few foresights of a look-ahead came, or too few did not.
    """
    if not any(history.visits for history in histories):
        raise HistoryError("there is no history to calibrate to: give visits of some people")
    paced = with_pace(triggers, histories)
    prophet = model_prophet(predictor, vocabulary, paced)
    answers: dict[tuple[int, float | None], list[tuple[float, bool]]] = {}
    for history in histories:
        for _, rows in replay(history, prophet, paced, vocabulary):
            for trigger, (probability, answer) in zip(paced, rows, strict=True):
                if answer is not None:
                    answers.setdefault(_ahead(trigger), []).append((probability, answer.came))
    fitted = {}
    for ahead, pairs in answers.items():
        raw, came = zip(*pairs, strict=True)
        fit = fit_isotonic if len(pairs) >= _ISOTONIC_FROM else fit_sigmoid
        fitted[ahead] = fit(raw, came, source)
    return [
        msgspec.structs.replace(trigger, calibration=fitted.get(_ahead(trigger)))
        for trigger in paced
    ]


def _ahead(trigger: Trigger) -> tuple[int, float | None]:
    return (trigger.steps, None) if trigger.days is None else (0, trigger.days)
