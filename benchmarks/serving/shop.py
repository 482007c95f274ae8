"""A made-up shop of any size, as a data directory that ``tactful serve`` opens.

The items lie in clusters of unequal size, which are their categories. People look at items of a few
clusters each. The model has the size that the product trains, 300 trees of depth 6; what it learned
is of no use to anybody, which changes nothing of what it costs.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.serving.ranking import forest
from tactful.catalogue.ids import ItemIds
from tactful.ranking.features import RANKING_FEATURES
from tactful.ranking.model import Manifest, Pointer, save_model, version_directory, write_pointer
from tactful.recall.index import RecallIndex
from tactful.recall.neighbours import NeighbourTable, SessionNeighbours
from tactful.vectors.build_index import build_vector_index
from tactful.vectors.content import ContentVectors
from tactful_streaming.contract.log_entries import Event, Item, encode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

DIMENSIONS = 64
CLUSTERS = 2_000
PEOPLE = 2_000
VIEWS = 20
_NEIGHBOURS = 20
_VISITS = 50_000
_CHUNK = 5_000


@dataclass(frozen=True)
class Shop:
    """What items there are.

    Attributes:
        vectors: unit length, shape (items, `DIMENSIONS`).
        cluster: of each item, which is its category, shape (items,).
    """

    vectors: NDArray[np.float32]
    cluster: NDArray[np.int64]

    @classmethod
    def of(cls, items: int, seed: int = 7) -> Shop:
        """Draw a shop."""
        generator = np.random.default_rng(seed)
        spectrum = np.arange(1, DIMENSIONS + 1) ** -0.25
        spectrum = (spectrum / np.linalg.norm(spectrum)).astype(np.float32)
        centres = generator.standard_normal((CLUSTERS, DIMENSIONS), np.float32) * spectrum
        sizes = generator.lognormal(0, 1, CLUSTERS)
        widths = generator.uniform(0.5, 1.0, CLUSTERS).astype(np.float32)
        cluster = generator.choice(CLUSTERS, items, p=sizes / sizes.sum())
        vectors = generator.standard_normal((items, DIMENSIONS), np.float32) * spectrum
        vectors = centres[cluster] + widths[cluster, None] * vectors
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        return cls(vectors, cluster)

    def __len__(self) -> int:
        """Number of items."""
        return len(self.vectors)

    def index(self, *, threads: int = 2, seed: int = 1) -> RecallIndex:
        """What recall would have learned: the vectors, and neighbours drawn within clusters."""
        generator = np.random.default_rng(seed)
        count = len(self)
        by_cluster = np.argsort(self.cluster, kind="stable")
        place = np.empty(count, np.int64)
        place[by_cluster] = np.arange(count)
        near = place[:, None] + generator.integers(-200, 200, (count, _NEIGHBOURS))
        neighbours = NeighbourTable(
            by_cluster[near % count].astype(np.int32),
            np.sort(generator.random((count, _NEIGHBOURS), np.float32))[:, ::-1].copy(),
        )
        visits = self.visits(_VISITS, generator)
        return RecallIndex(
            item_ids=ItemIds.of([name(number) for number in range(count)]),
            following=neighbours,
            together=neighbours,
            sessions=SessionNeighbours.build(
                np.repeat(np.arange(_VISITS), visits.shape[1]), visits.ravel(), count
            ),
            nearest=build_vector_index(self.vectors, threads=threads),
            content=ContentVectors.empty(DIMENSIONS),
            popular=generator.permutation(count)[:10_000].astype(np.int32),
            built_until=1,
        )

    def visits(self, count: int, generator: np.random.Generator) -> NDArray[np.int64]:
        """Items of visits, each to one cluster and its neighbours, shape (count, 8)."""
        by_cluster = np.argsort(self.cluster, kind="stable")
        begin = generator.integers(0, len(self), count)
        near = begin[:, None] + generator.integers(0, 300, (count, 8))
        return np.asarray(by_cluster[near % len(self)])

    def entries(self, now: int, seed: int = 2) -> Iterator[bytes]:
        """Records of the log: every item, then what people did in the last weeks."""
        generator = np.random.default_rng(seed)
        prices = np.round(generator.lognormal(3, 1, len(self)), 2).tolist()
        for number, (price, cluster) in enumerate(zip(prices, self.cluster.tolist(), strict=True)):
            yield encode_entry(
                Item(item_id=name(number), timestamp=1, category=f"c-{cluster}", price=price)
            )
        taken = self.visits(PEOPLE * VIEWS // 8, generator)
        ages = np.sort(generator.integers(0, 20 * 86_400_000, taken.size))[::-1].tolist()
        kinds = generator.choice(["view", "add_to_cart", "purchase"], taken.size, p=[0.6, 0.3, 0.1])
        for number, item in enumerate(taken.ravel().tolist()):
            visit = number // 8
            yield encode_entry(
                Event(
                    event_id=f"e-{number}",
                    type=str(kinds[number]),
                    timestamp=now - ages[number],
                    user_id=person(visit % PEOPLE),
                    session_id=f"s-{visit}",
                    item_id=name(item),
                    properties={"price": prices[item]},
                )
            )


def name(item: int) -> str:
    """Id of an item."""
    return f"item-{item}"


def person(number: int) -> str:
    """Id of a person."""
    return f"u-{number}"


def open_shop(
    data: Path, items: int, *, definitions: str, trees: int = 300, now: int | None = None
) -> RecallIndex:
    """Fill a data directory: a log, and a model that serves.

    Args:
        data: made here.
        items: how many.
        definitions: fingerprint of the features that the server computes.
        trees: of the model.
        now: epoch milliseconds at which the log ends; None for now.

    Returns:
        The index of the model.
    """
    shop = Shop.of(items)
    index = shop.index()
    manifest = Manifest(
        name="benchmark",
        version="1",
        features=RANKING_FEATURES,
        definitions=definitions,
        trained_until=1,
        data_hash="",
        rows=0,
        questions=0,
        metrics={},
        gains={},
    )
    models = data / "models"
    save_model(
        version_directory(models, "1"),
        manifest,
        forest("rank:ndcg", 0, trees=trees),
        index,
    )
    write_pointer(models, Pointer(version="1"))
    log = EmbeddedLog(data / "log", durability="process")
    waiting: list[bytes] = []
    for entry in shop.entries(time.time_ns() // 1_000_000 if now is None else now):
        waiting.append(entry)
        if len(waiting) == _CHUNK:
            log.append(waiting)
            waiting = []
    if waiting:
        log.append(waiting)
    log.close()
    return index
