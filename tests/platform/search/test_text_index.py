"""The text index against plain BM25, plain edit distances, and a plain reading of the words."""

from __future__ import annotations

import math
import random
from collections import Counter
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tactful.search import vocabulary
from tactful.search.item_text import WEIGHTS, split, words_of
from tactful.search.query import Word, read_query
from tactful.search.text_index import BEGUN, ONE_EDIT, PLURAL, TWO_EDITS, TextIndex
from tactful.search.vocabulary import Vocabulary
from tactful_streaming.contract.log_entries import Item

pytest.importorskip("tantivy")

NAMES = [
    "mug",
    "heart",
    "hearts",
    "lantern",
    "décor",
    "teapot",
    "Blue",
    "red",
    "皮鞋",
    "红色皮鞋",
    "cosy",
]


def item(number: int, title: str, description: str = "", **properties: Any) -> Item:
    if description:
        properties["description"] = description
    return Item(item_id=f"i{number}", timestamp=0, title=title, properties=properties)


def made_up(count: int, seed: int = 3) -> list[Item]:
    rng = random.Random(seed)
    return [
        item(
            number,
            " ".join(rng.choices(NAMES, k=rng.randint(1, 5))),
            " ".join(rng.choices(NAMES, k=rng.randint(0, 20))),
            colour=rng.choice(["red", "blue"]),
        )
        for number in range(count)
    ]


def test_a_new_price_leaves_the_index_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    index = index_of([item(1, "blue mug", brand="Acme", price=4)])
    writer = index._writer
    monkeypatch.setattr(index, "_writer", None)
    index.put([item(1, "blue mug", brand="Acme", price=5)])
    monkeypatch.setattr(index, "_writer", writer)
    index.put([item(1, "blue mug", brand="Zenith", price=5)])
    assert not len(index.find(read_query("acme ")).numbers)
    assert len(index.find(read_query("zenith ")).numbers) == 1


def test_words_beyond_the_vocabulary_are_found_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vocabulary, "_MOST_WORDS", 2)
    index = index_of([item(1, "blue mug"), item(2, "red mugs"), item(3, "zither harps")])

    def found(query: str) -> list[str]:
        return sorted(index.ids[number] for number in index.find(read_query(query)).numbers)

    assert found("zither harp ") == ["i3"]
    assert found("harps blue ") == ["i1", "i3"], "some words, as no item has both"
    assert found("mug ") == ["i1", "i2"]


def index_of(items: list[Item]) -> TextIndex:
    index = TextIndex()
    index.put(items)
    return index


def bm25(items: list[Item], words: list[dict[str, float]]) -> dict[str, float]:
    """Score items with all words by the formula of Robertson and Zaragoza (2009), eq. 3.15.

    A word has alternatives with weights, which are as rare as the most frequent of them; the best
    counts.
    """
    texts = {name: [words_of(it)[name] for it in items] for name in WEIGHTS}
    lengths = {name: sum(map(len, field)) / len(field) for name, field in texts.items()}
    counts = {
        name: Counter(word for words in field for word in {*words}) for name, field in texts.items()
    }

    def of(place: int, alternatives: dict[str, float]) -> float:
        best = 0.0
        for term, weight in alternatives.items():
            score = 0.0
            for name, boost in WEIGHTS.items():
                frequency = texts[name][place].count(term)
                if frequency:
                    n = max(counts[name][other] for other in alternatives)
                    idf = math.log(1 + (len(items) - n + 0.5) / (n + 0.5))
                    length = len(texts[name][place]) / lengths[name]
                    part = frequency * 2.2 / (frequency + 1.2 * (0.25 + 0.75 * length))
                    score += boost * weight * idf * part
            best = max(best, score)
        return best

    found = {}
    for place, it in enumerate(items):
        scores = [of(place, alternatives) for alternatives in words]
        if all(scores):
            found[it.item_id] = sum(scores)
    return found


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("mug ", [{"mug": 1.0, "mugs": PLURAL}]),
        ("heart red", [{"heart": 1.0, "hearts": PLURAL}, {"red": 1.0}]),
        ("lantren cosy", [{"lantern": ONE_EDIT}, {"cosy": 1.0}]),
        ("decor blue mug", [{"decor": 1.0}, {"blue": 1.0}, {"mug": 1.0}]),
        ("tea", [{"teapot": BEGUN}]),
        ("皮鞋 mug", [{"皮鞋": 1.0}, {"mug": 1.0}]),
    ],
)
def test_scores_are_those_of_plain_bm25(query: str, words: list[dict[str, float]]) -> None:
    items = made_up(120)
    index = index_of(items)
    found = index.find(read_query(query))
    expected = bm25(items, words)
    scores = dict(zip([index.ids[n] for n in found.numbers], found.scores, strict=True))
    assert scores.keys() == expected.keys()
    assert len(expected) > 5
    for item_id, score in expected.items():
        assert scores[item_id] == pytest.approx(score, rel=1e-4)
    assert [*found.scores] == sorted(found.scores, reverse=True)


def edits(first: str, second: str) -> int:
    """Edit distance with exchanges of neighbours (optimal string alignment), by the definition."""
    table = np.zeros((len(first) + 1, len(second) + 1), int)
    table[:, 0], table[0] = range(len(first) + 1), range(len(second) + 1)
    for i in range(1, len(first) + 1):
        for j in range(1, len(second) + 1):
            same = first[i - 1] == second[j - 1]
            options = [table[i - 1, j] + 1, table[i, j - 1] + 1, table[i - 1, j - 1] + (not same)]
            if i > 1 and j > 1 and (first[i - 1], first[i - 2]) == (second[j - 2], second[j - 1]):
                options.append(table[i - 2, j - 2] + 1)
            table[i, j] = min(options)
    return int(table[-1, -1])


LETTERS = st.text("abcé茶", min_size=1, max_size=9)


@settings(max_examples=60, deadline=None)
@given(words=st.lists(LETTERS, max_size=12, unique=True), word=LETTERS, most=st.integers(0, 2))
def test_similar_words_are_those_within_plain_edits(words: list[str], word: str, most: int) -> None:
    vocabulary = Vocabulary()
    vocabulary.add(words)
    vocabulary.commit()
    expected = {other: edits(word, other) for other in words if other != word}
    assert dict(vocabulary.similar(word, most)) == {
        other: distance for other, distance in expected.items() if distance <= most
    }


@pytest.mark.parametrize(
    ("word", "most"),
    [
        ("mug", 0),
        ("hear", 1),
        ("lanterns", 2),
        ("mk2000x", 0),
        ("茶壶套装套装套装", 0),
        ("123456", 0),
    ],
)
def test_edits_that_a_word_may_have(word: str, most: int) -> None:
    (read,) = read_query(word)
    assert read.edits == most


@pytest.mark.parametrize(
    ("typed", "meant", "weight"),
    [
        ("lantren", "lantern", ONE_EDIT),
        ("lanten", "lantern", ONE_EDIT),
        ("decoratioon", "decoration", ONE_EDIT),
        ("dcoratoin", "decoration", TWO_EDITS),
    ],
)
def test_a_word_that_no_item_has_stands_for_similar_ones(
    typed: str, meant: str, weight: float
) -> None:
    index = index_of([item(1, "Lantern decoration"), item(2, "planets"), item(3, "mug")])
    found = index.find(read_query(f"{typed} "))
    assert found.words[0].weights[meant] == weight
    assert 0 in found.numbers


@pytest.mark.parametrize(
    ("query", "ids"),
    [
        ("皮鞋", {"i1", "i2", "i3"}),
        ("红色皮鞋", {"i1", "i3"}),
        ("女士红色皮鞋", {"i1"}),
        ("红皮鞋", {"i1", "i3", "i2"}),
        ("鞋", {"i1", "i2", "i3"}),
        ("nike皮鞋", {"i3"}),
        ("ＮＩＫＥ", {"i3"}),
        ("皮", {"i1", "i2", "i3", "i4"}),
        ("茶壶", set()),
    ],
)
def test_chinese_is_found_in_any_order(query: str, ids: set[str]) -> None:
    titles = ["红色女士皮鞋", "黑色皮鞋", "Nike 红色皮鞋", "皮带"]
    index = index_of([item(number, title) for number, title in enumerate(titles, 1)])
    found = index.find(read_query(query))
    assert {index.ids[number] for number in found.numbers} == ids


def test_items_have_all_words_else_some() -> None:
    index = index_of([item(1, "blue mug"), item(2, "blue teapot"), item(3, "red heart")])
    assert [*index.find(read_query("blue teapot")).numbers] == [1]
    some = index.find(read_query("blue heart"))
    assert (sorted(some.numbers), some.all_words) == ([0, 1, 2], False)
    assert not len(index.find(read_query("zeppelin")).numbers)


def test_a_changed_item_has_its_new_words_alone() -> None:
    index = index_of(made_up(50))
    for turn in range(3):
        index.put([item(7, f"unique{turn} word"), item(50 + turn, "later")])
        assert [*index.find(read_query(f"unique{turn} ")).numbers] == [7]
        assert not turn or not len(index.find(read_query(f"unique{turn - 1} ")).numbers)
    assert sorted(index.find(read_query("later ")).numbers) == [50, 51, 52]


TEXT = st.text('ab AB茶壶-é1\x00*":', max_size=12)


@settings(max_examples=60, deadline=None)
@given(titles=st.lists(TEXT, min_size=1, max_size=6), query=TEXT | st.text(max_size=30))
def test_any_text_is_searched_for(titles: list[str], query: str) -> None:
    items = [item(number, title) for number, title in enumerate(titles)]
    index = index_of(items)
    found = index.find(read_query(query))
    assert np.isfinite(found.scores).all()
    held = [{*split(title)} for title in titles]
    wanted = [word for word in read_query(query) if not word.is_run and not word.is_begun]
    having = [n for n, words in enumerate(held) if all(word.text in words for word in wanted)]
    if len(wanted) == len(read_query(query)) and having and wanted:
        assert {*having} <= {*found.numbers.tolist()}


def test_a_query_is_bounded() -> None:
    assert len(read_query("word" + " a1b" * 5 + "".join(f" w{n}" for n in range(100)))) == 16
    assert read_query("x" * 900) == (Word("x" * 64, is_begun=True),)
    many = item(1, "long " * 5_000, "x" * 100_000, **{f"p{n}": ["v" * 900] * 90 for n in range(99)})
    assert all(len(field) <= 200 for field in words_of(many).values())
