"""Item to item: Markov chain, sequential rules, co-visitation with repeats, and BM25."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

from benchmarks.quality.peers import Lists, Peer, best, grid, queries, visits_matrix
from benchmarks.quality.questions import Trial


def followers(
    trial: Trial, *, reach: int, both: bool = False, power: float = 1.0
) -> sparse.csr_matrix:
    """Count the items that followed each item within a visit, shape (items, items).

    Args:
        trial: its visits.
        reach: most steps between the two.
        both: whether items that came before count as well.
        power: a pair counts ``distance ** -power``.
    """
    sizes = np.array([len(visit) for visit in trial.visits], np.int64)
    flat = np.fromiter((item for visit in trial.visits for item in visit), np.int64)
    visit = np.repeat(np.arange(len(sizes)), sizes)
    befores, afters, weights = [], [], []
    for distance in range(1, reach + 1):
        same = (visit[distance:] == visit[:-distance]) & (flat[distance:] != flat[:-distance])
        befores.append(flat[:-distance][same])
        afters.append(flat[distance:][same])
        weights.append(np.full(len(afters[-1]), float(distance) ** -power))
    pairs = (np.concatenate(befores), np.concatenate(afters))
    total = sparse.csr_matrix((np.concatenate(weights), pairs), (trial.items, trial.items))
    return (total + total.T).tocsr() if both else total


def _latest(trial: Trial) -> sparse.csr_matrix:
    """Return the latest known item of each question as a row, shape (questions, items)."""
    known = [(row, it.known[-1]) for row, it in enumerate(trial.questions) if it.known]
    rows, columns = np.array(known, np.int64).reshape(-1, 2).T
    shape = (len(trial.questions), trial.items)
    return sparse.csr_matrix((np.ones(len(rows)), (rows, columns)), shape)


def markov(trial: Trial) -> Lists:
    """First-order Markov chain: what followed the latest item most often."""
    asked, near = _latest(trial), followers(trial, reach=1)
    return best(trial, lambda part: (asked[part] @ near).toarray())


def sequential_rules(trial: Trial, *, reach: int, power: float) -> Lists:
    """What followed the latest item within some steps, the nearer the more it counts.

    Kamehkhosh, Jannach and Ludewig, "A comparison of frequent pattern techniques and a deep
    learning method for session-based recommendation" (RecTemp at RecSys 2017).
    """
    asked, near = _latest(trial), followers(trial, reach=reach, power=power)
    return best(trial, lambda part: (asked[part] @ near).toarray())


def co_visitation(trial: Trial, *, reach: int, both: bool, fade: float, own: float) -> Lists:
    """What went with the items of the visit, and what the person had before.

    Args:
        trial: the questions.
        reach: most steps between two items that go together.
        both: whether the order of the two is ignored.
        fade: what an item of the visit counts for, relative to the one after it.
        own: what the person's most frequent item counts for, relative to the best other one.
    """
    near = followers(trial, reach=reach, both=both)
    known = _known(trial, fade)
    had = _had(trial)

    def scores(part: slice) -> NDArray[np.float64]:
        values = (known[part] @ near).toarray()
        values /= np.maximum(values.max(axis=1, keepdims=True), 1e-300)
        return np.asarray(values + own * had[part].toarray())

    return best(trial, scores)


def _known(trial: Trial, fade: float) -> sparse.csr_matrix:
    """Return the known items of each question, the latest with 1, shape (questions, items)."""
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, question in enumerate(trial.questions):
        weights: dict[int, float] = {}
        for place, item in enumerate(reversed(question.known)):
            weights.setdefault(item, fade**place)
        rows += [row] * len(weights)
        columns += weights.keys()
        values += weights.values()
    return sparse.csr_matrix((values, (rows, columns)), (len(trial.questions), trial.items))


def _had(trial: Trial) -> sparse.csr_matrix:
    """Return how often the person had each item, the most frequent with 1."""
    rows: list[int] = []
    columns: list[int] = []
    values: list[float] = []
    for row, question in enumerate(trial.questions):
        items, counts = np.unique(np.array(question.history, np.int64), return_counts=True)
        rows += [row] * len(items)
        columns += items.tolist()
        values += (counts / max(counts.max(initial=1), 1)).tolist()
    return sparse.csr_matrix((values, (rows, columns)), (len(trial.questions), trial.items))


def item_item(trial: Trial, *, weighting: str, by: str, neighbours: int, fade: float) -> Lists:
    """Items near the known ones by the users that had both, as `implicit` does.

    `weighting` is `cosine` or `bm25` (its `CosineRecommender` and `BM25Recommender`, with the K1 of
    1.2 and the B of 0.75 of Robertson and Zaragoza, "The probabilistic relevance framework: BM25
    and beyond", 2009); `by` the rows of the matrix: `visit` or `person`.
    """
    held = visits_matrix(trial)
    if by == "person":
        owners = np.array(trial.owners, np.int64)
        shape = (int(owners.max(initial=0)) + 1, len(owners))
        grouped = sparse.csr_matrix((np.ones(len(owners)), (owners, np.arange(len(owners)))), shape)
        held = (grouped @ held).tocsr()
    weighted = _cosine(held) if weighting == "cosine" else _bm25(held)
    near = _strongest((weighted.T @ weighted).tocsr(), neighbours)
    asked = queries(trial, fade=fade, history=fade**5)
    return best(trial, lambda part: (asked[part] @ near).toarray())


def _cosine(held: sparse.csr_matrix) -> sparse.csr_matrix:
    lengths = np.sqrt(np.asarray(held.multiply(held).sum(axis=0)).ravel())
    return (held @ sparse.diags(1.0 / np.maximum(lengths, 1e-300))).tocsr()


def _bm25(held: sparse.csr_matrix, k1: float = 1.2, b: float = 0.75) -> sparse.csr_matrix:
    rows = held.tocoo()
    rarity = np.log(held.shape[0] / (1.0 + np.bincount(rows.col, minlength=held.shape[1])))
    sums = np.asarray(held.sum(axis=1)).ravel()
    length = (1.0 - b) + b * sums / max(float(sums.mean()), 1e-300)
    data = rows.data * (k1 + 1.0) / (k1 * length[rows.row] + rows.data)
    data *= np.maximum(rarity, 0.0)[rows.col]
    return sparse.csr_matrix((data, (rows.row, rows.col)), held.shape)


def _strongest(near: sparse.csr_matrix, count: int) -> sparse.csr_matrix:
    """Keep the greatest values of each row, without the diagonal."""
    near.setdiag(0.0)
    near.eliminate_zeros()
    for row in range(near.shape[0]):
        start, end = near.indptr[row], near.indptr[row + 1]
        if end - start > count:
            weak = np.argpartition(-near.data[start:end], count)[count:]
            near.data[start + weak] = 0.0
    near.eliminate_zeros()
    return near


MARKOV = Peer("markov", markov)
SEQUENTIAL_RULES = Peer("sequential_rules", sequential_rules, grid(reach=(5, 20), power=(1.0, 2.0)))
CO_VISITATION = Peer(
    "co_visitation",
    co_visitation,
    grid(reach=(3, 10), both=(False, True), fade=(0.6,), own=(0.0, 0.3, 1.5)),
)
ITEM_ITEM = Peer(
    "item_item",
    item_item,
    grid(weighting=("cosine", "bm25"), by=("visit", "person"), neighbours=(100,), fade=(0.7,)),
)
