"""Items without events that have nothing but a picture: a fifth of 3,000 pictures of clothing.

`benchmarks.search.made_people` describes the people; their classes are ten of clothing. The
catalogue holds no class, title, category or price: the item is its picture.

The packaged encoder was trained on the training part without three classes; answers of these
classes are also judged apart.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.figures import Figure
from benchmarks.search.clothing import COLOURS, UNKNOWN, clothing, png, tinted
from benchmarks.search.cold import Questions, ratio_of
from benchmarks.search.encoding import encoder_settings
from benchmarks.search.made_people import (
    FEW,
    PEOPLE,
    Shop,
    hits_by_popularity,
    hits_of,
    index_of,
    made_up_shop,
    questions_of,
)
from tactful.errors import TactfulError
from tactful.understanding.item_vectors import ItemVectors, open_item_vectors
from tactful.understanding.picture_encoder import PictureEncoder
from tactful.understanding.picture_store import PictureStore, picture_path, reference_of
from tactful.understanding.pictures import shrunk
from tactful.understanding.vector_store import content_key
from tactful_streaming.contract.log_entries import Item

FIGURES = (
    ("cold_item_recall20_ratio_picture", "1"),
    ("cold_item_recall20_picture", "1"),
    ("cold_item_recall20_ratio_picture_known", "1"),
    ("cold_item_recall20_ratio_picture_unknown", "1"),
    ("cold_item_recall20_ratio_picture_informed", "1"),
    ("cold_item_recall20_warm_ratio_picture", "1"),
    ("picture_class_precision10_known", "1"),
    ("picture_class_precision10_unknown", "1"),
    ("picture_colour_precision10", "1"),
)


def cold_pictures(quick: bool) -> list[Figure]:
    """Measure; quick asks fewer people."""
    try:
        images, label = clothing()
    except OSError as error:
        return [Figure(name, None, unit, note=str(error)) for name, unit in FIGURES]
    shop = made_up_shop(label, FEW if quick else PEOPLE)
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as folder:
        items = _items(images, Path(folder))
        try:
            with open_item_vectors(encoder_settings(Path(folder), picture="packaged")) as encoded:
                assert encoded is not None
                return [*_figures(shop, items, encoded), *_precision(images, label, encoded)]
        except TactfulError as error:
            return [Figure(name, None, unit, note=str(error)) for name, unit in FIGURES]


def _items(images: NDArray[np.uint8], data: Path) -> list[Item]:
    """Keep the pictures as a server does, and return items that refer to them."""
    files = [png(pixels) for pixels in images]
    contents = [*map(content_key, files)]
    store = PictureStore(picture_path(data), writes=True)
    store.put(dict(zip(contents, map(shrunk, files), strict=True)), now=0)
    store.close()
    return [
        Item(item_id=str(number), timestamp=0, image=reference_of(content))
        for number, content in enumerate(contents)
    ]


def _figures(shop: Shop, items: Sequence[Item], encoded: ItemVectors) -> list[Figure]:
    questions = questions_of(shop)
    found = {
        "picture": hits_of(shop, index_of(shop, items, encoded), questions),
        "warm": hits_of(shop, index_of(shop, items, None, warm=True), questions),
        **hits_by_popularity(shop, questions),
    }
    note = (
        f"{len(shop.taken):,} made-up people, {len(questions.wanted):,} questions for "
        f"{int(shop.hidden.sum())} hidden of {len(items):,} items, {encoded.name}; 95 % over people"
    )
    unknown = np.isin(shop.label[questions.wanted], UNKNOWN)
    figures = [
        ratio_of(f"cold_item_recall20_{name}", found, "picture", base, questions, note)
        for name, base in (
            ("ratio_picture", "popularity"),
            ("picture", ""),
            ("ratio_picture_informed", "informed"),
            ("warm_ratio_picture", "warm"),
        )
    ]
    for name, rows in (("known", ~unknown), ("unknown", unknown)):
        part = {base: values[rows] for base, values in found.items()}
        asked = Questions(
            [recent for recent, kept in zip(questions.recent, rows, strict=True) if kept],
            questions.wanted[rows],
            questions.person[rows],
        )
        title = f"cold_item_recall20_ratio_picture_{name}"
        figures.append(ratio_of(title, part, "picture", "popularity", asked, note))
    return figures


def _precision(
    images: NDArray[np.uint8], label: NDArray[np.int64], encoded: ItemVectors
) -> list[Figure]:
    """Measure the share of the ten nearest pictures that are of the same class, or colour."""
    encoder = encoded.encoders.picture
    assert encoder is not None
    colour = np.random.default_rng(3).integers(len(COLOURS), size=len(images))
    alike = _alike(encoder, images, label)
    unknown = np.isin(label, UNKNOWN)
    tints = tinted(images, np.array(COLOURS, np.uint8)[colour])
    note = f"{encoder.name}, {len(images):,} pictures of the test part"
    return [
        _mean("picture_class_precision10_known", alike[~unknown], note),
        _mean("picture_class_precision10_unknown", alike[unknown], note),
        _mean(
            "picture_colour_precision10",
            _alike(encoder, tints, colour),
            f"{note}, tinted in one of {len(COLOURS)} colours",
        ),
    ]


def _alike(
    encoder: PictureEncoder, pictures: NDArray[np.uint8], group: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the share of each picture's ten nearest that are of its group."""
    vectors = encoder.encode([*map(png, pictures)])
    likeness = vectors @ vectors.T
    np.fill_diagonal(likeness, -1.0)
    nearest = np.argpartition(-likeness, 10, axis=1)[:, :10]
    return np.asarray((group[nearest] == group[:, None]).mean(axis=1))


def _mean(name: str, values: NDArray[np.float64], note: str) -> Figure:
    error = 1.96 * float(values.std() / np.sqrt(len(values)))
    value = float(values.mean())
    return Figure(name, value, "1", value - error, value + error, len(values), note)
