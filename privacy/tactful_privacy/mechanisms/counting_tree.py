"""A tree of intervals whose signed nodes cover every prefix of a day.

Running totals get the noise of these nodes. Balanced digits in an odd base k write every t as a sum
of ``d_l * k^l`` with ``|d_l| <= k // 2``. Read from the highest digit, they walk from 0 to t in
steps of k^l, forwards and backwards, and each step is a node of a k-ary tree over time. The prefix
of length t is the sum of the forward nodes less the backward nodes. So a total takes few nodes
(about k/4 a level), and a contribution lies in one node of each level only. (Andersson, Pagh,
Steiner, Torkamani, "Count on your elders", FORC 2025, arXiv:2408.07021.)

Example with base 3 and t = 5 = 9 - 3 - 1, so the first 5 panes are node 2.0 less 1.2 less 0.5:

    pane          0   1   2   3   4   5   6   7   8
    node 2.0     +1  +1  +1  +1  +1  +1  +1  +1  +1
    node 1.2                             -1  -1  -1
    node 0.5                         -1
    sum           1   1   1   1   1   0   0   0   0
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Node(NamedTuple):
    """A signed node: the interval number ``place`` of base^level panes.

    The node (1, 2, -1) of a tree with base 3 subtracts the panes 6, 7 and 8.
    """

    level: int
    place: int
    sign: int

    @property
    def name(self) -> str:
        """Name of the node without its sign, the key of its stored noise."""
        return f"{self.level}.{self.place}"

    @property
    def unsigned(self) -> Node:
        """The node with a positive sign."""
        return self._replace(sign=1)


@dataclass(frozen=True)
class CountingTree:
    """A tree over `length` panes."""

    length: int  # number of panes in a period
    base: int  # children of a node, odd
    levels: int  # number of nodes that contain a pane; ``(base^levels - 1) / 2 >= length``

    def nodes(self, t: int) -> list[Node]:
        """Return the signed nodes that cover the first t panes of the period, each once.

        Example:
            >>> [(node.name, node.sign) for node in CountingTree(9, base=3, levels=3).nodes(5)]
            [('2.0', 1), ('1.2', -1), ('0.5', -1)]
        """
        if not 0 <= t <= self.length:
            raise ValueError(f"t is {t}: give 0 to {self.length}, the panes of the period")
        nodes: list[Node] = []
        position = 0
        for level, digit in reversed(list(enumerate(_balanced(t, self.base)))):
            width = self.base**level
            for _ in range(abs(digit)):
                if digit > 0:
                    nodes.append(Node(level, position // width, 1))
                    position += width
                else:
                    position -= width
                    nodes.append(Node(level, position // width, -1))
        return nodes

    def is_past(self, node: Node, t: int) -> bool:
        """Whether no total of t panes or more uses the node: its parent has ended by then."""
        end_of_parent: int = (node.place // self.base + 1) * self.base ** (node.level + 1)
        return end_of_parent <= t

    @property
    def size(self) -> int:
        """Upper bound of the number of distinct nodes in all totals of a period.

        Backward steps reach up to ``base // 2`` nodes of a level past the end of the period.
        """
        widths = [self.base**level for level in range(self.levels)]
        return sum(-(-self.length // width) + self.base // 2 for width in widths)


@lru_cache(maxsize=64)
def best_tree(length: int) -> CountingTree:
    """Return the tree with the smallest root mean square error of a period's totals.

    The error is proportional to ``levels * sqrt(mean number of nodes)``. For each number of levels
    the smallest sufficient base is best; one level is the plain sum of panes. The choice depends on
    the length, 1 or more, alone. It must never change, because ledgers hold noise of these nodes.
    """
    if length < 1:
        raise ValueError(f"length is {length}: a period needs 1 pane or more")
    trees = []
    for levels in range(1, 2 + math.ceil(math.log(2 * length + 1, 3))):
        base = 3
        while (base**levels - 1) // 2 < length:
            base += 2
        trees.append(CountingTree(length, base, levels))
    return min(trees, key=lambda tree: tree.levels**2 * _nodes_in_all(tree))


def _nodes_in_all(tree: CountingTree) -> int:
    return sum(abs(digit) for t in range(1, tree.length + 1) for digit in _balanced(t, tree.base))


def _balanced(t: int, base: int) -> list[int]:
    """Return the digits of t, lowest first, each between -(base // 2) and base // 2."""
    digits = []
    while t:
        t, digit = divmod(t, base)
        if digit > base // 2:
            digit -= base
            t += 1
        digits.append(digit)
    return digits
