"""Reasons of a hit: the words that an item has, their fields, and typing errors."""

from __future__ import annotations

from collections.abc import Sequence

from tactful.schemas.search import WordMatch
from tactful.search.item_text import words_of
from tactful.search.text_index import ONE_EDIT, TWO_EDITS, Alternatives
from tactful_streaming.contract.log_entries import Item

_EDITS = {ONE_EDIT: 1, TWO_EDITS: 2}


def matched_words(item: Item, words: Sequence[Alternatives]) -> list[WordMatch]:
    """Return the words of an item that a search found; of a run of characters its pairs."""
    fields = {name: {*field} for name, field in words_of(item).items()}
    matches = []
    for alternatives in words:
        for term, weight in alternatives.weights.items():
            names = [name for name, held in fields.items() if term in held]
            if names:
                edits = _EDITS.get(weight, 0)
                word = alternatives.word.text
                matches.append(WordMatch(word=word, found=term, fields=names, edits=edits))
    return matches
