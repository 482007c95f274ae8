"""Neighbours of the members of one session, derived from its roster."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass

from tactful_federated.core.graph import Graph
from tactful_federated.errors import SecureSumError
from tactful_federated.secagg.messages import ring_place, threshold_of


@dataclass(frozen=True)
class Ring:
    """Members of a session, and the neighbours that each shares secrets with.

    Attributes:
        circles: Each member, with its neighbours and itself in ascending order: holder i of its
            shares, counted from 1, is the i-th.
        shares: Shares that open a secret.
        least: Surviving neighbours that each survivor needs; 0 in a complete graph.
    """

    circles: Mapping[int, Sequence[int]]
    shares: int
    least: int = 0

    def others(self, member: int) -> list[int]:
        """Return the neighbours of a member."""
        return [other for other in self.circles[member] if other != member]

    def check(self, survivors: Collection[int]) -> None:
        """Check that each survivor has enough surviving neighbours.

        Raises:
            SecureSumError: One has too few: masks of dropped neighbours would be known.
        """
        if not self.least:
            return
        present = frozenset(survivors)
        for member in survivors:
            count = len(present.intersection(self.circles[member])) - 1
            if count < self.least:
                raise SecureSumError(
                    f"a survivor has {count} surviving neighbours, and {self.least} are needed"
                )


def ring_of(context: bytes, members: Iterable[int], graph: Graph | None) -> Ring:
    """Return the neighbours of members.

    The order on the ring is that of digests of the context, which covers the keys of all members:
    no member and no server chooses places, except by trying other keys and rosters.

    Args:
        context: Digest of session and roster.
        members: Members of the roster.
        graph: Graph of the invitation; None is a complete one.
    """
    ascending = sorted(members)
    count = len(ascending)
    if graph is None or count <= graph.neighbours + 1:
        return Ring(dict.fromkeys(ascending, ascending), threshold_of(count))
    order = sorted(ascending, key=lambda member: ring_place(context, member))
    half = graph.neighbours // 2
    circles = {
        member: sorted(order[(place + step) % count] for step in range(-half, half + 1))
        for place, member in enumerate(order)
    }
    return Ring(circles, graph.threshold, graph.threshold)
