"""A tree whose signed nodes cover every prefix of a day: how running totals are noised.

Balanced digits in an odd base k write every t as a sum of ``d_l * k^l`` with ``|d_l| <= k // 2``.
Read from the highest digit, they walk from 0 to t in steps of k^l, forwards and backwards, and each
step is a node of a k-ary tree over time: what lies before t is the sum of the nodes walked forwards
less those walked backwards. So a total takes few nodes (about k/4 a level), and a contribution lies
in one node of each level only. (Andersson, Pagh, Steiner, Torkamani, "Count on your elders",
FORC 2025, arXiv:2408.07021.)
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple


class Node(NamedTuple):
    """One step of the walk: the ``place``-th stretch of base^level panes, added or taken off."""

    level: int
    place: int
    sign: int

    @property
    def name(self) -> str:
        """Name of the node without its sign, under which its noise is kept."""
        return f"{self.level}.{self.place}"

    @property
    def unsigned(self) -> Node:
        """The node itself, whichever way it is walked."""
        return self._replace(sign=1)


@dataclass(frozen=True)
class CountingTree:
    """A tree over `length` panes.

    Attributes:
        length: How many panes a period has.
        base: Children of a node, odd.
        levels: How many nodes a pane lies in; ``(base^levels - 1) / 2 >= length``.
    """

    length: int
    base: int
    levels: int

    def nodes(self, t: int) -> list[Node]:
        """Return the signed nodes that cover the first t panes, each of them exactly once.

        Raises:
            ValueError: t is negative or beyond the period.
        """
        if not 0 <= t <= self.length:
            raise ValueError(f"{t} panes of {self.length}")
        found: list[Node] = []
        position = 0
        for level, digit in reversed(list(enumerate(_balanced(t, self.base)))):
            width = self.base**level
            for _ in range(abs(digit)):
                if digit > 0:
                    found.append(Node(level, position // width, 1))
                    position += width
                else:
                    position -= width
                    found.append(Node(level, position // width, -1))
        return found

    def is_past(self, node: Node, t: int) -> bool:
        """Whether no total of t panes or more uses the node: its parent has ended by then."""
        end_of_parent: int = (node.place // self.base + 1) * self.base ** (node.level + 1)
        return end_of_parent <= t

    @property
    def size(self) -> int:
        """How many nodes the totals of a period use at most."""
        widths = [self.base**level for level in range(self.levels)]
        return sum(-(-self.length // width) + self.base // 2 for width in widths)


@lru_cache(maxsize=64)
def best_tree(length: int) -> CountingTree:
    """Return the tree with the smallest root mean square error of the totals of a period.

    The error is proportional to ``levels * sqrt(mean number of nodes)``. Of one number of levels
    the smallest base that reaches is the best one; one level is the plain sum of panes. The choice
    depends on the length alone and is part of what ledgers rely on: it must not change.

    Raises:
        ValueError: length is below 1.
    """
    if length < 1:
        raise ValueError(f"a period of {length} panes has no totals")
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
    """Digits of t, lowest first, each between -(base // 2) and base // 2."""
    digits = []
    while t:
        t, digit = divmod(t, base)
        if digit > base // 2:
            digit -= base
            t += 1
        digits.append(digit)
    return digits
