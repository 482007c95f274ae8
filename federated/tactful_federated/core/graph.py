"""Sparse graphs of a secure sum: each member masks and shares with its neighbours only.

Bell, Bonawitz, Gascón, Lepoint, Raykova, "Secure single-server aggregation with (poly)logarithmic
overhead", CCS 2020. Members stand on a ring in random order, and the neighbours of one are the
k / 2 on either side (a Harary graph).

The paper's graphs are safe if drop-outs do not depend on the graph. Here the server may choose them
after it knows the graph: it could declare all neighbours of one member dropped. Therefore members
open nothing unless each survivor has t surviving neighbours or more, with t > k / 2 + c, where no
k / 2 consecutive places hold more than c corrupt members. Were the honest survivors not connected,
one of them, u, would have no honest survivor among the k / 2 places on one side. Then u has at most
k / 2 surviving neighbours on the other side and c on this one, fewer than t: a contradiction. The
masks hide all but the sum of all honest survivors, whatever members the server drops. Likewise at
most 2 c < t corrupt neighbours hold shares of a member, too few for its secrets.
"""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Final

import msgspec
import numpy as np
from numpy.typing import NDArray

from tactful_federated.errors import SettingsError, require

SECURITY: Final = 80
"""Bits of security. The server can try 2^40 rosters and fail with a probability above 1 - 2^-40."""

CORRECTNESS: Final = 20
"""Bits of the probability that random drop-outs of the planned share end a sum."""


class Graph(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Neighbours of each member of a secure sum.

    A roster of `neighbours` + 1 members or fewer is complete.

    Attributes:
        neighbours: k, an even number.
        threshold: t, the surviving neighbours that each survivor needs, and the shares that open
            a secret.
    """

    neighbours: int
    threshold: int


@lru_cache(maxsize=32)
def sparse_graph(
    members: int,
    corrupt: float,
    dropped: float,
    *,
    security: int = SECURITY,
    correctness: int = CORRECTNESS,
) -> Graph | None:
    """Return the graph with the fewest neighbours, None if it would be complete.

    With H(n, m, d) the number of marked among d of n places, m of them marked (hypergeometric):

        n P[H(n, corrupt n, k/2) > c] <= 2^-security         for the n windows of k/2 places
        n P[H(n, n - dropped n, k) < t] <= 2^-correctness    with t = k/2 + c + 1

    The paper has the same two bounds for t between the corrupt and the surviving neighbours; its
    bound on connectivity is replaced by t > k/2 + c.

    Args:
        members: Most members of a sum, n.
        corrupt: Share of members that collude with the server, 0 to below 1/3.
        dropped: Share of members that drop out after they joined, 0 to below 1/3.
        security: Bits of security.
        correctness: Bits of the probability of a failure by drop-outs.

    Raises:
        SettingsError: A share is out of range.
    """
    for name, share in (("corrupt", corrupt), ("dropped", dropped)):
        require(0 <= share < 1 / 3, f"{name} is {share:g}: give 0 to below 1/3")
    bad, left = math.floor(corrupt * members + 1e-9), math.ceil((1 - dropped) * members - 1e-9)
    most_log = -security * math.log(2) - math.log(members)
    rare_log = -correctness * math.log(2) - math.log(members)
    for half in range(1, (members - 1) // 2):
        most = int(np.argmax(_log_above(members, bad, half) <= most_log))
        threshold = half + most + 1
        if threshold <= 2 * half and _log_below(members, left, 2 * half)[threshold] <= rare_log:
            return Graph(neighbours=2 * half, threshold=threshold)
    return None


def check_graph(graph: Graph) -> None:
    """Raise `SettingsError` unless a graph is safe, whoever the server says dropped out."""
    neighbours, threshold = graph.neighbours, graph.threshold
    require(
        neighbours >= 2 and neighbours % 2 == 0 and neighbours < 2 * threshold <= 2 * neighbours,
        f"a graph of {neighbours} neighbours and threshold {threshold} is not safe: the neighbours"
        " must be even, and the threshold more than half of them, at most all",
    )


def require_sparse(graph: Graph | None, members: int) -> Graph:
    """Return a graph.

    Raises:
        SettingsError: There is none: the complete graph is as good.
    """
    if graph is None:
        raise SettingsError(
            f"no sparse graph of {members} members is safe with these shares of corrupt and dropped"
            " ones: give smaller shares, or larger sums"
        )
    return graph


def _log_masses(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """Return log P[H(total, marked, drawn) = i] for i from 0 to `drawn`."""
    log_factorial = np.array([math.lgamma(i + 1) for i in range(total + 1)])

    def choose(n: int, k: NDArray[np.int64]) -> NDArray[np.float64]:
        possible = (k >= 0) & (k <= n)
        inside = np.clip(k, 0, n)
        values = log_factorial[n] - log_factorial[inside] - log_factorial[n - inside]
        return np.where(possible, values, -np.inf)

    found = np.arange(drawn + 1)
    whole = choose(total, np.array([drawn]))
    masses: NDArray[np.float64] = choose(marked, found) + choose(total - marked, drawn - found)
    return masses - whole


def _log_above(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """Return log P[H > i] for i from 0 to `drawn`."""
    tails = np.logaddexp.accumulate(_log_masses(total, marked, drawn)[::-1])[::-1]
    return np.append(tails[1:], -np.inf)


def _log_below(total: int, marked: int, drawn: int) -> NDArray[np.float64]:
    """Return log P[H < i] for i from 0 to `drawn`."""
    heads = np.logaddexp.accumulate(_log_masses(total, marked, drawn))
    return np.append(-np.inf, heads[:-1])
