"""Counts of keys outside any catalogue, shown from a threshold of contributors on."""

from __future__ import annotations

import os
from collections.abc import Mapping
from fractions import Fraction

from tactful_privacy.errors import ParameterError
from tactful_privacy.mechanisms._exact import Exact
from tactful_privacy.mechanisms._table import Entropy, open_share
from tactful_privacy.mechanisms.laplace import DiscreteLaplace


class ThresholdRelease:
    """Releases the noisy counts of keys whose noisy count reaches a threshold.

    For keys that no public catalogue lists: search terms, new brands. A shown key reveals that
    somebody contributed to it, so the key of a single person must stay hidden.

    Guarantee: (epsilon, delta) for adding or removing one person, `delta` being computed. The
    counts of keys that others contribute to as well have L1 sensitivity `cap`: noise of scale
    cap/epsilon. A key of this person alone passes the threshold with the probability that noise
    lifts the person's own count that far, added up over the worst way to spread `cap` contributions
    over such keys (Korolova, Kenthapadi, Mishra, Ntoulas, WWW 2009; for one contribution to each of
    kappa keys the threshold is ``1 - (kappa/epsilon) ln(2 - 2(1-delta)^(1/kappa))``).

    Assumed: one person contributes at most `cap` in all and `cell_cap` to one key. The threshold is
    on the *noisy* count; dropping small exact counts beforehand would leak them.

    Attributes:
        epsilon: Privacy loss.
        threshold: Smallest shown noisy count.
        delta: Computed delta, at most the requested one.

    Example:
        >>> words = ThresholdRelease(cap=5, epsilon="1", delta="1e-9", cell_cap=1)
        >>> words.threshold
        110
        >>> words.release({"rare": 1, "tea": 10_000}).keys()
        dict_keys(['tea'])
    """

    def __init__(
        self,
        cap: int,
        epsilon: Exact,
        delta: Exact,
        *,
        cell_cap: int | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Find the smallest threshold within delta; `ParameterError` if there is none.

        Args:
            cap: Most contributions of one person over all keys.
            epsilon: Exact; floats are refused.
            delta: Largest allowed delta, exact, such as ``"1e-9"``: well below one in the number
                of people.
            cell_cap: Most contributions of one person to one key; default `cap`. The threshold is
                lowest with 1.
            entropy: See `DiscreteLaplace`.
        """
        self._noise = DiscreteLaplace(cap, epsilon, entropy=entropy)
        self.cap, self.epsilon = cap, self._noise.epsilon
        self.cell_cap = cap if cell_cap is None else cell_cap
        if isinstance(self.cell_cap, bool) or not isinstance(self.cell_cap, int):
            raise ParameterError(f"cell_cap is {cell_cap!r}: give a positive integer")
        if not 1 <= self.cell_cap <= cap:
            raise ParameterError(f"cell_cap is {cell_cap}: it must lie between 1 and the cap {cap}")
        allowed = open_share(delta, "delta") - self._noise.delta(epsilon)
        if allowed <= 0:
            raise ParameterError(
                f"delta is {float(Fraction(delta)):.1e}, but the noise table alone has"
                f" {float(self._noise.delta(epsilon)):.1e}: allow a larger delta"
            )
        # The worst spread assumes a convex tail, which the noise has above the cell cap.
        low, high = self.cell_cap, self.cell_cap + self._noise._table.highest + 1
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self._shown(middle) <= allowed else (middle, high)
        self.threshold = high
        self.delta = self._shown(high) + self._noise.delta(epsilon)

    def release(self, counts: Mapping[str, int]) -> dict[str, int]:
        """Return the noisy counts of exact bounded counts that reach the threshold, by key."""
        keys = sorted(counts)
        noisy = [
            counts[key] + z for key, z in zip(keys, self._noise.sample(len(keys)), strict=True)
        ]
        return {k: int(y) for k, y in zip(keys, noisy, strict=True) if y >= self.threshold}

    def _shown(self, threshold: int) -> Fraction:
        """Bound the probability that a key of one person alone is shown.

        The tail is convex in the person's count, so the worst spread has keys of `cell_cap`, keys
        of 1 and at most one key in between.
        """
        table = self._noise._table
        tail = [0]  # tail[c]: weight of noise that lifts a count of c to the threshold
        for count in range(1, self.cell_cap + 1):
            edge = threshold - count - 1 - table.lowest
            below = int(table.cumulative[edge]) if edge < len(table.cumulative) else table.total
            tail.append(table.total - below)
        worst = 0
        for full in range(self.cap // self.cell_cap + 1):
            left = self.cap - full * self.cell_cap
            between = max(
                (tail[r] + (left - r) * tail[1] for r in range(1, min(left, self.cell_cap) + 1)),
                default=0,
            )
            worst = max(worst, full * tail[self.cell_cap] + between)
        return Fraction(worst, table.total)
