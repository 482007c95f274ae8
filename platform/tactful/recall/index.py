"""The learned part of recall, and the channels that propose candidates.

Cheap, complementary channels propose items, and the ranker decides between them: items that
followed these before (``next``), were bought together with them (``together``), come from similar
visits (``sessions``) or lie near in vector space (``vectors``); items that the user buys again and
again (``repeat``), that sell best now (``popular``) or in the categories of a device's intent
(``intent``), belong to a running campaign (``campaign``) or rise in published statistics
(``trending``). For users without a history come items of their cohorts (``cohort``) and of profiles
that crossed from other domains (``crossed``), and for placement rules the items they demand
(``rule``). A request may name the candidates (``asked``).

A `RecallIndex` is built from sessions by `build_index`, saved as a sealed directory of arrays and
loaded memory-mapped, so that processes share it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful.catalogue.ids import ItemIds
from tactful.errors import ModelError
from tactful.recall.blend import Blends
from tactful.recall.cohorts import Cohorts
from tactful.recall.common_pairs import CommonPairs
from tactful.recall.coverage import covering_rows
from tactful.recall.crossings import Crossings
from tactful.recall.fit_blend import fit_blend
from tactful.recall.neighbours import (
    NeighbourTable,
    SessionNeighbours,
    VisitWeights,
    direction,
)
from tactful.recall.tables import Interactions, Tables, learn_tables, rows_by_popularity
from tactful.util.checked_arrays import is_finite, map_array, require, within
from tactful.util.checksummed_directory import check_seal, sealing
from tactful.vectors.build_index import Queries, build_vector_index
from tactful.vectors.content import ContentVectors, EncodedItems
from tactful.vectors.ivf_index import VectorIndex
from tactful_privacy.decoding import DECODE_ERRORS
from tactful_streaming.contract.log_entries import Item

if TYPE_CHECKING:
    from scipy import sparse

CHANNELS = (
    *("next", "together", "vectors", "repeat", "popular", "sessions"),
    *("intent", "campaign", "rule", "cohort", "trending", "asked", "crossed"),
)


_FORMAT = 3
_QUERIES = 512
_FEWEST_QUERIES = 128
_QUERY_LENGTH = 20
# half-life of popularity, where the whole history does not order events better
_POPULAR_DAYS = 28.0


class _About(msgspec.Struct, frozen=True, kw_only=True):
    format: int
    built_until: int = 0
    visit_weights: VisitWeights = VisitWeights()
    blends: Blends = Blends()
    encoder: str = ""  # whose vectors `content` reads, too
    minimum_people: int | None = None  # of `CommonPairs`; None: an earlier version wrote none


@dataclass(frozen=True)
class RecallIndex:
    """Neighbours, vectors and popularity of a fixed sequence of items."""

    item_ids: ItemIds  # items of the index; row i of every array is ``item_ids[i]``
    following: NeighbourTable  # items that came next in the same session, directed
    together: NeighbourTable  # items of the same session, symmetric
    sessions: SessionNeighbours  # past visits, to compare others with
    nearest: VectorIndex  # search over unit-length item vectors; zero where unknown
    content: ContentVectors  # vectors of items that came later, by their descriptions
    popular: NDArray[np.int32]  # rows by recent popularity, best first
    built_until: int  # event time in epoch milliseconds up to which events were used
    cohorts: Cohorts = field(default_factory=Cohorts.empty)
    blends: Blends = field(default_factory=Blends)
    # the first rows for people of whom nothing is known, best first; none where popularity counts
    # less than a month: by the next training they would be old
    leading: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))
    pairs: CommonPairs = field(default_factory=CommonPairs.empty)  # what anybody may see
    crossings: Crossings = field(default_factory=Crossings)  # profiles to and from other domains

    @property
    def vectors(self) -> NDArray[np.float32]:
        """The item vectors, shape (n_items, dimensions)."""
        return self.nearest.vectors

    def save(self, directory: Path) -> None:
        """Write the index as a sealed directory, in place of an earlier one."""
        with sealing(directory) as scratch:
            about = _About(
                format=_FORMAT,
                built_until=self.built_until,
                visit_weights=self.sessions.weights,
                encoder=self.content.encoder,
                blends=self.blends,
                minimum_people=self.pairs.least if len(self.pairs.people) else None,
            )
            (scratch / "index.json").write_bytes(msgspec.json.encode(about))
            self.item_ids.save(scratch)
            for name, array in self._arrays().items():
                np.save(scratch / f"{name}.npy", array)
            self.cohorts.save(scratch)
            self.crossings.save(scratch)
            if len(self.pairs.people):
                self.pairs.save(scratch)
            self.nearest.save(scratch / "vectors")

    @classmethod
    def load(cls, directory: Path) -> RecallIndex:
        """Read an index that `save` wrote, memory-mapped.

        Raises:
            ModelError: if a part is missing, damaged or was written in another format.
        """
        try:
            about = msgspec.json.decode((directory / "index.json").read_bytes(), type=_About)
        except (OSError, *DECODE_ERRORS) as error:
            raise ModelError(f"{directory}: recall index cannot be read: {error}") from error
        if about.format != _FORMAT:
            raise ModelError(
                f"{directory}: recall index has format {about.format!r}, "
                f"this version reads {_FORMAT}; train again with `tactful train`"
            )
        check_seal(directory)
        item_ids, nearest = ItemIds.load(directory), VectorIndex.load(directory / "vectors")
        count, dimensions = len(item_ids), nearest.vectors.shape[1]
        require(len(nearest.vectors) == count, directory / "vectors" / "vectors.npy", "rows")
        content = map_array(path := directory / "content.npy", np.float32, 2)
        fits = content.shape[1] == dimensions and is_finite(content)
        require(fits, path, "dimensions of the vectors")
        popular = map_array(path := directory / "popular.npy", np.int32)
        _require_rows(popular, count, path)
        leading = np.zeros(0, np.int32)  # earlier versions have none
        if (path := directory / "leading.npy").exists():
            _require_rows(leading := map_array(path, np.int32), count, path)
        pairs = CommonPairs.empty()
        if about.minimum_people is not None:
            pairs = CommonPairs.load(directory, count, about.minimum_people)
        return cls(
            item_ids=item_ids,
            following=NeighbourTable.load(directory, "following", count),
            together=NeighbourTable.load(directory, "together", count),
            sessions=SessionNeighbours.load(directory, count, about.visit_weights),
            nearest=nearest,
            content=_load_content(directory, content, about.encoder),
            cohorts=Cohorts.load(directory, count),
            popular=popular,
            leading=leading,
            built_until=about.built_until,
            blends=about.blends,
            pairs=pairs,
            crossings=Crossings.load(directory, count),
        )

    def _arrays(self) -> Mapping[str, NDArray[Any]]:
        return {
            "following_items": self.following.items,
            "following_weights": self.following.weights,
            "together_items": self.together.items,
            "together_weights": self.together.weights,
            **self.sessions.arrays(),
            "content": self.content.weights,
            **_encoded_arrays(self.content),
            **self.cohorts.arrays(),
            **self.crossings.arrays(),
            "popular": self.popular,
            "leading": self.leading,
        }


def _encoded_arrays(content: ContentVectors) -> dict[str, NDArray[Any]]:
    """Return the arrays of a map that reads an encoder's vectors; none of other maps."""
    if not content.encoder:
        return {}
    return {"content_projection": content.projection, "content_centre": content.centre}


def _load_content(directory: Path, weights: NDArray[np.float32], encoder: str) -> ContentVectors:
    if not encoder:
        return ContentVectors(weights)
    projection = map_array(path := directory / "content_projection.npy", np.float32, 2)
    fits = projection.shape[1] == weights.shape[1] and is_finite(projection)
    require(fits, path, "dimensions of the vectors")
    centre = map_array(path := directory / "content_centre.npy", np.float32, 2)
    fits = centre.shape == (1, len(projection)) and is_finite(centre)
    require(fits, path, "dimensions of the encoder")
    return ContentVectors(weights, encoder, projection, centre)


Improve = Callable[[Interactions, NDArray[np.float32]], NDArray[np.float32]]
"""Makes unit vectors of items, zero for those without events, from others of the same shape."""


def _require_rows(rows: NDArray[np.int32], count: int, path: Path) -> None:
    """Check that rows exist, each once."""
    once = len(np.unique(rows)) == len(rows)
    require(within(rows, count) and once, path, "rows of items")


def build_index(
    item_ids: Sequence[str],
    interactions: Interactions,  # events whose `item` is a row of `item_ids`, in time order
    *,
    # description of each row of the catalogue, None where there is none. Items without events get
    # vectors by them, now and later.
    items: Sequence[Item | None] = (),
    encoded: EncodedItems | None = None,  # vectors of `items` by an encoder
    cohorts: Cohorts | None = None,  # lifts of items by properties of users; None for none
    neighbours: int = 60,  # neighbours to keep of each item
    dimensions: int = 64,  # length of the item vectors
    improve: Improve | None = None,  # improves the item vectors of co-occurrence; None keeps these
    threads: int = 1,
    seed: int = 0,
) -> RecallIndex:
    """Train a recall index; an empty history gives a valid one without items."""
    count = len(item_ids)

    def learn(part: Interactions) -> tuple[Tables, sparse.csr_matrix]:
        return learn_tables(part, count, neighbours=neighbours)

    tables, together = learn(interactions)
    weights, blends = fit_blend(interactions, lambda part: learn(part)[0], count, seed=seed)
    whole = blends.popular == "ever"
    half_life = np.inf if whole else _POPULAR_DAYS
    leads = whole or blends.popular == "month"
    vectors = _vectors(together, dimensions, seed)
    if improve is not None:
        vectors = improve(interactions, vectors)
    queries = _visit_queries(interactions, vectors, seed)
    content = ContentVectors.fit(items, vectors, encoded=encoded)
    content.fill(items, vectors, encoded)
    return RecallIndex(
        item_ids=ItemIds.of(item_ids),
        following=tables.following,
        together=tables.together,
        sessions=replace(tables.sessions, weights=weights),
        nearest=build_vector_index(vectors, queries=queries, threads=threads, seed=seed),
        content=content,
        cohorts=cohorts or Cohorts.empty(),
        popular=rows_by_popularity(interactions, count, half_life),
        leading=covering_rows(
            interactions if leads else interactions.part(0, 0), count, whole=whole
        ),
        built_until=int(interactions.timestamp.max()) + 1 if len(interactions.item) else 0,
        blends=blends,
    )


def _vectors(together: sparse.csr_matrix, dimensions: int, seed: int) -> NDArray[np.float32]:
    """Make item vectors by truncated SVD of positive pointwise mutual information.

    The decomposition is randomised with a fixed seed (Halko, Martinsson and Tropp, 2011).
    Levy and Goldberg, "Neural Word Embedding as Implicit Matrix Factorization" (NIPS 2014): this
    is what item2vec approximates, with a deterministic result and no epochs to choose. Singular
    values enter by their square root (their section 3.3).
    """
    # Only learning needs them, and they bring pandas: 85 MB in every process that serves.
    from scipy import sparse
    from sklearn.utils.extmath import randomized_svd

    count = together.shape[0]
    vectors = np.zeros((count, dimensions), np.float32)
    coo = together.tocoo()
    if coo.nnz == 0:
        return vectors
    totals = np.asarray(together.sum(axis=1)).ravel().astype(np.float64)
    mutual = np.log(coo.data * totals.sum() / (totals[coo.row] * totals[coo.col]))
    positive = mutual > 0
    ppmi = sparse.coo_matrix(
        (mutual[positive].astype(np.float32), (coo.row[positive], coo.col[positive])),
        shape=(count, count),
    ).tocsr()
    rank = min(dimensions, count - 1)
    if ppmi.nnz == 0 or rank < 1:
        return vectors
    left, values, _ = randomized_svd(ppmi, rank, n_iter=2, random_state=seed)
    vectors[:, :rank] = left * np.sqrt(values)
    norms = np.linalg.norm(vectors, axis=1, keepdims=True)
    np.divide(vectors, norms, out=vectors, where=norms > 0)
    return vectors


def _visit_queries(seen: Interactions, vectors: NDArray[np.float32], seed: int) -> Queries | None:
    """Make one query at a random place of each of some visits; None if there are few."""
    generator = np.random.default_rng(seed)
    order = np.argsort(seen.session, kind="stable")
    drawn = generator.permutation(len(order))[: 2 * _QUERIES]
    queries = []
    for place in drawn.tolist():
        visit = order[max(0, place - _QUERY_LENGTH + 1) : place + 1]
        rows = seen.item[visit[seen.session[visit] == seen.session[order[place]]]][::-1]
        query = direction(vectors[rows], rows.tolist())
        if query.any():
            queries.append(query)
    if len(queries) < _FEWEST_QUERIES:
        return None
    return Queries(np.stack(queries[:_QUERIES]), "visits")


def empty_index(dimensions: int = 1) -> RecallIndex:
    """Make an index without items, which serves before the first training."""
    nothing = NeighbourTable(np.zeros((0, 1), np.int32), np.zeros((0, 1), np.float32))
    return RecallIndex(
        item_ids=ItemIds.of(()),
        following=nothing,
        together=nothing,
        sessions=SessionNeighbours.empty(),
        nearest=VectorIndex(np.zeros((0, dimensions), np.float32)),
        content=ContentVectors.empty(dimensions),
        popular=np.zeros(0, np.int32),
        built_until=0,
    )
