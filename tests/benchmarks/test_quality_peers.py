"""Peers of the quality benchmark against the formulas of their papers, written without arrays."""

from __future__ import annotations

import math
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.quality import item_peers, sequence_models, session_peers
from benchmarks.quality.peers import Lists, v_sknn
from benchmarks.quality.questions import Question, Trial
from tactful.training.evaluation import CUTOFF

ITEMS = 30
_ECHO = """
import sys, numpy as np
arrays = np.load(sys.argv[1])
sizes = arrays["question_sizes"]
assert len(arrays["visits"]) == arrays["visit_sizes"].sum()
lists = np.full((len(sizes), 60), -1)
for row, (end, size) in enumerate(zip(np.cumsum(sizes), sizes)):
    lists[row, :size] = arrays["questions"][end - size : end][::-1]
np.save(sys.argv[2], lists)
"""
Scores = Mapping[int, float]


def make_trial(seed: int, *, visits: int = 25, questions: int = 8) -> Trial:
    """Return visits of different items, so that every formula has one reading."""
    generator = np.random.default_rng(seed)

    def draw(most: int) -> tuple[int, ...]:
        size = int(generator.integers(1, most))
        return tuple(generator.choice(ITEMS, size, replace=False).tolist())

    return Trial(
        items=ITEMS,
        visits=[draw(8) for _ in range(visits)],
        questions=[
            Question(f"p{number}", draw(6), draw(9), frozenset([0]), at=1_000 + number)
            for number in range(questions)
        ],
        ended=tuple(np.sort(generator.integers(0, 1_000, visits)).tolist()),
        owners=tuple(generator.integers(0, 9, visits).tolist()),
    )


def assert_ranked(trial: Trial, lists: Lists, scores: Callable[[Question], Scores]) -> None:
    """Lists hold the items with the greatest scores, in order, without those of the visit."""
    for question, row in zip(trial.questions, lists.tolist(), strict=True):
        expected = {i: s for i, s in scores(question).items() if i not in question.prefix and s > 0}
        best = sorted(expected.values(), reverse=True)[:CUTOFF]
        assert [expected[item] for item in row[: len(best)]] == pytest.approx(best)


def shared_weights(question: Question, order: float) -> dict[int, float]:
    """Weight of each known item by its distance from the latest one."""
    return {i: math.exp(-d / order) for d, i in enumerate(reversed(question.known))}


def neighbour_votes(
    trial: Trial, question: Question, *, neighbours: int, order: float, age: float
) -> list[tuple[float, tuple[int, ...], int]]:
    """Likeness, items and latest shared item of the nearest visits."""
    weights = shared_weights(question, order)
    first, last = min(trial.ended), max(trial.ended)
    found = []
    for visit, ended in zip(trial.visits, trial.ended, strict=True):
        shared = [item for item in visit if item in weights]
        if shared:
            alike = sum(weights[item] for item in shared) / math.sqrt(len(visit))
            alike *= math.exp(-(question.at - ended) / (last - first) / age)
            latest = max(shared, key=question.known.index)
            found.append((alike, visit, latest))
    return sorted(found, reverse=True)[:neighbours]


@pytest.mark.parametrize("neighbours", [5, 100])
@pytest.mark.parametrize("seed", range(3))
def test_stan_is_the_paper(seed: int, neighbours: int) -> None:
    trial = make_trial(seed)

    def scores(question: Question) -> Scores:
        total: dict[int, float] = defaultdict(float)
        near = neighbour_votes(trial, question, neighbours=neighbours, order=1.5, age=0.3)
        for alike, visit, latest in near:
            for place, item in enumerate(visit):
                total[item] += alike * math.exp(-abs(place - visit.index(latest)) / 2.0)
        return total

    lists = session_peers.stan(trial, neighbours=neighbours, order=1.5, age=0.3, reach=2.0)
    assert_ranked(trial, lists, scores)


@pytest.mark.parametrize("seed", range(3))
def test_vstan_adds_rarity_and_the_place_of_the_shared_item(seed: int) -> None:
    trial = make_trial(seed)

    def scores(question: Question) -> Scores:
        total: dict[int, float] = defaultdict(float)
        for alike, visit, latest in neighbour_votes(
            trial, question, neighbours=6, order=1.5, age=0.3
        ):
            away = len(question.known) - 1 - question.known.index(latest)
            for place, item in enumerate(visit):
                held = sum(item in other for other in trial.visits)
                rarity = 1.0 + 0.5 * math.log(len(trial.visits) / held)
                near = math.exp(-abs(place - visit.index(latest)) / 2.0)
                total[item] += alike * math.exp(-away / 3.0) * near * rarity
        return total

    lists = session_peers.vstan(
        trial, neighbours=6, order=1.5, age=0.3, reach=2.0, place=3.0, rare=0.5
    )
    assert_ranked(trial, lists, scores)


@pytest.mark.parametrize("seed", range(3))
def test_s_knn_is_the_cosine_of_sets(seed: int) -> None:
    trial = make_trial(seed)

    def scores(question: Question) -> Scores:
        total: dict[int, float] = defaultdict(float)
        for visit in trial.visits:
            shared = len(set(visit) & set(question.known))
            for item in visit:
                total[item] += shared / math.sqrt(len(visit))
        return total

    assert_ranked(trial, session_peers.s_knn(trial, neighbours=100), scores)


@pytest.mark.parametrize("seed", range(3))
def test_v_sknn_votes_by_the_place_of_shared_items(seed: int) -> None:
    trial = make_trial(seed)

    def scores(question: Question) -> Scores:
        total: dict[int, float] = defaultdict(float)
        places = {item: place for place, item in enumerate(reversed(question.known), start=1)}
        for visit in trial.visits:
            shared = [places[item] for item in visit if item in places]
            for item in visit if shared else ():
                held = sum(item in other for other in trial.visits)
                vote = sum(1.0 / place for place in shared) / min(shared)
                total[item] += vote * math.log(len(trial.visits) / held)
        return total

    assert_ranked(trial, v_sknn(trial, neighbours=100, steep=1.0, rare=True), scores)


@pytest.mark.parametrize("seed", range(3))
def test_rules_count_what_followed_the_latest_item(seed: int) -> None:
    trial = make_trial(seed)

    def scores(question: Question, reach: int = 4, power: float = 2.0) -> Scores:
        total: dict[int, float] = defaultdict(float)
        for visit in trial.visits:
            for place, item in enumerate(visit):
                for distance in range(1, min(reach, place) + 1):
                    if visit[place - distance] == question.known[-1]:
                        total[item] += float(distance) ** -power
        return total

    assert_ranked(trial, item_peers.sequential_rules(trial, reach=4, power=2.0), scores)
    assert_ranked(trial, item_peers.markov(trial), lambda question: scores(question, 1))


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("own", [0.0, 0.7])
def test_co_visitation_mixes_neighbours_with_own_items(own: float, both: bool) -> None:
    trial = make_trial(4)

    def scores(question: Question) -> Scores:
        total: dict[int, float] = defaultdict(float)
        for distance, known in enumerate(reversed(question.known)):
            for visit in trial.visits:
                for place, item in enumerate(visit):
                    away = place - visit.index(known) if known in visit else 0
                    if 1 <= (abs(away) if both else away) <= 3:
                        total[item] += 0.5**distance / abs(away)
        most = max(total.values(), default=1.0)
        mixed = defaultdict(float, {item: score / most for item, score in total.items()})
        counts = {item: question.history.count(item) for item in question.history}
        for item, count in counts.items():
            mixed[item] += own * count / max(counts.values())
        return mixed

    lists = item_peers.co_visitation(trial, reach=3, both=both, fade=0.5, own=own)
    assert_ranked(trial, lists, scores)


@pytest.mark.parametrize("by", ["visit", "person"])
def test_item_item_is_the_product_of_weighted_columns(by: str) -> None:
    trial = make_trial(5)
    held = np.array([[float(item in visit) for item in range(ITEMS)] for visit in trial.visits])
    if by == "person":
        owners = np.array(trial.owners)
        held = np.array([held[owners == owner].sum(axis=0) for owner in range(owners.max() + 1)])
    idf = np.maximum(np.log(len(held) / (1.0 + (held > 0).sum(axis=0))), 0.0)
    length = 0.25 + 0.75 * held.sum(axis=1, keepdims=True) / held.sum(axis=1).mean()
    bm25 = held * 2.2 / (1.2 * length + held) * idf
    norms = np.sqrt((held**2).sum(axis=0))
    cosine = held / np.where(norms > 0, norms, 1.0)
    for weighting, weighted in (("bm25", bm25), ("cosine", cosine)):
        near = weighted.T @ weighted
        np.fill_diagonal(near, 0.0)

        def scores(question: Question, near: np.ndarray = near) -> Scores:
            known = {
                **{i: 0.5**5 * 1.0**d for d, i in enumerate(question.history)},
                **{i: 0.5**d for d, i in enumerate(reversed(question.prefix))},
            }
            total = sum(weight * near[item] for item, weight in known.items())
            return dict(enumerate(np.asarray(total).tolist()))

        lists = item_peers.item_item(trial, weighting=weighting, by=by, neighbours=ITEMS, fade=0.5)
        assert_ranked(trial, lists, scores)


def test_an_item_of_the_visit_comes_again_where_the_trial_says_so() -> None:
    trial = make_trial(6)
    inside = session_peers.s_knn(replace(trial, repeats=True), neighbours=100)
    outside = session_peers.s_knn(trial, neighbours=100)
    held = [bool(set(q.prefix) & set(row)) for q, row in zip(trial.questions, inside, strict=True)]
    assert any(held)
    for question, row in zip(trial.questions, outside, strict=True):
        assert not set(question.prefix) & set(row.tolist())


def test_models_that_are_not_installed_are_skipped_with_the_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sequence_models, "PYTHON", tmp_path / "python")
    found, missing = sequence_models.sequence_peers()
    assert not found
    assert set(missing) == {"sasrec", "gru4rec"}
    assert all("does not exist" in reason for reason in missing.values())


@pytest.mark.slow
def test_a_model_gets_sequences_and_gives_lists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in for the model answers with the items of each question, the latest first."""
    script = tmp_path / "model.py"
    script.write_text(_ECHO)
    monkeypatch.setattr(sequence_models, "PYTHON", Path(sys.executable))
    monkeypatch.setattr(sequence_models, "_MODELS", {"echo": (str(script), "numpy")})
    (peer,), missing = sequence_models.sequence_peers(0.1)
    assert (peer.name, missing) == ("echo", {})
    asked = make_trial(7)
    lists = peer.lists(replace(asked, repeats=True))
    for question, row in zip(asked.questions, lists.tolist(), strict=True):
        known = list(dict.fromkeys(reversed(question.known)))
        assert row[: len(known)] == known
        assert len(set(row)) == CUTOFF
    for question, row in zip(asked.questions, peer.lists(asked).tolist(), strict=True):
        assert not set(question.prefix) & set(row)
