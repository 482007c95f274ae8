"""Requests for a search by text, voice or picture, and their answers."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tactful.schemas.fields import Identifier, Scalar
from tactful.schemas.item_details import FacetCount, PriceRange
from tactful.schemas.item_filter import ItemFilter
from tactful.schemas.positions import Position
from tactful.schemas.recommendations import RecommendRequest

LONGEST_QUERY = 1_000
"""Characters of a query."""

_Price = Annotated[float, Meta(ge=0)]


class SearchRequest(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """A search by text, voice or picture.

    Attributes:
        query: words, of which the last may be unfinished; at most 1,000 characters, and the first
            16 different words count.
        audio: a spoken question in place of `query`: a WAV, FLAC, OGG or MP3 file.
        language: language of `audio`, such as ``en``; None to detect it.
        picture: a JPEG, PNG, WebP or GIF file; items whose pictures are near are found, with a
            `query` beside it those with the words, too.
        user_id: user.
        device_id: first-party device id, where the user is not known.
        session_id: visit.
        context: page, locale, app and others.
        category: return only items of this category.
        filter: return only items that pass this condition, as in `POST /v1/recommend`.
        min_price: return only items with a known price of at least this.
        max_price: return only items with a known price of at most this.
        unavailable: return items that cannot be bought now, too.
        facets: count all matches by these fields, at most 8: ``category``, ``price``, or names of
            properties.
        limit: number of items of a page, 1 to 100.
        cursor: `next_cursor` of the page before; the other fields stay the same.
        explain: return how each item matches.
        record: log the query as a `search` event of the user; false if you send such events
            yourself. A further page is never logged as a new search.
        trial: log nothing and count nothing, neither the query nor the items as shown. A trial for
            a user or a device needs the scope ``admin`` and is in the accesses of the user.
        after: answer only when the engine has applied the log up to this position.
    """

    query: Annotated[str, Meta(max_length=LONGEST_QUERY)] = ""
    audio: bytes | None = None
    language: Annotated[str, Meta(max_length=16)] | None = None
    picture: bytes | None = None
    user_id: Identifier | None = None
    device_id: Identifier | None = None
    session_id: Identifier | None = None
    context: Annotated[dict[Identifier, Scalar], Meta(max_length=63)] = {}
    category: Identifier | None = None
    filter: ItemFilter | None = None
    min_price: _Price | None = None
    max_price: _Price | None = None
    unavailable: bool = False
    facets: Annotated[tuple[Identifier, ...], Meta(max_length=8)] = ()
    limit: Annotated[int, Meta(ge=1, le=100)] = 20
    cursor: Annotated[str, Meta(max_length=8_192)] = ""
    explain: bool = False
    record: bool = True
    trial: bool = False
    after: (
        Annotated[int, Meta(ge=0, le=2**63 - 1)] | Annotated[str, Meta(max_length=32_768)] | None
    ) = None

    def __post_init__(self) -> None:
        """Refuse a request with two questions.

        Raises:
            ValueError: if there is something else beside audio.
        """
        if self.audio is not None and (self.query or self.cursor):
            raise ValueError("audio has no query and no cursor beside it: send the heard text")
        if self.audio is not None and self.picture is not None:
            raise ValueError("audio has no picture beside it: send the heard text as query")

    def ranking(self) -> RecommendRequest:
        """Return the request that ranks what the search finds, without candidates."""
        return RecommendRequest(
            user_id=self.user_id,
            device_id=self.device_id,
            session_id=self.session_id,
            context=self.context,
            category=self.category,
            filter=self.filter,
            min_price=self.min_price,
            max_price=self.max_price,
            count=self.limit,
            after=self.after,
        )


class WordMatch(msgspec.Struct, kw_only=True, frozen=True):
    """A word of the query in an item.

    Attributes:
        word: word of the query, without case and accents.
        found: word of the item.
        fields: fields of the item with it: `title`, `labels` (id, category, brand), `properties`,
            `description`.
        edits: number of typing errors between the two; 0 for the same word, its plural, and one
            that it begins.
    """

    word: str
    found: str
    fields: list[str]
    edits: int = 0


class SearchHit(msgspec.Struct, kw_only=True, frozen=True):
    """One item that a search found.

    Attributes:
        item_id: the item.
        score: value that items are ordered by, comparable within one page only.
        text_match: BM25 score of the words; None for an item that has none of them.
        vector_match: cosine of the pictures, or without one of the meanings, if the item is near.
        title: title of the item, if it has one.
        matched: how the item matches, if requested.
    """

    item_id: str
    score: float
    text_match: float | None = None
    vector_match: float | None = None
    title: str | None = None
    matched: list[WordMatch] | None = None


class SearchFacets(msgspec.Struct, kw_only=True, frozen=True):
    """Counts of all matches, of each field without its own filter.

    Attributes:
        values: the fifty most frequent values of each requested field.
        prices: ranges of the known prices, about equally full, if `price` was requested.
    """

    values: dict[str, list[FacetCount]] = {}
    prices: list[PriceRange] = []


class HeardPhrase(msgspec.Struct, kw_only=True, frozen=True):
    """A spoken question as text.

    Attributes:
        text: the likeliest text; `query` of a further page.
        confidence: 0 to 1, only comparable between phrases of one installation.
        language: language of the text, such as ``en``.
        alternatives: other texts, the best first.
    """

    text: str
    confidence: float
    language: str
    alternatives: list[str] = []


class SearchAnswer(msgspec.Struct, kw_only=True, frozen=True):
    """Answer to a search.

    Attributes:
        items: best first.
        total: number of items that match and pass the filters, at most 30,000.
        recommendation_id: send it with events that follow from this page; None without items, and
            of a trial.
        next_cursor: cursor of the next page; None for the last one. A thousand items have pages.
        facets: counts, if requested.
        heard: the spoken question, if there was one; its items may only sound like it.
        note: reason why there is no item, why items do not match all words, or why none is found
            by meaning.
        model_version: model that ranked the items.
        variant: experiment key to arm.
        position: log position up to which events had been applied.
        fallback: reason why the order is not personal; None otherwise.
        took_ms: time in the server, waiting included.
    """

    items: list[SearchHit]
    total: int
    recommendation_id: str | None = None
    next_cursor: str | None = None
    facets: SearchFacets | None = None
    heard: HeardPhrase | None = None
    note: str | None = None
    model_version: str = ""
    variant: dict[str, str] = {}
    position: Position = 0
    fallback: str | None = None
    took_ms: float = 0.0
