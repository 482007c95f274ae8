"""Share of searches for words of a title that show its item among the first ten, beside two peers.

A question is made of one title, drawn by a fixed seed: two of its words, the same with a typing
error, the same with an unfinished end, and three of four Chinese words in another order. The peers
are SQLite FTS5 and tantivy with their default tokenizers; their queries are all words, else any.
"""

from __future__ import annotations

import random
import re
import sqlite3
from collections.abc import Callable, Sequence

import tantivy

from benchmarks.figures import Figure, share_figure
from benchmarks.search import catalogue
from benchmarks.search.latency import misspelt
from tactful.search.query import read_query
from tactful.search.text_index import TextIndex
from tactful_streaming.contract.log_entries import Item

KINDS = ("two_words", "typing_error", "unfinished", "chinese")
WHO = ("", "_fts5", "_tantivy")
FIGURES = [(f"search_found10_{kind}{who}", "1") for kind in KINDS for who in WHO]
_SHOWN = 10
_WORD = re.compile(r"\w+")

Find = Callable[[str], Sequence[str]]  # ids of the first ten


def quality(quick: bool) -> list[Figure]:
    """Measure the share of found items of each kind of question."""
    source = catalogue.load()
    english, (chinese, words) = catalogue.real(source), catalogue.chinese()
    items = [*english, *chinese]
    asked = _english(english, 100 if quick else 500)
    asked["chinese"] = _chinese(chinese, words, 100 if quick else 500)
    finders = {"": _ours(items), "_fts5": _fts5(items), "_tantivy": _tantivy(items)}
    figures = []
    for kind, questions in asked.items():
        for who, find in finders.items():
            found = [item_id in find(query) for query, item_id in questions]
            note = f"{len(items):,} titles; the item among the first {_SHOWN}; 95 % by Wilson"
            name = f"search_found10_{kind}{who}"
            figures.append(share_figure(name, sum(found), len(found), note))
    return figures


def _english(items: list[Item], count: int) -> dict[str, list[tuple[str, str]]]:
    rng = random.Random(11)
    asked: dict[str, list[tuple[str, str]]] = {kind: [] for kind in KINDS[:3]}
    long = [it for it in items if len(_long_words(it)) >= 3]
    for item in rng.sample(long, count):
        first, second = rng.sample(_long_words(item), 2)
        asked["two_words"].append((f"{first} {second}", item.item_id))
        asked["typing_error"].append((f"{first} {misspelt(second, rng)} ", item.item_id))
        begun = second[: max(3, len(second) * 2 // 3)]
        asked["unfinished"].append((f"{first} {begun}", item.item_id))
    return asked


def _long_words(item: Item) -> list[str]:
    return [word.lower() for word in _WORD.findall(item.title or "") if len(word) >= 4]


def _chinese(items: list[Item], words: list[list[str]], count: int) -> list[tuple[str, str]]:
    rng = random.Random(12)
    asked = []
    for number in rng.sample(range(len(items)), count):
        chosen = rng.sample(words[number], 3)
        asked.append(("".join(chosen), items[number].item_id))
    return asked


def _ours(items: list[Item]) -> Find:
    index = TextIndex()
    index.put(items)
    return lambda query: [
        index.ids[number] for number in index.find(read_query(query)).numbers[:_SHOWN].tolist()
    ]


def _fts5(items: list[Item]) -> Find:
    database = sqlite3.connect(":memory:")
    database.execute("CREATE VIRTUAL TABLE items USING fts5(id UNINDEXED, title, category)")
    rows = [(it.item_id, it.title, it.category or "") for it in items]
    database.executemany("INSERT INTO items VALUES (?, ?, ?)", rows)

    def find(query: str) -> Sequence[str]:
        words = [f'"{word}"' for word in _WORD.findall(query)]
        for joined in (" AND ".join(words), " OR ".join(words)):
            asked = "SELECT id FROM items WHERE items MATCH ? ORDER BY rank LIMIT ?"
            if found := database.execute(asked, (joined, _SHOWN)).fetchall():
                return [row[0] for row in found]
        return []

    return find


def _tantivy(items: list[Item]) -> Find:
    builder = tantivy.SchemaBuilder()
    builder.add_text_field("id", stored=True, tokenizer_name="raw")
    builder.add_text_field("title")
    builder.add_text_field("category")
    index = tantivy.Index(builder.build())
    writer = index.writer(50_000_000, 1)
    for item in items:
        writer.add_document(
            tantivy.Document(id=item.item_id, title=item.title or "", category=item.category or "")
        )
    writer.commit()
    index.reload()
    searcher = index.searcher()

    def find(query: str) -> Sequence[str]:
        for every in (True, False):
            asked = index.parse_query(query, ["title", "category"], conjunction_by_default=every)
            if hits := searcher.search(asked, _SHOWN).hits:
                return [searcher.doc(address)["id"][0] for _, address in hits]
        return []

    return find
