"""Planted bugs for the audit: each is the real pipeline with one wrong step."""

from __future__ import annotations

import math
import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.audit.panes import AmountsUnclamped, CellsForgotten
from tactful_privacy.audit.pipeline import Contribution, Output, Pipeline
from tactful_privacy.audit.totals import ContributionsForgotten, LevelsForgotten, as_kind
from tactful_privacy.counting.bounded_counts import BoundedCounts, Pane
from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.statistic import Statistic
from tactful_privacy.mechanisms._exact import Exact
from tactful_privacy.mechanisms._table import Entropy
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

_MakeNoise = Callable[[int, Fraction, Entropy], DiscreteLaplace]

_OVERLAP = 4
_BLOCK = 256
_SEED = 42


class _OtherNoise(Pipeline):
    """The pipeline with other noise than the statistic claims."""

    def __init__(self, cap: int, epsilon: Fraction, name: str, noise: _MakeNoise) -> None:
        super().__init__(cap, epsilon)
        self.name = name

        class Planted(Statistic):
            def mechanism(self, entropy: Entropy = os.urandom) -> DiscreteLaplace:
                return noise(self.sensitivity, self.epsilon, entropy)

        self._kind = Planted

    def statistic(self, keys: int) -> Statistic:
        correct = super().statistic(keys)
        return as_kind(self._kind, correct)


def low_scale(cap: int, epsilon: Fraction, percent: int) -> Pipeline:
    """Return the pipeline with a noise scale that is a percentage too low."""
    spent = Fraction(100, 100 - percent)

    def noise(sensitivity: int, claimed: Fraction, entropy: Entropy) -> DiscreteLaplace:
        return DiscreteLaplace(sensitivity, claimed * spent, entropy=entropy)

    return _OtherNoise(cap, epsilon, f"scale {percent} % low", noise)


def _seeded(sensitivity: int, epsilon: Fraction, entropy: Entropy) -> DiscreteLaplace:
    return DiscreteLaplace(sensitivity, epsilon, entropy=np.random.default_rng(_SEED).bytes)


class _ReusedBlock(DiscreteLaplace):
    """One fresh block of noise, repeated for all cells."""

    def sample(self, n: int) -> NDArray[np.int64]:
        block = super().sample(min(n, _BLOCK))
        return np.tile(block, math.ceil(n / max(1, len(block))))[:n]


def _reused(sensitivity: int, epsilon: Fraction, entropy: Entropy) -> DiscreteLaplace:
    return _ReusedBlock(sensitivity, epsilon, entropy=entropy)


class _ForgottenCap(Pipeline):
    """Contributions are counted without limit, as if the user's id always changed."""

    name = "forgotten cap"

    def counter(self, statistic: Statistic, secret: bytes) -> BoundedCounts:
        return _Uncapped(statistic, secret=secret, start=0)


class _Uncapped(BoundedCounts):
    def add(
        self, unit: str, timestamp: int, key: str, *, watermark: int = 0, amount: int = 1
    ) -> bool:
        another = f"{unit} {secrets.token_hex(8)}"
        return super().add(another, timestamp, key, watermark=watermark, amount=amount)


class _Overlap(Pipeline):
    """Sliding windows are released: a contribution is in several, but charged once."""

    name = "overlapping windows"

    def counter(self, statistic: Statistic, secret: bytes) -> BoundedCounts:
        return _Windows(statistic, secret=secret, start=0)


class _Windows(BoundedCounts):
    """Returns for each pane the sum of the last four panes."""

    def closed(self, watermark: int) -> list[Pane]:
        panes = super().closed(watermark)
        windows = [panes[max(0, i - _OVERLAP + 1) : i + 1] for i in range(len(panes))]
        return [
            Pane(w[-1].start, w[-1].end, np.sum([pane.counts for pane in w], axis=0))
            for w in windows
        ]


class _FloatNoise(Pipeline):
    """Laplace noise in floating point, published to the last bit without a ledger."""

    name = "float noise"

    def noise(self) -> Noise:
        return _FloatLaplace(self.cap, self.epsilon)

    def publish(self, contributions: Iterable[Contribution], keys: int, ledger: Path) -> Output:
        exact = self.exact(contributions, keys)
        drawn = _FloatLaplace(self.cap, self.epsilon).floats(exact.size)
        return Output(exact + drawn.reshape(exact.shape), np.ones(keys, dtype=bool))


class _FloatLaplace(DiscreteLaplace):
    """The correct distribution except for its lowest bits."""

    def __init__(self, sensitivity: int, epsilon: Exact) -> None:
        super().__init__(sensitivity, epsilon)
        self._generator = np.random.default_rng()

    def floats(self, n: int) -> NDArray[np.float64]:
        return self._generator.laplace(0.0, float(self.scale), n)

    def sample(self, n: int) -> NDArray[Any]:
        return self.floats(n)


class _SilentZeros(Pipeline):
    """Empty cells are published as zeros, without noise."""

    name = "empty cells without noise"

    def publish(self, contributions: Iterable[Contribution], keys: int, ledger: Path) -> Output:
        stream = list(contributions)
        correct, exact = super().publish(stream, keys, ledger), self.exact(stream, keys)
        return replace(correct, values=np.where(exact == 0, 0, correct.values))


class _DoubleFiring(Pipeline):
    """A pane is drawn and shown twice, as after a failover to an empty ledger."""

    name = "double firing"

    def exact(
        self, contributions: Iterable[Contribution], keys: int, restart_after: int | None = None
    ) -> NDArray[np.int64]:
        return np.tile(super().exact(contributions, keys, restart_after), (2, 1))

    def publish(self, contributions: Iterable[Contribution], keys: int, ledger: Path) -> Output:
        stream = list(contributions)
        files = [ledger.with_name(f"{ledger.name}.{secrets.token_hex(8)}") for _ in range(2)]
        first, second = (super(_DoubleFiring, self).publish(stream, keys, file) for file in files)
        return replace(first, values=np.concatenate([first.values, second.values]))


class _KeyLeak(Pipeline):
    """A key is listed only if it has contributions."""

    name = "key leak"

    def publish(self, contributions: Iterable[Contribution], keys: int, ledger: Path) -> Output:
        stream = list(contributions)
        correct, exact = super().publish(stream, keys, ledger), self.exact(stream, keys)
        return replace(correct, listed=exact.sum(axis=0) > 0)


def planted_bugs(cap: int, epsilon: Fraction) -> list[Pipeline]:
    """Return every planted bug."""
    bugs = [
        low_scale(cap, epsilon, 50),
        _ForgottenCap(cap, epsilon),
        _Overlap(cap, epsilon),
        _FloatNoise(cap, epsilon),
        _SilentZeros(cap, epsilon),
        _DoubleFiring(cap, epsilon),
        _KeyLeak(cap, epsilon),
        _OtherNoise(cap, epsilon, "seeded noise", _seeded),
        _OtherNoise(cap, epsilon, "reused noise", _reused),
        LevelsForgotten(cap, epsilon),
    ]
    for planted in (ContributionsForgotten, AmountsUnclamped, CellsForgotten):
        if planted is CellsForgotten and cap == 1:
            continue  # the noise for one cell is right
        with suppress(ParameterError):  # cannot be published with this cap
            bug = planted(cap, epsilon)
            bug.noise()
            bugs.append(bug)
    return bugs
