"""Fields of items that a search reads, and how much a word weighs in each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from tactful.catalogue.words import words
from tactful_streaming.contract.log_entries import Item

WEIGHTS: Mapping[str, float] = {"title": 3.0, "labels": 2.0, "properties": 1.0, "description": 0.5}
"""Weight of each field; `labels` are the id, the category and the brand."""

LONGEST_WORD = 64
"""Characters of a word that count."""

_LONGEST_TEXT = 4_000  # characters
_MOST_WORDS = 200  # of one field
_MOST_VALUES = 64  # of the properties
_OWN_FIELDS = frozenset({"brand", "description", "image"})


def texts_of(item: Item) -> dict[str, tuple[str, ...]]:
    """Return the texts of each field of an item that a search reads, in order."""
    brand, description = item.properties.get("brand"), item.properties.get("description")
    texts = {
        "title": (item.title,),
        "labels": (item.item_id, item.category, brand),
        "properties": _values(item.properties),
        "description": (description,),
    }
    return {name: tuple(it for it in of if isinstance(it, str)) for name, of in texts.items()}


def words_of(item: Item) -> dict[str, list[str]]:
    """Return the words of each field of an item, in order, perhaps repeated."""
    return {name: _words(texts) for name, texts in texts_of(item).items()}


def split(text: str) -> list[str]:
    """Return the words of a text as the index has them."""
    return [word[:LONGEST_WORD] for word in words(text)]


def _words(texts: Sequence[str]) -> list[str]:
    found: list[str] = []
    for text in texts:
        if len(found) < _MOST_WORDS:
            found += split(text[:_LONGEST_TEXT])
    return found[:_MOST_WORDS]


def _values(properties: Mapping[str, object]) -> Iterator[str]:
    """Yield the texts of properties that have no field of their own; addresses are left out."""
    for name, value in [*properties.items()][:_MOST_VALUES]:
        if name in _OWN_FIELDS:
            continue
        for part in value[:_MOST_VALUES] if isinstance(value, list) else [value]:
            if isinstance(part, str) and "://" not in part[:16]:
                yield part
