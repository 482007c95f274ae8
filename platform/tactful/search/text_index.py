"""Full-text index of the items: BM25 over weighted fields, in memory, by tantivy.

    number   0        1        2            of each item, by its first appearance
    ids      "a-1"    "b-2"    "c-3"
    title    "blue mug"  ...                words as `item_text` cuts them, separated by blanks

The score of an item is the sum over the words of the query. A word scores as the best of its
alternatives (the word itself, a word that it begins, its plural, a similar one), each as the sum
over the fields of weight * BM25 (Robertson and Zaragoza, "The Probabilistic Relevance Framework:
BM25 and Beyond", 2009; k1 = 1.2, b = 0.75). Alternatives of a word weigh as much as the most
frequent of them, so that a rare misspelling does not count as a rare word.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from tactful.search.item_text import WEIGHTS, texts_of, words_of
from tactful.search.query import Word
from tactful.search.vocabulary import Vocabulary
from tactful_streaming.contract.log_entries import Item

if TYPE_CHECKING:
    import tantivy

BEGUN, PLURAL, ONE_EDIT, TWO_EDITS = 0.7, 0.9, 0.5, 0.25
"""Weights of alternatives of a word; the word itself has 1."""

MOST_MATCHES = 30_000
"""Matches of a search, the best ones; no more are counted."""

_MOST_COMPLETIONS = 20
_HEAP_BYTES = 50_000_000


@dataclass(frozen=True)
class Alternatives:
    """Words of the index that a word of a query may stand for, with their weights."""

    word: Word
    weights: Mapping[str, float]  # of a run of characters its pairs
    lenient: bool = False  # whether half of the pairs are enough


@dataclass(frozen=True)
class TextMatches:
    """Items that match a query, the best first; those of equal scores in any order."""

    numbers: NDArray[np.int64]
    scores: NDArray[np.float32]
    words: Sequence[Alternatives]  # how the query was read
    all_words: bool = True  # whether the items have all words; else at least one

    @property
    def exact(self) -> bool:
        """Whether the items have all words of the query, and not others like them."""
        similar = {ONE_EDIT, TWO_EDITS}
        return (
            bool(len(self.numbers))
            and self.all_words
            and not any(word.lenient or similar & {*word.weights.values()} for word in self.words)
        )

    @classmethod
    def none(cls, words: Sequence[Alternatives] = ()) -> TextMatches:
        """Make matches of no item."""
        return cls(np.zeros(0, np.int64), np.zeros(0, np.float32), words)


class TextIndex:
    """The words of all items; for one thread at a time."""

    def __init__(self) -> None:
        """Start empty.

        Raises:
            ImportError: if the extra ``search`` is not installed.
        """
        import tantivy

        builder = tantivy.SchemaBuilder()
        for name in WEIGHTS:
            builder.add_text_field(name, tokenizer_name="words", index_option="freq")
        builder.add_integer_field("number", indexed=True, fast=True)
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        blanks = tantivy.TextAnalyzerBuilder(tantivy.Tokenizer.whitespace()).build()
        self._index.register_tokenizer("words", blanks)
        self._writer = self._index.writer(_HEAP_BYTES, 1)
        self._vocabulary = Vocabulary()
        self.ids: list[str] = []  # by number
        self._texts: list[int] = []  # hash of the texts of each item, by number
        self._numbers: dict[str, int] = {}

    def put(self, items: Iterable[Item]) -> None:
        """Insert or replace items; searches find them as soon as this returns.

        An item whose texts are the same, with a new price or stock, costs next to nothing.
        """
        import tantivy

        changed = False
        for item in items:
            number, texts = self._numbers.get(item.item_id), hash((*texts_of(item).values(),))
            if number is None:
                number = self._numbers[item.item_id] = len(self.ids)
                self.ids.append(item.item_id)
                self._texts.append(texts)
            elif self._texts[number] == texts:
                continue
            else:
                self._delete(number)
                self._texts[number] = texts
            words = words_of(item)
            for field in words.values():
                self._vocabulary.add(field)
            fields = {name: " ".join(field) for name, field in words.items()}
            self._writer.add_document(tantivy.Document(number=number, **fields))
            changed = True
        if changed:
            self._writer.commit()
            self._index.reload()
            self._vocabulary.commit()

    def number_of(self, item_id: str) -> int | None:
        """Return the number of an item; None for an unknown one."""
        return self._numbers.get(item_id)

    def find(self, words: Sequence[Word]) -> TextMatches:
        """Find the items with all words, else with all similar words, else with any word.

        A word that no item has stands for similar ones from the beginning.
        """
        if not words:
            return TextMatches.none()
        searcher = self._index.searcher()
        strict = [self._alternatives(searcher, word) for word in words]
        found = self._matches(searcher, strict, every=True)
        if len(found.numbers):
            return found
        lenient = [self._alternatives(searcher, word, similar=True) for word in words]
        for every in (True, False) if len(words) > 1 else (True,):
            found = self._matches(searcher, lenient, every=every)
            if len(found.numbers):
                break
        return found

    def _delete(self, number: int) -> None:
        import tantivy

        term = tantivy.Query.term_query(self._schema, "number", number)
        self._writer.delete_documents_by_query(term)

    def _alternatives(
        self, searcher: tantivy.Searcher, word: Word, *, similar: bool = False
    ) -> Alternatives:
        if word.is_run and len(word.text) > 1:
            return Alternatives(word, dict.fromkeys(word.pairs, 1.0), lenient=similar)
        # Not by the vocabulary, whose size is limited.
        weights = {word.text: 1.0} if _has(searcher, word.text) else {}
        if word.is_begun or word.is_run:
            for longer in self._begun(searcher, word.text):
                weights.setdefault(longer, BEGUN)
        for other in _numbers_of(word):
            if _has(searcher, other):
                weights[other] = max(weights.get(other, 0.0), PLURAL)
        if similar or not weights:
            for other, distance in self._vocabulary.similar(word.text, word.edits):
                weights.setdefault(other, ONE_EDIT if distance == 1 else TWO_EDITS)
        return Alternatives(word, weights)

    def _begun(self, searcher: tantivy.Searcher, beginning: str) -> list[str]:
        """Return the most frequent words that begin so."""
        counts: dict[str, int] = {}
        for name in WEIGHTS:
            found = searcher.terms_with_prefix(name, beginning, limit=_MOST_COMPLETIONS)
            for term, count in found:
                counts[term] = counts.get(term, 0) + count
        return sorted(counts, key=lambda term: (-counts[term], term))[:_MOST_COMPLETIONS]

    def _matches(
        self, searcher: tantivy.Searcher, words: Sequence[Alternatives], *, every: bool
    ) -> TextMatches:
        import tantivy

        occurs = tantivy.Occur.Must if every else tantivy.Occur.Should
        clauses = [(occurs, self._clause(searcher, word)) for word in words]
        query = tantivy.Query.boolean_query(clauses)
        most = min(max(searcher.num_docs, 1), MOST_MATCHES)
        hits = searcher.search(query, most, False).hits
        addresses = [address for _, address in hits]
        numbers = np.array(searcher.fast_field_values("number", addresses), np.int64)
        scores = np.array([score for score, _ in hits], np.float32)
        return TextMatches(numbers, scores, words, all_words=every)

    def _clause(self, searcher: tantivy.Searcher, word: Alternatives) -> Any:
        import tantivy

        total = searcher.num_docs
        by_field: dict[str, dict[str, int]] = {}
        for name in WEIGHTS:
            counts = {term: searcher.doc_freq(name, term) for term in word.weights}
            by_field[name] = {term: count for term, count in counts.items() if count}
        of_run = word.word.is_run and len(word.word.text) > 1
        parts: dict[str, Any] = {}
        for term, weight in word.weights.items():
            fields = []
            for name, counts in by_field.items():
                if term not in counts:
                    continue
                boost = WEIGHTS[name] * weight
                if not of_run:
                    boost *= _rarity(max(counts.values()), total) / _rarity(counts[term], total)
                query = tantivy.Query.term_query(self._schema, name, term, "freq")
                fields.append((tantivy.Occur.Should, tantivy.Query.boost_query(query, boost)))
            if fields:
                parts[term] = tantivy.Query.boolean_query(fields)
        if not parts:
            return tantivy.Query.empty_query()
        if of_run:
            return _run_clause(word, parts)
        return tantivy.Query.disjunction_max_query([*parts.values()])


def _has(searcher: tantivy.Searcher, word: str) -> bool:
    """Return whether an item has a word."""
    return any(searcher.doc_freq(name, word) for name in WEIGHTS)


def _run_clause(word: Alternatives, parts: Mapping[str, Any]) -> Any:
    """Make the clause of a run of characters from those of its pairs.

    Each character must be in a pair that occurs, so that "红色皮鞋" finds "红色女士皮鞋" and not
    "黑色皮鞋". A lenient search needs half of the pairs: those across two words need not occur.
    """
    import tantivy

    should, must = tantivy.Occur.Should, tantivy.Occur.Must
    some = [(should, part) for part in parts.values()]
    if word.lenient:
        least = math.ceil(len(word.weights) / 2)
        if len(some) < least:
            return tantivy.Query.empty_query()
        return tantivy.Query.boolean_query(some, minimum_number_should_match=least)
    text = word.word.text
    pairs = [text[at : at + 2] for at in range(len(text) - 1)]
    covers = {frozenset(pair) for pair in zip([pairs[0], *pairs], [*pairs, pairs[-1]], strict=True)}
    clauses = []
    for cover in covers:
        present = [(should, parts[pair]) for pair in cover if pair in parts]
        if not present:
            return tantivy.Query.empty_query()
        one = tantivy.Query.boolean_query(present)
        clauses.append((must, tantivy.Query.const_score_query(one, 0.0)))
    return tantivy.Query.boolean_query([*some, *clauses])


def _rarity(count: int, total: int) -> float:
    """Return the inverse document frequency of BM25, which is positive."""
    return math.log(1.0 + (max(total - count, 0) + 0.5) / (count + 0.5))


def _numbers_of(word: Word) -> list[str]:
    """Return the English plural or singular of a word."""
    text = word.text
    if word.is_run or len(text) < 3 or not (text.isascii() and text.isalpha()):
        return []
    if text.endswith(("ss", "us")):
        return [f"{text}es"]
    if text.endswith("ies"):
        return [f"{text[:-3]}y"]
    if text.endswith("es"):
        return [text[:-1], text[:-2]]
    if text.endswith("s"):
        return [text[:-1]]
    return [f"{text}s", f"{text}es", *([f"{text[:-1]}ies"] if text.endswith("y") else [])]
