"""Learning how to compare visits and how to blend the evidence, from the latest visits.

The tables of neighbours are learned from the events before, and asked for the items of the latest
visits: no visit is compared with itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np
from msgspec.structs import replace as replace_fields
from numpy.typing import NDArray

from tactful.recall.blend import (
    Blend,
    Blends,
    Evidence,
    Own,
    gather_evidence,
    kinds,
    ordered,
    popular_shares,
)
from tactful.recall.fit_popularity import PopularityHistory, fit_popularity
from tactful.recall.neighbours import NeighbourScores, VisitWeights, score_neighbours
from tactful.recall.tables import Interactions, Tables

_BY_ORDER = VisitWeights(looks_back=20, history=True)

TRIED = (
    _BY_ORDER,
    replace_fields(_BY_ORDER, fade=0.8, length_power=0.5, age=0.1, distance_power=0.5, before=0.6),
    replace_fields(_BY_ORDER, fade=0.8, length_power=0.5, age=0.1, distance_power=0.0, before=1.0),
    replace_fields(_BY_ORDER, fade=1.0, length_power=0.5, age=0.0, distance_power=0.0, before=1.0),
)
"""Weights among which a history chooses, from order counts most to order counts nothing."""

_LATEST = 300_000
_SHARE = 0.8
_FEWEST, _CHOOSING, _QUESTIONS = 100, 400, 700
_VISIT, _HISTORY, _OWN = 20, 30, 2_000
_RANKED, _POPULAR, _TOP = 200, 100, 40
_CUTOFF = 20
_STEPS = (0.0, 0.5, 2.0, 4.0)
_ROUNDS = 5
_BEYOND_NOISE = 1.0
_LEAST_FACTOR, _MOST_FACTOR = 0.02, 4.0


class _Question(NamedTuple):
    """The next item of a visit, and what was known before it."""

    event: int  # number of the event that is the answer
    answer: int
    session: list[int]  # items of the visit, newest first, each once
    history: list[int]  # items of the person's earlier visits, newest first, each once
    own: Own


class _Asked(NamedTuple):
    """Evidence for the candidates of all questions, padded to one width.

    table (questions, 6, width)   popular, standing, right (questions, width)
    """

    table: NDArray[np.float32]
    popular: NDArray[np.float32]
    standing: NDArray[np.int8]
    right: NDArray[np.bool_]

    def sums(self, blend: Blend) -> NDArray[np.float32]:
        """Return the weighted sums of the evidence, before the factors."""
        sums: NDArray[np.float32] = np.einsum("k,qkn->qn", blend.shares, self.table)
        sums += np.float32(blend.popular) * self.popular
        return sums

    def gains(self, blend: Blend) -> NDArray[np.float64]:
        """Return the discounted gain of each question at twenty items, 0 without a hit."""
        sums = self.sums(blend)
        sums *= blend.factors[self.standing]
        answer = np.where(self.right, sums, np.float32(-1.0)).max(axis=1)
        # Of equal scores half come first.
        above = (sums > answer[:, None]).sum(axis=1) + (sums == answer[:, None]).sum(axis=1) / 2
        found = (answer > 0.0) & (above <= _CUTOFF)
        return np.where(found, 1.0 / np.log2(above + 1.5), 0.0)


def fit_blend(
    seen: Interactions,
    learn: Callable[[Interactions], Tables],
    count: int,  # number of rows of the catalogue
    *,
    seed: int = 0,
) -> tuple[VisitWeights, Blends]:
    """Choose the weights that order the next items of the latest visits best.

    A weight changes only where the gain exceeds its standard error. With fewer than a hundred
    questions of a kind its defaults stay.
    """
    seen = seen.part(max(len(seen.item) - _LATEST, 0), len(seen.item))
    begin = int(_SHARE * len(seen.item))
    questions = {
        kind: asked
        for kind, asked in _questions(seen, begin, seed).items()
        if len(asked) >= _FEWEST
    }
    if not questions:
        return _BY_ORDER, Blends()
    tables = learn(seen.part(0, begin))
    popular = fit_popularity(seen, begin, count)
    guesses = {kind: _first_guess(asked) for kind, asked in questions.items()}
    # They do not depend on how visits are compared.
    near = {
        kind: [_neighbours(tables, question, count) for question in asked]
        for kind, asked in questions.items()
    }

    def gain(weights: VisitWeights) -> float:
        weighed = _weighed(tables, weights)
        gains = [
            _ask(weighed, asked[:_CHOOSING], near[kind], popular).gains(guesses[kind])
            for kind, asked in questions.items()
        ]
        return float(np.concatenate(gains).mean())

    chosen = max(TRIED, key=gain)
    weighed = _weighed(tables, chosen)
    learned = {
        kind: _best(_ask(weighed, asked, near[kind], popular), guesses[kind])
        for kind, asked in questions.items()
    }
    return chosen, Blends(**learned, popular=popular.window)


def _weighed(tables: Tables, weights: VisitWeights) -> Tables:
    return tables._replace(sessions=replace(tables.sessions, weights=weights))


def _questions(seen: Interactions, begin: int, seed: int) -> dict[str, list[_Question]]:
    """Draw questions of visits that began at event `begin` or later, by field of `Blends`."""
    number = len(seen.item)
    order = np.argsort(seen.session, kind="stable")
    starts = np.flatnonzero(np.diff(seen.session[order], prepend=-1))
    first = np.repeat(order[starts], np.diff(np.append(starts, number)))
    began = np.empty(number, np.int64)
    began[order] = first  # number of the first event of each event's visit
    person = np.full(number, -1, np.int64) if seen.person is None else seen.person
    by_person = np.argsort(person, kind="stable")
    ranked = person[by_person]
    late = np.flatnonzero(began >= begin)
    questions: dict[str, list[_Question]] = {"first": [], "within": []}
    for event in np.random.default_rng(seed).permutation(late).tolist():
        kind = "first" if began[event] == event else "within"
        if len(questions[kind]) == _QUESTIONS:
            continue
        visit = np.flatnonzero(seen.session[began[event] : event] == seen.session[event])
        session = seen.item[began[event] + visit][::-1].tolist()
        earlier: list[int] = []
        if (who := person[event]) >= 0:
            span = slice(*np.searchsorted(ranked, [who, who + 1]).tolist())
            events = by_person[span]
            earlier = seen.item[events[events < began[event]][-_OWN:]][::-1].tolist()
        if session or earlier:
            questions[kind].append(_question(event, int(seen.item[event]), session, earlier))
    return questions


def _question(event: int, answer: int, session: list[int], earlier: list[int]) -> _Question:
    visited = list(dict.fromkeys(session))
    history = [row for row in dict.fromkeys(earlier) if row not in {*visited}]
    own = Own(
        np.array(visited, np.int64),
        np.array(history, np.int64),
        ordered({row: float(amount) for row, amount in Counter(earlier).items()}),
    )
    return _Question(event, answer, visited[:_VISIT], history[:_HISTORY], own)


def _first_guess(questions: Sequence[_Question]) -> Blend:
    """Set the factors to the odds at which known and visited items come again."""

    def odds(hits: int, of: int) -> float:
        share = hits / max(of, 1)
        return min(max(share / max(1.0 - share, 1e-9), _LEAST_FACTOR), _MOST_FACTOR)

    again = [question for question in questions if len(question.own.amounts.rows)]
    returning = [question for question in questions if question.session]
    known = sum(question.answer in question.own.amounts.rows for question in again)
    visited = sum(question.answer in question.own.visit for question in returning)
    return Blend(known=odds(known, len(again)), visited=odds(visited, len(returning)))


def _neighbours(tables: Tables, question: _Question, count: int) -> NeighbourScores:
    recent = np.array([*question.session, *question.history], np.int64)
    return score_neighbours(*tables[:3], recent, len(question.session), count)


def _ask(
    tables: Tables,
    questions: Sequence[_Question],
    near: Sequence[NeighbourScores],
    popular: PopularityHistory,
) -> _Asked:
    lists: list[tuple[NDArray[np.int64], Evidence]] = []
    for question, neighbours in zip(questions, near, strict=False):
        similar = tables.sessions.scores(question.session or question.history)
        of = kinds(neighbours, similar, question.own)
        ranked = [scores.ranked[:_RANKED] for scores in of]
        best = popular.before(question.event)[:_POPULAR]
        rows = np.unique(np.concatenate([*ranked, question.own.visit, best]))
        lists.append((rows, gather_evidence(rows, of, question.own)))
    width = max(len(rows) for rows, _ in lists)
    asked = _Asked(
        np.zeros((len(lists), len(lists[0][1].table), width), np.float32),
        np.zeros((len(lists), width), np.float32),
        np.zeros((len(lists), width), np.int8),
        np.zeros((len(lists), width), np.bool_),
    )
    places = np.zeros(len(tables.sessions.visit_starts) - 1, np.int32)
    for number, (rows, evidence) in enumerate(lists):
        order = popular.before(questions[number].event)
        places[:] = len(order)
        places[order] = np.arange(len(order), dtype=np.int32)
        asked.table[number, :, : len(rows)] = evidence.table
        asked.standing[number, : len(rows)] = evidence.standing
        asked.popular[number, : len(rows)] = popular_shares(places[rows], len(order))
        asked.right[number, : len(rows)] = rows == questions[number].answer
    return asked


def _best(asked: _Asked, guess: Blend) -> Blend:
    """Climb from a guess and from calibrated factors, and return what gains more."""
    climbed = [_climb(asked, start) for start in (guess, _calibrated(asked, guess))]
    return max(climbed, key=lambda blend: float(asked.gains(blend).mean()))


def _calibrated(asked: _Asked, blend: Blend) -> Blend:
    """Set each factor so that its items have the share of the top that they have of the answers.

    Odds alone count twice what the other evidence says of known items already. The top has forty
    items, and only questions count whose answer is one of them.
    """
    sums = asked.sums(blend).astype(np.float64)
    factors = blend.factors.astype(np.float64)
    for standing in (1, 2) * 2:
        low, high = _LEAST_FACTOR, _MOST_FACTOR
        while high > 1.02 * low:
            factors[standing] = middle = (low * high) ** 0.5
            scores = sums * factors[asked.standing]
            if scores.shape[1] > _TOP:
                scores *= scores >= -np.partition(-scores, _TOP - 1, axis=1)[:, _TOP - 1, None]
            found = (asked.right & (scores > 0)).any(axis=1)
            inside = (asked.standing == standing)[found]
            if not inside.any():
                break
            shares = (scores[found] * inside).sum(axis=1) / scores[found].sum(axis=1)
            wanted = (asked.right[found] & inside).any(axis=1).mean()
            low, high = (middle, high) if shares.mean() < wanted else (low, middle)
    return replace_fields(blend, known=float(factors[1]), visited=float(factors[2]))


def _climb(asked: _Asked, blend: Blend) -> Blend:
    """Change one weight after another while the questions gain beyond noise."""
    gains = asked.gains(blend)
    for _ in range(_ROUNDS):
        before = blend
        for name in Blend.__struct_fields__:
            tried = [
                replace_fields(blend, **{name: step * getattr(blend, name)}) for step in _STEPS
            ]
            found = [asked.gains(each) for each in tried]
            better = [
                (float(other.mean()), number)
                for number, other in enumerate(found)
                if _is_better(other - gains)
            ]
            if better:
                _, number = max(better)
                blend, gains = tried[number], found[number]
        if blend == before:
            break
    return blend


def _is_better(differences: NDArray[np.float64]) -> bool:
    gain: float = differences.mean()
    noise: float = differences.std() / np.sqrt(len(differences))
    return bool(gain > _BEYOND_NOISE * noise > 0.0)
