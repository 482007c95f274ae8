"""All words of the items, to find those that a misspelt word may mean."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import tantivy

_MOST_SIMILAR = 20
_HEAP_BYTES = 15_000_000
_MOST_WORDS = 2_000_000


class Vocabulary:
    """The words of an index, in an index of their own; words are never removed.

    Two million words at most are kept: misspelt ones stand for none of the others.

    Similar words are found by a Levenshtein automaton over the sorted words (Schulz and Mihov,
    "Fast string correction with Levenshtein automata", IJDAR 2002) in less than a millisecond.
    """

    def __init__(self) -> None:
        """Start empty."""
        import tantivy

        builder = tantivy.SchemaBuilder()
        builder.add_text_field("word", tokenizer_name="raw", index_option="basic")
        builder.add_integer_field("number", fast=True)
        self._schema = builder.build()
        self._index = tantivy.Index(self._schema)
        self._writer = self._index.writer(_HEAP_BYTES, 1)
        self._numbers: dict[str, int] = {}
        self._words: list[str] = []
        self._added = False

    def add(self, words: Iterable[str]) -> None:
        """Add words; `commit` makes them searchable. Beyond two million none is added."""
        import tantivy

        for word in words:
            if word in self._numbers or len(self._words) >= _MOST_WORDS:
                continue
            number = self._numbers[word] = len(self._words)
            self._words.append(word)
            self._writer.add_document(tantivy.Document(word=word, number=number))
            self._added = True

    def commit(self) -> None:
        """Make added words searchable."""
        if self._added:
            self._writer.commit()
            self._index.reload()
            self._added = False

    def similar(self, word: str, edits: int) -> list[tuple[str, int]]:
        """Return words with their edit distance from another word, the nearest first.

        An edit inserts, deletes or replaces a character, or exchanges two neighbouring ones. At
        most twenty words are returned, of equal distance those of nearly the same length first.
        """
        found: dict[str, int] = {}
        for distance in range(1, edits + 1):
            for other in self._within(word, distance):
                if other != word:
                    found.setdefault(other, distance)

        def order(pair: tuple[str, int]) -> tuple[int, int, str]:
            other, distance = pair
            return distance, abs(len(other) - len(word)), other

        return sorted(found.items(), key=order)[:_MOST_SIMILAR]

    def _within(self, word: str, distance: int) -> list[str]:
        import tantivy

        query: tantivy.Query = tantivy.Query.fuzzy_term_query(
            self._schema, "word", word, distance, True, False
        )
        searcher = self._index.searcher()
        hits = searcher.search(query, max(len(self._words), 1), False).hits
        numbers = searcher.fast_field_values("number", [address for _, address in hits])
        return [self._words[int(number or 0)] for number in numbers]
