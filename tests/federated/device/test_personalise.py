"""A model of one person's own: better for them or left as it was, and calibrated to them."""

import numpy as np
import pytest

from tactful_federated.device.personalise import personalise
from tactful_federated.errors import SettingsError
from tactful_federated.model.lstm_numpy import IntentPredictor, mean_loss
from tactful_federated.model.lstm_torch import IntentModel
from tactful_federated.model.sample_data import SAMPLE_CATALOGUE, sample_history
from tactful_federated.model.settings import TrainerSettings
from tactful_federated.model.tokens import Vocabulary, split_by_time, windows
from tactful_federated.model.vectors import layer_shapes, layers

VOCABULARY = Vocabulary.from_catalogue(SAMPLE_CATALOGUE)
SHARED = IntentPredictor(IntentModel(VOCABULARY.size, seed=1).vector(), VOCABULARY.size)


@pytest.mark.parametrize("part", ["head", "all"])
def test_habits_are_learnt_and_foresee_later_visits(part: str) -> None:
    visits = sample_history(3, baskets=120)
    own = personalise(SHARED, visits[:80], VOCABULARY, part=part)  # type: ignore[arg-type]
    assert own.own_loss < own.shared_loss - 0.2
    later = windows(VOCABULARY.sequence(visits[80:]))  # neither learnt from nor held out
    losses = [mean_loss(*p.questions(later), p.temperature) for p in (SHARED, own.predictor)]
    assert losses[1] < losses[0] - 0.2


def test_a_head_leaves_what_all_share_alone() -> None:
    shapes = layer_shapes(VOCABULARY.size, embedding=32, hidden=32)
    moved = {}
    for part in ("head", "all"):
        own = personalise(SHARED, sample_history(3), VOCABULARY, part=part)
        pairs = zip(
            layers(own.predictor.weights, shapes), layers(SHARED.weights, shapes), strict=True
        )
        moved[part] = [not np.array_equal(ours, theirs) for ours, theirs in pairs]
    assert moved == {"head": [False] * 5 + [True] * 2, "all": [True] * 7}
    with pytest.raises(SettingsError):
        personalise(SHARED, [], VOCABULARY, part="tail")  # type: ignore[arg-type]


def test_who_has_no_habits_keeps_the_shared_model() -> None:
    assert personalise(SHARED, [], VOCABULARY).predictor is SHARED
    assert personalise(SHARED, [["milk"]] * 3, VOCABULARY).predictor is SHARED
    # What was learnt is of no use later: every held-out visit is of another kind.
    turned = [["milk", "soap"]] * 30 + [["fish", "meat"]] * 10
    found = personalise(SHARED, turned, VOCABULARY, settings=TrainerSettings(held_out=0.25))
    assert found.own_loss == found.shared_loss and found.predictor is SHARED


def test_probabilities_are_calibrated_to_the_person() -> None:
    sharp = IntentPredictor(SHARED.weights * np.float32(6), VOCABULARY.size)
    random = np.random.default_rng(5)
    visits = [[SAMPLE_CATALOGUE[n]] for n in random.integers(12, size=300)]
    frozen = TrainerSettings(learning_rate=1e-9, held_out=0.25)
    own = personalise(sharp, visits, VOCABULARY, settings=frozen)
    assert own.predictor.temperature > 2 and own.own_loss < own.shared_loss
    sequence, cut = split_by_time(visits, VOCABULARY, 0.25)
    logits, answers = own.predictor.questions(windows(sequence, start=cut, context=8))
    assert own.own_loss == pytest.approx(
        mean_loss(logits, answers, own.predictor.temperature), rel=1e-6
    )
    few = personalise(sharp, visits[:100], VOCABULARY, settings=frozen)
    assert few.predictor.temperature == 1.0  # 25 questions say too little of it


def test_pulled_back_it_stays_closer() -> None:
    def moved(proximal: float) -> float:
        settings = TrainerSettings(epochs=8, learning_rate=0.5, held_out=0.25, proximal=proximal)
        own = personalise(SHARED, sample_history(3), VOCABULARY, settings=settings)
        return float(np.linalg.norm(own.predictor.weights - SHARED.weights))

    assert 0 < moved(1.0) < 0.8 * moved(0.0)


def test_questions_are_answered_as_one_by_one() -> None:
    sequence = VOCABULARY.sequence(sample_history(2, baskets=20))
    logits, answers = SHARED.questions(windows(sequence, scored=7, context=200))
    assert sorted(answers.tolist()) == sorted((sequence[1:][sequence[1:] >= 3] - 3).tolist())
    likely = np.exp(logits.astype(np.float64))
    likely /= likely.sum(axis=1, keepdims=True)
    ours = sorted(likely[np.arange(len(answers)), answers].tolist())
    theirs = sorted(
        float(SHARED.predict(sequence[:p].tolist())[sequence[p]])
        for p in range(1, len(sequence))
        if sequence[p] >= 3
    )
    assert ours == pytest.approx(theirs, abs=1e-6)
