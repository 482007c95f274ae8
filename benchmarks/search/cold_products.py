"""New items of `product_text`, which have names and descriptions, for made-up people.

`benchmarks.search.made_people` describes them; their classes are the categories of the data, which
the catalogue does not hold.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.search.cold import ratio_of
from benchmarks.search.encoding import encoder_settings
from benchmarks.search.made_people import (
    FEW,
    PEOPLE,
    hits_by_popularity,
    hits_of,
    index_of,
    made_up_shop,
    questions_of,
)
from benchmarks.shared import product_texts
from tactful.errors import TactfulError
from tactful.understanding.item_vectors import open_item_vectors
from tactful.vectors.content import EncodedItems
from tactful_streaming.contract.log_entries import Item

FIGURES = (
    ("cold_item_recall20_ratio_product_text", "1"),
    ("cold_item_recall20_product_text", "1"),
    ("cold_item_recall20_words_product_text", "1"),
    ("cold_item_recall20_ratio_product_text_informed", "1"),
    ("cold_item_recall20_warm_ratio_product_text", "1"),
)
_COMPARED = (("text", "popularity"), ("text", ""), ("words", ""), ("text", "informed"))


def cold_products(quick: bool) -> list[Figure]:
    """Measure; quick asks fewer people."""
    try:
        items, label = _products()
    except OSError as error:
        return [Figure(name, None, unit, note=str(error)) for name, unit in FIGURES]
    people = FEW if quick else PEOPLE
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        try:
            with open_item_vectors(encoder_settings(Path(folder), text="minilm")) as encoded:
                return _figures(items, label, people, encoded, "")
        except TactfulError as error:
            return _figures(items, label, people, None, f"no texts are encoded: {error}; ")


def _figures(
    items: Sequence[Item],
    label: NDArray[np.int64],
    people: int,
    encoded: EncodedItems | None,
    note: str,
) -> list[Figure]:
    shop = made_up_shop(label, people)
    questions = questions_of(shop)
    found = {
        "words": hits_of(shop, index_of(shop, items, None), questions),
        "warm": hits_of(shop, index_of(shop, items, None, warm=True), questions),
        **hits_by_popularity(shop, questions),
    }
    chosen = ""
    if encoded is not None:
        text = index_of(shop, items, encoded)
        found["text"], chosen = hits_of(shop, text, questions), text.content.encoder
    note += (
        f"{people:,} made-up people, {len(questions.wanted):,} questions for "
        f"{int(shop.hidden.sum())} hidden of {len(items):,} items; encoder: "
        f"{chosen or 'none chosen'}; 95 % over people"
    )
    return [
        ratio_of(name, found, ours, base, questions, note)
        for (name, _), (ours, base) in zip(FIGURES, [*_COMPARED, ("text", "warm")], strict=True)
    ]


def _products() -> tuple[list[Item], NDArray[np.int64]]:
    """Return the items without their categories, and the number of the category of each."""
    columns = ["id", "name", "description", "category"]
    rows = pq.read_table(product_texts(), columns=columns).to_pylist()
    items = [
        Item(
            item_id=row["id"],
            timestamp=0,
            title=row["name"],
            properties={"description": row["description"] or ""},
        )
        for row in rows
    ]
    return items, np.unique([row["category"] for row in rows], return_inverse=True)[1]
