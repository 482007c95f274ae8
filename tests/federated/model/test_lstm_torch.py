"""The LSTM as a flat vector."""

import numpy as np
import pytest
import torch

from tactful_federated.errors import SettingsError, VocabularyError, WeightsError
from tactful_federated.model.lstm_torch import MAX_PARAMETERS, IntentModel
from tactful_federated.model.tokens import FIRST_CATEGORY
from tactful_federated.model.vectors import parameter_count


def test_vector_round_trip() -> None:
    source, target = IntentModel(12, seed=1), IntentModel(12, seed=2)
    weights = source.vector()
    assert not np.array_equal(weights, target.vector())
    target.load_vector(weights)
    assert np.array_equal(target.vector(), weights)
    for mine, theirs in zip(source.parameters(), target.parameters(), strict=True):
        assert torch.equal(mine, theirs)
    weights[:] = 0  # a copy both ways
    assert np.array_equal(target.vector(), source.vector()) and source.vector().any()


def test_seed_decides_the_initial_weights() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first = IntentModel(12, seed=3).vector()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(99)
    assert np.array_equal(IntentModel(12, seed=3).vector(), first)
    assert not np.array_equal(IntentModel(12, seed=4).vector(), first)


@pytest.mark.parametrize("size", [4, 12, 306])
def test_parameter_count_is_the_models_size(size: int) -> None:
    model = IntentModel(size)
    assert model.size == model.vector().size == parameter_count(size, embedding=32, hidden=32)
    assert model.size <= MAX_PARAMETERS


def test_too_large_models_and_empty_layers_are_refused() -> None:
    with pytest.raises(SettingsError, match="coarser catalogue"):
        IntentModel(1000)
    for size, embedding, hidden in ((3, 4, 4), (12, 0, 4), (12, 4, 0)):
        with pytest.raises(SettingsError, match="needs vocabulary_size"):
            IntentModel(size, embedding=embedding, hidden=hidden)


def test_prediction_is_a_distribution_over_categories() -> None:
    model = IntentModel(12, seed=1)
    for history in ([], [1], [1, 3, 4, 1], [3] * 1000):
        likely = model.predict(history)
        assert likely.shape == (12,)
        assert np.all(likely[:FIRST_CATEGORY] == 0) and np.all(likely[FIRST_CATEGORY:] > 0)
        assert likely.sum() == pytest.approx(1, abs=1e-12)
    # It looks back further than one token.
    assert not np.allclose(model.predict([1, 3, 4]), model.predict([1, 5, 4]))


def test_foreign_tokens_and_weights_are_refused_and_change_nothing() -> None:
    model = IntentModel(12)
    for token in (-1, 12):
        with pytest.raises(VocabularyError, match=r"outside 0\.\.11"):
            model.predict([1, token])
    before = model.vector()
    for foreign in (before[:-1], np.full_like(before, np.nan)):
        with pytest.raises(WeightsError):
            model.load_vector(foreign)
    assert np.array_equal(model.vector(), before)
