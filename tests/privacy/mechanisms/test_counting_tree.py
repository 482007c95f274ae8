"""The tree of running totals: every prefix covered exactly once, and the error it promises."""

import math

import numpy as np
import pytest

from tactful_privacy.mechanisms.counting_tree import CountingTree, Node, best_tree
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

LENGTHS = [1, 2, 3, 24, 25, 96, 288, 1_440]


@pytest.mark.parametrize("length", LENGTHS)
def test_every_prefix_is_covered_exactly_once_and_nothing_else(length: int) -> None:
    tree, unsigned = best_tree(length), 0
    for t in range(length + 1):
        covered = np.zeros(tree.base**tree.levels, dtype=int)
        for level, index, sign in tree.nodes(t):
            width = tree.base**level
            covered[index * width : (index + 1) * width] += sign
            unsigned += width
        assert (covered[:t] == 1).all()
        assert not covered[t:].any()
    if length == 1_440:  # planted: the subtraction is forgotten
        assert unsigned > length * (length + 1) // 2


@pytest.mark.parametrize("length", LENGTHS)
def test_a_pane_lies_in_one_node_of_each_level(length: int) -> None:
    """Which is why a contribution weighs no more than the number of levels."""
    tree = best_tree(length)
    used = {node[:2] for t in range(length + 1) for node in tree.nodes(t)}
    assert max(level for level, _ in used) < tree.levels
    for level in range(tree.levels):
        width = tree.base**level
        covered = np.zeros(tree.base**tree.levels, dtype=int)
        for there, index in used:
            if there == level:
                covered[index * width : (index + 1) * width] += 1
        assert covered.max() <= 1


@pytest.mark.parametrize("length", [*range(1, 60), 96, 288, 1_440])
def test_node_count_bounds_distinct_nodes(length: int) -> None:
    """The delta of running totals is a union bound over the nodes that all prefixes use."""
    tree = best_tree(length)
    used = {node.unsigned for t in range(1, length + 1) for node in tree.nodes(t)}
    assert len(used) <= tree.size


@pytest.mark.parametrize("length", LENGTHS)
def test_a_past_node_is_used_no_more(length: int) -> None:
    tree = best_tree(length)
    last_used: dict[tuple[int, int], int] = {}
    for t in range(length + 1):
        last_used |= {node[:2]: t for node in tree.nodes(t)}
    for (level, index), last in last_used.items():
        assert not tree.is_past(Node(level, index, 1), last)


@pytest.mark.parametrize(
    ("length", "base", "levels"), [(24, 49, 1), (96, 15, 2), (288, 25, 2), (1_440, 15, 3)]
)
def test_the_tree_of_a_length_never_changes(length: int, base: int, levels: int) -> None:
    """Noise that ledgers hold was drawn for the nodes of these trees."""
    assert best_tree(length) == CountingTree(length, base, levels)


def test_what_lies_beyond_the_period_is_refused() -> None:
    for t in (-1, 25):
        with pytest.raises(ValueError, match="give 0 to 24"):
            best_tree(24).nodes(t)
    with pytest.raises(ValueError, match="length is 0"):
        best_tree(0)


def test_the_error_at_a_minute_a_pane_is_the_promised_one() -> None:
    """Cap 5, epsilon 1: at most 72, where the binary tree has 175."""
    tree = best_tree(1_440)
    nodes = [len(tree.nodes(t)) for t in range(1, 1_441)]
    error = math.sqrt(np.mean(nodes) * float(DiscreteLaplace(5 * tree.levels, 1).variance))
    binary_nodes = [t.bit_count() for t in range(1, 1_441)]
    binary = math.sqrt(np.mean(binary_nodes) * float(DiscreteLaplace(5 * 11, 1).variance))
    assert error == pytest.approx(69.1, abs=0.1)
    assert binary == pytest.approx(175.0, abs=0.5)
