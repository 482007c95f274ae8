"""Sparse graphs: the paper's bounds, brute force over small rings, and simulated drop-outs."""

import itertools
import math

import numpy as np
import pytest
from tests.federated.sum_vectors import GRAPH, UNSAFE

from tactful_federated.core.graph import Graph, check_graph, require_sparse, sparse_graph
from tactful_federated.errors import SettingsError


def _choose(n: int, k: int) -> int:
    return math.comb(n, k) if 0 <= k <= n else 0


def _above(total: int, marked: int, drawn: int, count: int) -> float:
    """P[H > count], by whole numbers."""
    found = range(count + 1, drawn + 1)
    ways = sum(_choose(marked, i) * _choose(total - marked, drawn - i) for i in found)
    return ways / math.comb(total, drawn)


def of_the_paper(n: int, corrupt: float, dropped: float, lying: bool) -> tuple[int, int]:
    """Degree and threshold by the bounds of Bell et al., with 40 and 20 bits, as their authors did.

    Source of the constants and of the expected values: graph_parameter_finder of
    google/federated-compute.
    """
    bad, out = math.floor(corrupt * n + 1e-9), math.floor(dropped * n + 1e-9)
    left = math.ceil((1 - dropped) * n - 1e-9)
    for k in range(2, n - 1, 2):
        gaps = n * (n - k - 1) / 2
        broken = gaps * _choose(n - k, bad + out - k) / math.comb(n, bad + out)
        if broken >= 2**-41:
            continue
        t1 = next(t for t in range(k + 1) if _above(n, bad, k, t) <= 2**-41 / n)
        t2 = next(t for t in range(k + 1) if 1 - _above(n, left, k, t) >= 2**-20 / n)
        if lying:
            t1 = math.ceil((t1 + k - 1.25) / 2)
        if t2 > t1:
            return k, max(t1 + 1, 2)
    raise AssertionError("none")


PUBLISHED = [
    (100, 0.33, 0.33, False, 68, 34),
    (100, 0.05, 0.33, False, 28, 6),
    (1000, 0.05, 0.33, False, 72, 24),
    (100, 0.33, 0.05, True, 42, 37),
    (100, 0.05, 0.33, True, 72, 39),
    (100, 0.05, 0.05, True, 16, 11),
    (1000, 0.05, 0.05, False, 30, 17),
    (1000, 0.05, 0.05, True, 52, 37),
]


@pytest.mark.parametrize(("n", "corrupt", "dropped", "lying", "k", "t"), PUBLISHED)
def test_the_oracle_has_the_published_values(
    n: int, corrupt: float, dropped: float, lying: bool, k: int, t: int
) -> None:
    assert of_the_paper(n, corrupt, dropped, lying) == (k, t)


@pytest.mark.parametrize(("n", "share"), [(1000, 0.05), (1000, 0.1), (400, 0.1)])
def test_a_graph_meets_the_bounds_of_the_paper_and_its_own(n: int, share: float) -> None:
    graph = sparse_graph(n, share, share)
    assert graph
    k, t = graph.neighbours, graph.threshold
    bad, left = math.floor(share * n), math.ceil((1 - share) * n)
    most = t - k // 2 - 1
    # Its own: no half neighbourhood has more corrupt members than the threshold allows for.
    assert n * _above(n, bad, k // 2, most) <= 2**-80 < n * _above(n, bad, k // 2, most - 1)
    # The paper's: too few corrupt neighbours, no two sets of shares, enough survivors.
    assert n * _above(n, bad, k, t - 1) <= 2**-80
    assert n * _above(n, bad, k, 2 * t - k - 1) <= 2**-40
    assert n * (1 - _above(n, left, k, t - 1)) <= 2**-20 * 1.001
    # With the paper's 40 bits its graph has fewer neighbours: it does not defend as much.
    paper_k, _ = of_the_paper(n, share, share, lying=True)
    relaxed = sparse_graph(n, share, share, security=40)
    assert relaxed and paper_k <= relaxed.neighbours < k


def test_ten_thousand_members_need_three_per_cent() -> None:
    """Abstract of the paper: 10^4 clients, 5 % corrupt, 5 % dropped, neighbours of 3 %."""
    graph = sparse_graph(10_000, 0.05, 0.05)
    assert graph and graph.neighbours <= 300


def test_a_graph_of_the_whole_cohort_is_safe_for_smaller_rosters() -> None:
    graph = sparse_graph(600, 0.1, 0.1)
    assert graph
    k, most = graph.neighbours, graph.threshold - graph.neighbours // 2 - 1
    for n in range(k + 2, 600, 37):
        assert n * _above(n, n // 10, k // 2, most) <= 2**-80


def test_what_cannot_be_sparse_is_complete() -> None:
    assert sparse_graph(20, 0.3, 0.3) is None
    with pytest.raises(SettingsError, match="larger sums"):
        require_sparse(sparse_graph(20, 0.3, 0.3), 20)
    assert require_sparse(Graph(4, 3), 9) == Graph(4, 3)
    for shares in ((0.34, 0.1), (-0.1, 0.1), (0.1, 0.34)):
        with pytest.raises(SettingsError, match="below 1/3"):
            sparse_graph(1000, *shares)


def _cut_off(n: int, k: int, t: int, corrupt: set[int], dropped: set[int]) -> bool:
    """Whether the check of members passes and honest survivors are not connected."""
    near = {a: {(a + step) % n for step in range(-k // 2, k // 2 + 1)} - {a} for a in range(n)}
    survivors = set(range(n)) - dropped
    if any(len(near[a] & survivors) < t for a in survivors):
        return False
    honest = survivors - corrupt
    if not honest:
        return False
    seen, new = set[int](), {min(honest)}
    while new:
        seen |= new
        new = {b for a in new for b in near[a] & honest} - seen
    return seen != honest


def _cuts(n: int, k: int, spare: int) -> int:
    """Count the sets of corrupt and dropped members that cut a ring, with t = k / 2 + c + spare."""
    found = 0
    for kinds in itertools.product(range(3), repeat=n - 1):
        corrupt = {i for i, kind in enumerate(kinds) if kind == 1}
        dropped = {i for i, kind in enumerate(kinds) if kind == 2}
        windows = ({(i + j) % n for j in range(k // 2)} for i in range(n))
        most = max(len(corrupt & window) for window in windows)
        found += _cut_off(n, k, k // 2 + most + spare, corrupt, dropped)
    return found


def test_no_choice_of_drop_outs_cuts_off_honest_members() -> None:
    """All 3^8 choices on a ring of nine; one neighbour fewer than required would not be enough."""
    assert _cuts(9, 4, spare=1) == 0
    assert _cuts(9, 4, spare=0) > 0


@pytest.mark.slow
def test_simulated_rings_fail_no_more_often_than_the_bounds_say() -> None:
    """At bounds of 2^-3 and 2^-2, which a simulation can see."""
    n, share, runs = 120, 0.2, 1_500
    graph = sparse_graph(n, share, 0.15, security=3, correctness=2)
    assert graph
    k, t = graph.neighbours, graph.threshold
    most, random = t - k // 2 - 1, np.random.default_rng(6)
    corrupted = ended = 0
    for _ in range(runs):
        places = random.permutation(n)
        corrupt, left = places < share * n, random.permutation(n) >= 0.15 * n
        windows = np.sum([np.roll(corrupt, -i) for i in range(k // 2)], axis=0)
        corrupted += int(windows.max()) > most
        near = np.sum([np.roll(left, i) for i in range(-k // 2, k // 2 + 1)], axis=0) - left
        ended += bool((near[left] < t).any())
    assert corrupted / runs <= 2**-3 and ended / runs <= 2**-2
    assert corrupted > 0


@pytest.mark.parametrize(("neighbours", "threshold"), UNSAFE)
def test_no_device_accepts_a_graph_that_is_not_safe(neighbours: int, threshold: int) -> None:
    """A server could drop one side of a member's neighbours, and know the masks of the other."""
    with pytest.raises(SettingsError, match="not safe"):
        check_graph(Graph(neighbours, threshold))
    check_graph(GRAPH)
