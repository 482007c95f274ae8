"""Replays of histories: what came within a look-ahead, and calibrations fitted to it."""

import numpy as np
import pytest

from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.triggers import Trigger
from tactful_federated.errors import HistoryError, SettingsError
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import Vocabulary
from tactful_federated.model.vectors import parameter_count
from tactful_federated.simulation.foresights import (
    Answer,
    History,
    answer_after,
    calibrate,
    model_prophet,
    replay,
)

VOCABULARY = Vocabulary(("a", "b", "c"))
DAY = 86_400.0


def history(*visits: str, until: float = 9.0, start: int = 0) -> History:
    """A visit a day; each letter is a category."""
    stored = [StoredVisit(n + 1, n * DAY, list(visit)) for n, visit in enumerate(visits)]
    return History(stored, until * DAY, start)


def test_answers_within_steps_and_days() -> None:
    person = history("a", "bc", "bbx", "ca")
    within = {
        n: answer_after(person, 0, Trigger("t", ("a",), n), VOCABULARY) for n in (1, 3, 4, 5, 6)
    }
    # After the first visit: b c | b | a c, in the order of the vocabulary; x is not in it.
    assert within[1] == within[3] == Answer(False)
    assert within[4] == within[5] == Answer(True, 3, 4, 3 * DAY)
    assert answer_after(person, 0, Trigger("t", ("c", "b"), 1), VOCABULARY) == Answer(
        True, 1, 1, DAY
    )
    never = Trigger("t", ("x",), steps=5)
    assert answer_after(person, 0, never, VOCABULARY) == Answer(False)
    assert answer_after(person, 1, never, VOCABULARY) is None  # three steps are known
    by_days = {
        days: answer_after(person, 0, Trigger("t", ("a",), days=days), VOCABULARY)
        for days in (2.0, 3.0)
    }
    assert by_days == {2.0: Answer(False), 3.0: Answer(True, 3, 4, 3 * DAY)}
    late = Trigger("t", ("b",), days=5.0)
    assert answer_after(person, 3, late, VOCABULARY) == Answer(False)
    assert answer_after(history("a", "b", until=4.0), 1, late, VOCABULARY) is None


def test_questions_begin_at_the_start() -> None:
    asked = replay(
        history("a", "b", "c", start=2), lambda visits, now: [len(visits)], [TRIGGER], VOCABULARY
    )
    assert [(index, rows[0][0]) for index, rows in asked] == [(1, 2), (2, 3)]


TRIGGER = Trigger("t", ("a",), steps=1)


@pytest.mark.slow
def test_calibration_is_fitted_to_what_came() -> None:
    """A model that knows nothing says a third; a comes in a fifth of the visits."""
    predictor = IntentPredictor(
        np.zeros(parameter_count(VOCABULARY.size), dtype=np.float32), VOCABULARY.size
    )
    people = [history(*("abcbc" * 9)[n:]) for n in range(5)]
    by_days = Trigger("d", ("a",), days=2.0)
    prophet = model_prophet(predictor, VOCABULARY, [TRIGGER])
    assert prophet(people[0].visits[:9], 0.0) == pytest.approx([1 / 3])
    fitted = calibrate([TRIGGER, by_days], predictor, VOCABULARY, people, "open data")
    step, days = (each.calibration for each in fitted)
    assert step is not None and step(1 / 3) == pytest.approx(0.2, abs=0.02)
    assert step.source == "open data" and fitted[0].pace == ()
    assert days is not None and days(days.raw[-1]) == pytest.approx(0.4, abs=0.05)
    assert sum(fitted[1].pace) == pytest.approx(1) and fitted[1].pace[2] == 1
    with pytest.raises(HistoryError):
        calibrate([TRIGGER], predictor, VOCABULARY, [history()], "open data")
    with pytest.raises(SettingsError, match="foresights came"):
        calibrate([TRIGGER], predictor, VOCABULARY, people[:1], "open data")
