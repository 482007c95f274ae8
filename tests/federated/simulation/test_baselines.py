"""Markov chain, popularity, scores and their paired difference."""

import math
from collections import Counter
from collections.abc import Mapping
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_federated.model.scores import Score, paired_difference
from tactful_federated.model.tokens import BOUNDARY, FIRST_CATEGORY, windows
from tactful_federated.simulation.baselines import PSEUDO_COUNT, fit_markov, fit_popularity

_sequences = st.lists(st.lists(st.integers(1, 12), max_size=40), min_size=1, max_size=4)


def best(counts: Mapping[int, int | Fraction], exclude: tuple[int, ...] = ()) -> list[int]:
    left = [t for t in counts if t not in exclude]
    return sorted(left, key=lambda t: (-counts[t], t))


def read(tokens: list[int], end: int) -> tuple[int, int]:
    """Return the last category before position `end`, and the last token."""
    categories = [token for token in tokens[:end] if token >= FIRST_CATEGORY]
    return (categories[-1] if categories else BOUNDARY), tokens[end - 1]


@given(_sequences, st.lists(st.integers(1, 12), max_size=40), st.integers(0, 40))
def test_markov_equals_a_count_by_hand(past: list[list[int]], asked: list[int], start: int) -> None:
    arrays = [np.array(sequence, dtype=np.int64) for sequence in past]
    seen = [
        (read(sequence, i), sequence[i])
        for sequence in past
        for i in range(1, len(sequence))
        if sequence[i] >= FIRST_CATEGORY
    ]
    popularity = dict(Counter(answer for _, answer in seen))
    expected = {"markov": [0, 0, 0], "popularity": [0, 0, 0]}
    for i in range(max(1, start), len(asked)):
        if (answer := asked[i]) < FIRST_CATEGORY:
            continue
        category, token = read(asked, i)
        of_token = Counter(b for (_, before), b in seen if before == token)
        of_state = Counter(b for state, b in seen if state == (category, token))
        shares = {b: Fraction(n, of_token.total()) for b, n in of_token.items()}
        chances = {b: of_state[b] + PSEUDO_COUNT * share for b, share in shares.items()}
        head = best(chances)[:5]
        ranked = (head + best(popularity, tuple(head)))[:5]
        for name, guess in (("markov", ranked), ("popularity", best(popularity)[:5])):
            expected[name][0] += 1
            expected[name][1] += guess[:1] == [answer]
            expected[name][2] += answer in guess
    # As many tokens of context as there are, so that each window has the last category.
    questions = windows(np.array(asked, dtype=np.int64), start=start, scored=7, context=40)
    for name, chain in (("markov", fit_markov(arrays)), ("popularity", fit_popularity(arrays))):
        assert chain.evaluate(questions) == Score(*expected[name]), name


def test_the_chain_reads_the_last_category_across_visits() -> None:
    """After a boundary a chain of tokens has one answer, the most frequent beginning of a visit."""
    tea, milk, soap = range(FIRST_CATEGORY, FIRST_CATEGORY + 3)
    turns = [tea, BOUNDARY, milk, BOUNDARY, soap, BOUNDARY]
    sequence = np.array([BOUNDARY, *turns * 60], dtype=np.int64)
    score = fit_markov([sequence]).evaluate(windows(sequence, start=2))
    assert score.top1_rate == 1.0


def test_scores_add_up_and_are_possible() -> None:
    total = sum([Score(4, 1, 2, 3.0), Score(6, 3, 4, 2.0)], Score())
    assert (total.steps, total.top1_rate, total.top5_rate, total.mean_loss) == (10, 0.4, 0.6, 0.5)
    assert math.isnan(Score().top1_rate)
    impossible = [(1, 2, 2, 0.0), (3, 2, 1, 0.0), (3, -1, 1, 0.0), (3, 1, 1, -1.0)]
    for counts in [*impossible, (3, 1, 1, math.nan)]:
        with pytest.raises(ValueError, match="impossible score"):
            Score(*counts)


def test_paired_difference_follows_households() -> None:
    alike = [(3, 10)] * 30
    same = paired_difference(alike, alike, seed=1)
    assert (same.value, same.low, same.high) == (0.0, 0.0, 0.0)
    better = paired_difference([(5, 10)] * 30, alike, seed=1)
    assert (better.value, better.low, better.high) == pytest.approx((0.2, 0.2, 0.2))
    # One household of thirty carries the whole gain: that is no evidence.
    lucky = paired_difference([(10, 10), *alike[1:]], alike, seed=1)
    assert lucky.value > 0 and lucky.low == 0.0
    with pytest.raises(ValueError, match="same number of questions"):
        paired_difference([(1, 2)], [(1, 3)], seed=1)
