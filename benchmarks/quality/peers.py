"""The recommenders to beat, each with the settings it is tried with.

A peer gets a `Trial` and makes a list of `CUTOFF` item numbers for each question. It learns from
the past visits alone; of a question it may use the visit so far and the person's earlier visits.
"""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.quality.questions import Question, Trial
from tactful.demo.baselines import CoVisitation, OwnFrequency, Popularity
from tactful.training.evaluation import CUTOFF

Lists = NDArray[np.int64]
"""Item numbers, best first, -1 where a list ends early; shape (questions, CUTOFF)."""

_CHUNK = 500
_CELLS = 20_000_000


@dataclass(frozen=True)
class Peer:
    """A recommender to beat.

    Attributes:
        name: in the names of figures.
        lists: answers a trial, given one of the settings.
        settings: what it is tried with; the best on the earlier trial is what it is asked with.
        uses_time: whether it looks at the times of visits, not only at their order.
    """

    name: str
    lists: Callable[..., Lists]
    settings: Sequence[Mapping[str, Any]] = ({},)
    uses_time: bool = False


def grid(**choices: Sequence[Any]) -> list[dict[str, Any]]:
    """Every combination of some choices."""
    return [dict(zip(choices, each, strict=True)) for each in itertools.product(*choices.values())]


def queries(trial: Trial, *, fade: float, history: float, age: float = 1.0) -> sparse.csr_matrix:
    """What is known at each question as weights of items.

    Args:
        trial: the questions.
        fade: what an item of the visit counts for, relative to the one after it.
        history: what the person's latest earlier item counts for, relative to the visit's latest.
        age: what an earlier item counts for, relative to the one after it.

    Returns:
        Weights, shape (questions, items); an item that occurs again counts by its latest place.
    """
    values: list[float] = []
    columns: list[int] = []
    bounds = [0]
    for question in trial.questions:
        weights: dict[int, float] = {}
        for place, item in enumerate(reversed(question.prefix)):
            weights.setdefault(item, fade**place)
        if history:
            for place, item in enumerate(reversed(question.history)):
                weights.setdefault(item, history * age**place)
        columns += weights.keys()
        values += weights.values()
        bounds.append(len(columns))
    shape = (len(trial.questions), trial.items)
    return sparse.csr_matrix((np.array(values), np.array(columns, np.int64), bounds), shape)


def visits_matrix(trial: Trial) -> sparse.csr_matrix:
    """Which items each past visit held, shape (visits, items)."""
    sizes = [len(visit) for visit in trial.visits]
    rows = np.repeat(np.arange(len(sizes)), sizes)
    columns = np.fromiter(itertools.chain.from_iterable(trial.visits), np.int64, sum(sizes))
    shape = (len(sizes), trial.items)
    held = sparse.coo_matrix((np.ones(len(columns)), (rows, columns)), shape).tocsr()
    held.data[:] = 1.0
    return held


def best(trial: Trial, scores: Callable[[slice], NDArray[np.float64]]) -> Lists:
    """Lists by score; the more popular of equals first.

    What the visit holds already is left out, unless the trial says that it may come again, and what
    the person had before where the trial asks for new items only.

    Args:
        trial: the questions.
        scores: of all items for a slice of the questions, shape (questions, items).
    """
    tie = np.empty(trial.items)
    tie[popular_rows(trial)] = np.linspace(1e-9, 0.0, trial.items)
    found = []
    chunk = max(1, min(_CHUNK, _CELLS // trial.items))
    for start in range(0, len(trial.questions), chunk):
        part = slice(start, start + chunk)
        values = np.array(scores(part), np.float64)
        values /= np.maximum(np.abs(values).max(axis=1, keepdims=True), 1e-300)
        values += tie
        for row, question in zip(values, trial.questions[part], strict=True):
            if not trial.repeats or trial.new_only:
                row[list(question.prefix)] = -np.inf
            if trial.new_only:
                row[list(question.history)] = -np.inf
        top = np.argpartition(-values, min(CUTOFF, trial.items - 1), axis=1)[:, :CUTOFF]
        order = np.argsort(-np.take_along_axis(values, top, axis=1), axis=1, kind="stable")
        found.append(np.take_along_axis(top, order, axis=1))
    return np.concatenate(found)


def popular_rows(trial: Trial) -> NDArray[np.intp]:
    """Return the item numbers, those of most visits first."""
    return np.argsort(-_popularity(trial), kind="stable")


def _popularity(trial: Trial) -> NDArray[np.int64]:
    taken = itertools.chain.from_iterable(trial.visits)
    return np.bincount(np.fromiter(taken, np.int64), minlength=trial.items)


def replayed(make: Callable[[Popularity], Popularity | OwnFrequency | CoVisitation]) -> Any:
    """A baseline of `tactful.demo.baselines`, told the same things in their order.

    Args:
        make: the baseline from popularity.
    """

    def lists(trial: Trial) -> Lists:
        popular = Popularity()
        baseline = make(popular)
        for number, visit in enumerate(trial.visits):
            for item in visit:
                popular.took("", str(number), str(item))
                if isinstance(baseline, CoVisitation):
                    baseline.took("", str(number), str(item))
        popular.freeze()
        if isinstance(baseline, CoVisitation):
            baseline.freeze()
        found = np.full((len(trial.questions), CUTOFF), -1, np.int64)
        for number, question in enumerate(trial.questions):
            ranked = _asked(baseline, number, question)
            found[number, : len(ranked)] = [int(item) for item in ranked]
        return found

    return lists


def _asked(
    baseline: Popularity | OwnFrequency | CoVisitation, number: int, question: Question
) -> list[str]:
    """The list for a question, each asked under a name of its own, so that nothing is mixed up."""
    person = f"question {number}"
    known: tuple[int, ...] = ()
    if isinstance(baseline, OwnFrequency):
        known = (*question.history, *question.prefix)
    elif isinstance(baseline, CoVisitation):
        known = question.known
    for item in known:
        baseline.took(person, person, str(item))
    return baseline.ranked(person, person)


def own_faded(trial: Trial, *, age: float) -> Lists:
    """What the person took most often, the longer ago the less it counts."""
    found = np.full((len(trial.questions), CUTOFF), -1, np.int64)
    popular = popular_rows(trial)[:CUTOFF].tolist()
    for number, question in enumerate(trial.questions):
        counts: Counter[int] = Counter()
        for place, item in enumerate(reversed(question.history)):
            counts[item] += age**place  # type: ignore[assignment]
        own = [item for item, _ in counts.most_common(CUTOFF)]
        ranked = own + [item for item in popular if item not in counts][: CUTOFF - len(own)]
        found[number, : len(ranked)] = ranked
    return found


def item_knn(trial: Trial, *, neighbours: int, shrink: float, fade: float, history: float) -> Lists:
    """Cosine of items over visits, the nearest of each kept.

    Deshpande and Karypis, "Item-based top-N recommendation algorithms" (ACM TOIS 22, 2004).
    """
    held = visits_matrix(trial)
    met = (held.T @ held).tocsr()
    counts = met.diagonal()
    met.setdiag(0)
    met.eliminate_zeros()
    coo = met.tocoo()
    likeness = coo.data / (np.sqrt(counts[coo.row] * counts[coo.col]) + shrink)
    near = sparse.csr_matrix((likeness, (coo.row, coo.col)), met.shape)
    for row in range(near.shape[0]):
        start, end = near.indptr[row], near.indptr[row + 1]
        if end - start > neighbours:
            weak = np.argpartition(-near.data[start:end], neighbours)[neighbours:]
            near.data[start + weak] = 0.0
    near.eliminate_zeros()
    asked = queries(trial, fade=fade, history=history)
    return best(trial, lambda part: (asked[part] @ near).toarray())


class Ease:
    """A linear autoencoder in closed form; what was solved is kept for the next settings.

    Steck, "Embarrassingly shallow autoencoders for sparse data" (WWW 2019).
    """

    def __init__(self) -> None:
        """Nothing is solved yet."""
        self._solved: tuple[Trial, float, NDArray[np.float64]] | None = None

    def lists(self, trial: Trial, *, penalty: float, fade: float, history: float) -> Lists:
        """Answer a trial."""
        if self._solved is None or self._solved[0] is not trial or self._solved[1] != penalty:
            held = visits_matrix(trial)
            gram = (held.T @ held).toarray()
            gram[np.diag_indices_from(gram)] += penalty
            inverse = np.linalg.inv(gram)
            weights = -inverse / np.diag(inverse)
            np.fill_diagonal(weights, 0.0)
            self._solved = trial, penalty, weights
        asked, weights = queries(trial, fade=fade, history=history), self._solved[2]
        return best(trial, lambda part: asked[part] @ weights)


def v_sknn(trial: Trial, *, neighbours: int, steep: float, rare: bool) -> Lists:
    """Vector multiplication session kNN.

    Ludewig and Jannach, "Evaluation of session-based recommendation algorithms" (User Modeling and
    User-Adapted Interaction 28, 2018), with the weights of the authors' code: all visits that share
    an item are looked at, the `neighbours` most alike vote, and both an item's share in likeness
    and a vote weaken with the place of the (latest) shared item, as ``place ** -steep``; rare items
    may count more.
    """
    held = visits_matrix(trial)
    by_item = held.tocsc()
    by_item.sort_indices()
    counts = np.maximum(np.diff(by_item.indptr), 1)
    weight = np.log(len(trial.visits) / counts) if rare else np.ones(trial.items)

    def scores(part: slice) -> NDArray[np.float64]:
        asked = trial.questions[part]
        values = np.zeros((len(asked), trial.items))
        for row, question in zip(values, asked, strict=True):
            row += _votes(question)
        return values

    def _votes(question: Question) -> NDArray[np.float64]:
        distinct = list(dict.fromkeys(reversed(question.known)))
        likeness = np.zeros(len(trial.visits))
        latest = np.zeros(len(trial.visits), np.int64)
        for place, item in reversed([*enumerate(distinct)]):
            visits = by_item.indices[by_item.indptr[item] : by_item.indptr[item + 1]]
            likeness[visits] += (place + 1.0) ** -steep
            latest[visits] = place + 1
        shared = np.flatnonzero(likeness)
        if len(shared) > neighbours:
            shared = shared[np.argpartition(-likeness[shared], neighbours)[:neighbours]]
        votes = likeness[shared] * latest[shared].astype(np.float64) ** -steep
        voted: NDArray[np.float64] = held[shared].T @ votes
        return voted * weight

    return best(trial, scores)


class Implicit:
    """Matrix factorisation by `implicit`, in an environment of its own.

    ALS is that of Hu, Koren and Volinsky, "Collaborative filtering for implicit feedback datasets"
    (ICDM 2008), a question folded in as a visit; BPR that of Rendle et al., "BPR: Bayesian
    personalized ranking from implicit feedback" (UAI 2009), a question the mean of its items, as
    Ludewig and Jannach use it.
    """

    def __init__(self, python: Path, scratch: Path) -> None:
        """Use an interpreter that has `implicit`, and a folder for what goes to and fro."""
        self._python, self._scratch = python, scratch

    def lists(self, trial: Trial, *, fade: float, history: float, **settings: Any) -> Lists:
        """Answer a trial; `settings` are those of the model."""
        asked = queries(trial, fade=fade, history=history)
        source, target = self._scratch / "visits.npz", self._scratch / "factors.npz"
        parts = {"held": visits_matrix(trial), "asked": asked}
        np.savez(
            source,
            **{
                f"{name}_{part}": getattr(matrix, part)
                for name, matrix in parts.items()
                for part in ("data", "indices", "indptr", "shape")
            },
        )
        script = Path(__file__).parents[1] / "peers" / "implicit_factors.py"
        subprocess.run(
            [str(self._python), str(script), str(source), str(target), json.dumps(settings)],
            env={**os.environ, "OPENBLAS_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=3_600,
        )
        with np.load(target) as factors:
            questions, items = factors["questions"], factors["items"]
        return best(trial, lambda part: questions[part] @ items.T)


POPULARITY = Peer("popularity", replayed(lambda popular: popular))
OWN_FREQUENCY = Peer("own_frequency", replayed(OwnFrequency))
OWN_FADED = Peer("own_frequency_faded", own_faded, grid(age=(0.999, 0.997, 0.99)))
CO_VISITATION = Peer("co_visitation", replayed(CoVisitation))
V_SKNN = Peer("v_sknn", v_sknn, grid(neighbours=(500, 1_500), steep=(1.0, 2.0), rare=(True, False)))
ITEM_KNN = Peer(
    "item_knn",
    item_knn,
    grid(neighbours=(100, 4_000), shrink=(0.0, 20.0), fade=(0.5, 0.8), history=(0.0,)),
)


def ease() -> Peer:
    """EASE; one of its own for each run, since it keeps what it solved."""
    choices = grid(penalty=(100.0, 500.0), fade=(0.5, 0.8), history=(0.0, 0.02))
    return Peer("ease", Ease().lists, choices)


def implicit_peers(python: Path, scratch: Path) -> tuple[Peer, Peer]:
    """ALS and BPR."""
    model = Implicit(python, scratch).lists
    als = grid(
        model=("als",),
        factors=(128,),
        regularization=(0.1,),
        alpha=(1.0, 10.0),
        iterations=(15,),
        fade=(0.5, 0.8),
        history=(0.0,),
    )
    bpr = grid(
        model=("bpr",),
        factors=(128,),
        regularization=(0.01,),
        learning_rate=(0.05,),
        iterations=(60,),
        fade=(0.5, 0.8),
        history=(0.0,),
    )
    return Peer("als", model, als), Peer("bpr", model, bpr)
