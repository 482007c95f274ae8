"""Items without events: a fifth of `online_retail` is hidden, and asked for.

These items lose every event before the cut, as in `benchmarks.quality.cold_items`, and the
questions are those whose answer is one of them. A hidden item has its title alone: no ranking reads
its category or price. The figures are about the answer's place among the hidden items alone: the
shop's other items would hide the difference. Three rankings of the hidden items are compared, for a
visit of which the latest items are known:

- by vectors: the place of each hidden item by its words, or by its words and its encoded title;
- by popularity: each hidden item has the popularity of the category that its text predicts, and
  the category of the visit comes first. The category is the family of the product codes; of a
  hidden item it is predicted from its words, by the nearest centre of the known items' words;
- warm: by the vectors that its events would have given.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from msgspec.structs import replace
from numpy.typing import NDArray
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.neighbors import NearestCentroid

from benchmarks.figures import Figure
from benchmarks.search.encoding import encoder_settings
from benchmarks.shared import retail_path
from tactful.demo.datasets import Replay, online_retail
from tactful.errors import TactfulError
from tactful.recall.index import build_index
from tactful.recall.neighbours import direction
from tactful.recall.tables import Interactions
from tactful.understanding.item_vectors import open_item_vectors
from tactful.vectors.content import EncodedItems
from tactful_streaming.contract.log_entries import Item

FIGURES = (
    ("cold_item_recall20_ratio_text", "1"),
    ("cold_item_recall20_text", "1"),
    ("cold_item_recall20_words", "1"),
    ("cold_item_recall20_popularity", "1"),
    ("cold_item_recall20_warm_ratio_text", "1"),
)
_SHARE = 0.2
SHOWN = 20
"""Items of a recommendation."""

_LATEST = 10
_RESAMPLES = 1_000


@dataclass(frozen=True)
class _Shop:
    """The data before the cut, with numbers for items.

    Attributes:
        items: descriptions, by number; of hidden items the title alone.
        seen: events before the cut, hidden items included.
        hidden: whether each item is hidden.
        category: number of the true category of each item.
    """

    items: Sequence[Item]
    seen: Interactions
    hidden: NDArray[np.bool_]
    category: NDArray[np.int64]


@dataclass(frozen=True)
class Questions:
    """Visits so far, and the hidden item that came next.

    Attributes:
        recent: latest items of each visit, the newest first; none of them is hidden.
        wanted: the hidden item that came.
        person: number of the person.
    """

    recent: Sequence[Sequence[int]]
    wanted: NDArray[np.int64]
    person: NDArray[np.int64]


def cold(quick: bool) -> list[Figure]:
    """Measure; quick takes the customers of three months."""
    replay = online_retail(retail_path(), quick=quick)
    shop = _shop(replay)
    questions = _questions(replay, shop)
    known = shop.seen.item[~shop.hidden[shop.seen.item]]
    places = {"popularity": _by_popularity(shop, questions, known)}
    places["words"], _ = _by_vectors(shop, questions, None)
    places["warm"] = _by_events(shop, questions)
    note = (
        f"online_retail, {len(questions.wanted):,} questions for {int(shop.hidden.sum()):,} hidden"
    )
    encoder = ""
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        try:
            with open_item_vectors(encoder_settings(Path(folder), text="minilm")) as encoded:
                places["text"], encoder = _by_vectors(shop, questions, encoded)
        except TactfulError as error:
            note = f"no titles are encoded: {error}; {note}"
    note += f" items, ranked among these; encoder: {encoder or 'none chosen'}; 95 % over people"
    found = {name: (place < SHOWN).astype(float) for name, place in places.items()}
    return [
        ratio_of("cold_item_recall20_ratio_text", found, "text", "popularity", questions, note),
        *(
            ratio_of(f"cold_item_recall20_{name}", found, name, "", questions, note)
            for name in ("text", "words", "popularity")
        ),
        ratio_of("cold_item_recall20_warm_ratio_text", found, "text", "warm", questions, note),
    ]


def _shop(replay: Replay) -> _Shop:
    items = [Item(**{"timestamp": 0, **item}) for item in replay.items]
    row = {item.item_id: number for number, item in enumerate(items)}
    names = sorted(row)
    drawn = np.random.default_rng(0).random(len(names)) < _SHARE
    hidden = np.zeros(len(items), np.bool_)
    hidden[[row[name] for name, taken in zip(names, drawn.tolist(), strict=True) if taken]] = True
    events = [n for n in range(replay.cut) if replay.item[n] in row]
    visits: dict[str | None, int] = {}
    numbers: dict[str, int] = {}
    return _Shop(
        titles_alone(items, hidden),
        Interactions(
            session=np.array([visits.setdefault(replay.session[n], len(visits)) for n in events]),
            item=np.array([row[str(replay.item[n])] for n in events]),
            timestamp=replay.timestamp[events],
        ),
        hidden,
        np.array([numbers.setdefault(str(item.category), len(numbers)) for item in items]),
    )


def titles_alone(items: Sequence[Item], hidden: NDArray[np.bool_]) -> list[Item]:
    """Return the items, the hidden ones without category and price."""
    return [
        replace(item, category=None, price=None) if unseen else item
        for item, unseen in zip(items, hidden.tolist(), strict=True)
    ]


def _questions(replay: Replay, shop: _Shop) -> Questions:
    row = {item.item_id: number for number, item in enumerate(shop.items)}
    latest: dict[str | None, list[int]] = {}
    people: dict[str, int] = {}
    at, recent, wanted, person = replay.cut, [], [], []
    for ask in replay.asks:
        for number in range(at, ask.before):
            item = row.get(str(replay.item[number]))
            if item is not None and not shop.hidden[item]:
                latest.setdefault(replay.session[number], []).append(item)
        at = max(at, ask.before)
        visit = latest.get(ask.session_id, [])[::-1][:_LATEST]
        for name in ask.taken:
            if visit and name in row and shop.hidden[row[name]]:
                recent.append([*dict.fromkeys(visit)])
                wanted.append(row[name])
                person.append(people.setdefault(ask.person, len(people)))
    return Questions(recent, np.array(wanted), np.array(person))


def _by_vectors(
    shop: _Shop, questions: Questions, encoded: EncodedItems | None
) -> tuple[NDArray[np.int64], str]:
    """Rank by vectors of an index that knows no event of a hidden item."""
    warm = ~shop.hidden[shop.seen.item]
    seen = Interactions(
        session=shop.seen.session[warm],
        item=shop.seen.item[warm],
        timestamp=shop.seen.timestamp[warm],
    )
    index = build_index(
        [item.item_id for item in shop.items], seen, items=shop.items, encoded=encoded
    )
    return places_of(index.vectors, np.flatnonzero(shop.hidden), questions), index.content.encoder


def _by_events(shop: _Shop, questions: Questions) -> NDArray[np.int64]:
    index = build_index([item.item_id for item in shop.items], shop.seen, items=shop.items)
    return places_of(index.vectors, np.flatnonzero(shop.hidden), questions)


def places_of(
    vectors: NDArray[np.float32], hidden: NDArray[np.int64], questions: Questions
) -> NDArray[np.int64]:
    """Return the place of each wanted item among the hidden ones, from 0.

    Half of the other items with the same score are counted before it.
    """
    made = []
    for recent, wanted in zip(questions.recent, questions.wanted.tolist(), strict=True):
        scores = vectors[hidden] @ direction(vectors[recent], recent)
        own = scores[hidden == wanted]
        made.append(int((scores > own).sum() + (scores == own).sum() // 2))
    return np.array(made)


def _by_popularity(
    shop: _Shop, questions: Questions, known: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Rank by the sales of the predicted category, the category of the visit first."""
    titles = [item.title or "" for item in shop.items]
    words = TfidfVectorizer(token_pattern=r"\w+").fit_transform(titles)
    hidden, warm = np.flatnonzero(shop.hidden), np.flatnonzero(~shop.hidden)
    predicted = NearestCentroid().fit(words[warm], shop.category[warm]).predict(words[hidden])
    sales = np.bincount(shop.category[known], minlength=int(shop.category.max()) + 1)
    draw = np.random.default_rng(0)
    made = []
    for recent, wanted in zip(questions.recent, questions.wanted.tolist(), strict=True):
        shares = np.bincount(shop.category[recent], minlength=len(sales))[predicted]
        # Within a category nothing is known of hidden items: their order is drawn.
        scores = shares * (sales.sum() + 1.0) + sales[predicted] + draw.random(len(hidden))
        made.append(int((scores > scores[hidden == wanted]).sum()))
    return np.array(made)


def ratio_of(
    name: str,
    found: dict[str, NDArray[np.float64]],
    ours: str,
    base: str,
    questions: Questions,
    note: str,
) -> Figure:
    """Return a mean, or the ratio of two, with an interval over people.

    The figure has no value if one of the two was not measured; the note then says why.
    """
    if not {ours, base or ours} <= found.keys():
        return Figure(name, None, "1", note=note)
    people = int(questions.person.max()) + 1 if len(questions.person) else 0
    if not people or (base and not found[base].any()):
        return Figure(name, None, "1", note=f"nothing to compare with; {note}")
    counts = np.bincount(questions.person, minlength=people)
    top = np.bincount(questions.person, found[ours], people)
    bottom = np.bincount(questions.person, found[base], people) if base else counts
    draws = np.random.default_rng(0).integers(people, size=(_RESAMPLES, people))
    ratios = top[draws].sum(axis=1) / np.maximum(bottom[draws].sum(axis=1), 1e-9)
    low, high = np.quantile(ratios, (0.025, 0.975))
    value = float(top.sum() / bottom.sum())
    return Figure(name, value, "1", float(low), float(high), len(questions.wanted), note)
