"""The map from descriptions to learned vectors, with and without an encoder."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.platform.understanding.word_encoder import WordEncoder

from tactful.errors import ModelError
from tactful.recall.index import RecallIndex, build_index
from tactful.recall.tables import Interactions
from tactful.understanding.item_vectors import item_text
from tactful.vectors.content import ContentVectors
from tactful_streaming.contract.log_entries import Item

COLOURS, KINDS = ("red", "blue", "green", "pink"), ("shoes", "mug", "lamp", "bag", "clock")


@dataclass(frozen=True)
class Encoding:
    """Encodes items at once."""

    name: str = WordEncoder.name
    parts: tuple[int, ...] = (WordEncoder.dimensions,)

    def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
        texts = ["" if item is None else item_text(item) for item in items]
        return WordEncoder().encode(texts)


def item(number: int, title: str) -> Item:
    return Item(item_id=str(number), timestamp=0, title=title)


def shop(count: int = 400) -> tuple[list[Item], NDArray[np.float32]]:
    """Make items whose vectors follow from colour and kind; each title has a word of its own."""
    draw = np.random.default_rng(0)
    meaning = {word: draw.standard_normal(8) for word in (*COLOURS, *KINDS)}
    items, vectors = [], []
    for number in range(count):
        pair = (COLOURS[draw.integers(4)], KINDS[draw.integers(5)])
        items.append(item(number, f"{pair[0]} {pair[1]}"))
        vectors.append(meaning[pair[0]] + meaning[pair[1]])
    rows = np.array(vectors, np.float32)
    return items, rows / np.linalg.norm(rows, axis=1, keepdims=True)


def test_unknown_words_are_placed_by_their_meaning() -> None:
    plain, vectors = shop()
    draw = np.random.default_rng(2)
    items = [
        item(n, " ".join(f"{word}_{draw.integers(60)}" for word in str(one.title).split()))
        for n, one in enumerate(plain)
    ]
    alone = ContentVectors.fit(items, vectors)
    both = ContentVectors.fit([*items, None], np.vstack([vectors, vectors[:1]]), encoded=Encoding())
    assert both.encoder == WordEncoder.name
    # Words that were never seen, and whose hashes are those of no word that was.
    foreign = [
        next(
            made
            for n in range(1_000, 2_000)
            if not alone.vectors([made := item(n, f"{colour}_{n} {kind}_{n}")]).any()
        )
        for colour, kind in (("red", "shoes"), ("blue", "mug"))
    ]
    titles = [one.title for one in plain]
    wanted = vectors[[titles.index("red shoes"), titles.index("blue mug")]]
    found = both.vectors(foreign, Encoding())
    assert (found * wanted).sum(axis=1).min() > 0.8
    for other in (None, Encoding(name="words-2"), Encoding(parts=(8,))):
        assert not both.vectors(foreign, other).any(), "only its own encoder is read"


def test_an_encoder_that_tells_nothing_is_left_out() -> None:
    class Noise(Encoding):
        def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
            return np.random.default_rng(len(items)).standard_normal((len(items), 16)).astype("f4")

    items, vectors = shop()
    plain, noisy = (ContentVectors.fit(items, vectors, encoded=e) for e in (None, Noise()))
    assert not noisy.encoder and np.array_equal(plain.weights, noisy.weights)


def test_each_encoder_has_a_scale_of_its_own() -> None:
    class Two(Encoding):
        """Noise, and beside it vectors that tell everything, of every second item."""

        def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
            noise = np.random.default_rng(len(items)).standard_normal((len(items), 4))
            told = super().of(items)
            told[1::2] = 0.0
            return np.hstack([noise.astype(np.float32), told])

    plain, vectors = shop()
    items = [replace_title(one, "") for one in plain]  # pictures alone, so to speak
    titles = {one.item_id: one.title for one in plain}

    class Pictures(Two):
        def of(self, items: Sequence[Item | None]) -> NDArray[np.float32]:
            return super().of([one and replace_title(one, titles[one.item_id]) for one in items])

    encoded = Pictures(parts=(4, WordEncoder.dimensions))
    content = ContentVectors.fit(items, vectors, encoded=encoded)
    assert not content.projection[:4].any() and content.projection[4:].any()
    found = content.vectors(items[:100], encoded)
    assert (found * vectors[:100]).sum(axis=1)[::2].min() > 0.8
    assert not found[1::2].any(), "nothing is known of these"


def replace_title(one: Item, title: str | None) -> Item:
    return msgspec.structs.replace(one, title=title)


def test_few_items_choose_no_encoder() -> None:
    items, vectors = shop(40)
    assert not ContentVectors.fit(items, vectors, encoded=Encoding()).encoder


def index_with_encoder() -> RecallIndex:
    items, _ = shop()
    nothing = Interactions(*[np.zeros(0, np.int64)] * 3)
    index = build_index([one.item_id for one in items], nothing, dimensions=8)
    draw = np.random.default_rng(1)
    content = ContentVectors(
        draw.standard_normal((32, 8)).astype(np.float32),
        "words-1",
        draw.standard_normal((16, 8)).astype(np.float32),
        draw.standard_normal((1, 16)).astype(np.float32),
    )
    return replace(index, content=content)


def test_a_map_with_an_encoder_survives_the_disk(tmp_path: Path) -> None:
    index = index_with_encoder()
    index.save(tmp_path / "index")
    again = RecallIndex.load(tmp_path / "index").content
    assert again.encoder == "words-1"
    asked = [item(1, "crimson boots"), item(2, "")]
    given = index.content.vectors(asked, Encoding())
    assert np.array_equal(again.vectors(asked, Encoding()), given)


@pytest.mark.parametrize("shape", [(16, 7), (15, 8)])
def test_a_map_of_another_shape_is_refused(tmp_path: Path, shape: tuple[int, int]) -> None:
    index = index_with_encoder()
    content = replace(index.content, projection=np.zeros(shape, np.float32))
    replace(index, content=content).save(tmp_path / "index")
    with pytest.raises(ModelError, match="content"):
        RecallIndex.load(tmp_path / "index")
