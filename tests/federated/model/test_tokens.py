"""Vocabulary, sequences and windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.errors import SettingsError, VocabularyError
from tactful_federated.model.tokens import (
    BOUNDARY,
    FIRST_CATEGORY,
    OTHER,
    PAD,
    Vocabulary,
    split_by_time,
    windows,
)

VOCABULARY = Vocabulary.from_catalogue(["milk", "bread", "soup", "bread", " "])

_baskets = st.lists(st.lists(st.sampled_from(["milk", "bread", "soup", "unknown"]), max_size=6))


def test_vocabulary_is_a_function_of_the_set_of_categories() -> None:
    assert VOCABULARY.categories == ("bread", "milk", "soup")
    assert Vocabulary.from_catalogue(["soup", "milk", "bread"]) == VOCABULARY
    assert VOCABULARY.size == 6
    tokens = [VOCABULARY.token(name) for name in ("bread", "milk", "soup", "eggs")]
    assert tokens == [3, 4, 5, OTHER]
    assert VOCABULARY.category(5) == "soup"
    same = Vocabulary.from_catalogue(["soup", "milk", "bread"])
    other = Vocabulary.from_catalogue(["bread", "milk", "soap"])
    assert VOCABULARY.fingerprint == same.fingerprint != other.fingerprint
    assert Vocabulary(("a", "bc")).fingerprint != Vocabulary(("ab", "c")).fingerprint


def test_wrong_catalogues_and_tokens_are_refused() -> None:
    for categories in ([], ["", " "]):
        with pytest.raises(VocabularyError, match="no category"):
            Vocabulary.from_catalogue(categories)
    with pytest.raises(VocabularyError, match="'milk' more than once"):
        Vocabulary(("milk", "soup", "milk"))
    for token in (PAD, BOUNDARY, OTHER, 6, -1):
        with pytest.raises(VocabularyError, match="is not a category"):
            VOCABULARY.category(token)


def test_lead_category_comes_first_then_catalogue_order() -> None:
    baskets = [["soup", "milk", "soup"], [], ["milk", "eggs", "bread"]]
    assert VOCABULARY.sequence(baskets).tolist() == [BOUNDARY, 5, 4, BOUNDARY, OTHER, 3, 4]


@given(_baskets, st.randoms())
def test_order_of_a_baskets_lines_does_not_matter(baskets: list[list[str]], random: object) -> None:
    shuffled = [sorted(basket, key=lambda _: random.random()) for basket in baskets]  # type: ignore[attr-defined]
    assert np.array_equal(VOCABULARY.sequence(baskets), VOCABULARY.sequence(shuffled))


@given(
    st.lists(st.integers(BOUNDARY, 8), max_size=60),
    st.integers(0, 60),
    st.integers(1, 9),
    st.integers(0, 9),
)
def test_windows_ask_every_position_once_with_its_own_past(
    tokens: list[int], start: int, scored: int, context: int
) -> None:
    cut = windows(np.array(tokens, dtype=np.int64), start=start, scored=scored, context=context)
    asked = []
    for inputs, answers in zip(cut.inputs.tolist(), cut.answers.tolist(), strict=True):
        assert len(inputs) == len(answers) == scored + context
        for place, answer in enumerate(answers):
            if answer != PAD:
                asked.append((inputs[: place + 1], answer))
    positions = [p for p in range(max(start, 1), len(tokens)) if tokens[p] >= FIRST_CATEGORY]
    assert len(asked) == cut.steps == len(positions)
    for position, (past, answer) in zip(positions, asked, strict=True):
        assert answer == tokens[position]
        assert past == tokens[position - len(past) : position]
        assert len(past) >= min(position, context + 1)


@pytest.mark.parametrize(("scored", "context"), [(0, 3), (3, -1)])
def test_windows_of_no_length_are_refused(scored: int, context: int) -> None:
    with pytest.raises(SettingsError, match="scored >= 1"):
        windows(np.array([1, 3, 4]), scored=scored, context=context)


@given(_baskets, st.floats(0, 0.99))
def test_split_holds_out_the_latest_baskets(baskets: list[list[str]], held_out: float) -> None:
    tokens, cut = split_by_time(baskets, VOCABULARY, held_out)
    assert np.array_equal(tokens, VOCABULARY.sequence(baskets))
    held = sum(1 for basket in baskets[len(baskets) - int(len(baskets) * held_out) :] if basket)
    assert np.count_nonzero(tokens[cut:] == BOUNDARY) == held
