"""Noise for counts by three backends: our tables, OpenDP and diffprivlib."""

from __future__ import annotations

import math
import os
from fractions import Fraction
from importlib import import_module
from typing import Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from tactful_privacy.errors import BackendError, ParameterError
from tactful_privacy.mechanisms._exact import Exact, fraction
from tactful_privacy.mechanisms._table import DEFAULT_CONFIDENCE, Entropy
from tactful_privacy.mechanisms.laplace import (
    MAX_SCALE,
    MAX_WIDE_SCALE,
    DiscreteLaplace,
    WideLaplace,
    check_covered,
    checked_scale,
)

Backend = Literal["table", "opendp", "diffprivlib"]


class Noise(Protocol):
    """Discrete Laplace noise of scale sensitivity / epsilon for the cells of a table.

    Independent draws added to every cell of an integer table give a release that is
    (epsilon, delta(epsilon))-private for tables up to `sensitivity` apart in L1.
    """

    sensitivity: int
    epsilon: Fraction
    scale: Fraction

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n fresh independent draws, ``[n]``; a negative n raises `ParameterError`."""

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k)."""

    def delta(self, epsilon: Exact) -> Fraction:
        """Return the delta for a privacy loss of `epsilon` or more."""

    def interval(self, confidence: Exact = DEFAULT_CONFIDENCE) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence."""


def laplace_noise(
    sensitivity: int, epsilon: Exact, backend: Backend = "table", *, entropy: Entropy = os.urandom
) -> Noise:
    """Return discrete Laplace noise, also called the two-sided geometric mechanism.

    Args:
        sensitivity: L1 sensitivity, a positive integer.
        epsilon: Exact; floats are refused.
        backend: ``table``, the default, is `DiscreteLaplace` or, beyond its largest scale,
            `WideLaplace`: delta is computed from the sampled table. ``opendp`` and ``diffprivlib``
            are `OpenDPLaplace` and `DiffprivlibGeometric`.
        entropy: See `DiscreteLaplace`. The other libraries use their own entropy.

    Raises:
        ParameterError: A parameter is out of range, there is no such backend, or entropy was given
            to a backend that uses its own.
        BackendError: The library is not installed.
    """
    if backend == "table":
        scale = checked_scale(sensitivity, epsilon, largest=MAX_WIDE_SCALE)
        kind = DiscreteLaplace if scale <= MAX_SCALE else WideLaplace
        return kind(sensitivity, epsilon, entropy=entropy)
    if entropy is not os.urandom:
        raise ParameterError(
            f"the backend {backend!r} uses its own entropy: leave out the argument entropy"
        )
    if backend == "opendp":
        return OpenDPLaplace(sensitivity, epsilon)
    if backend == "diffprivlib":
        return DiffprivlibGeometric(sensitivity, epsilon)
    raise ParameterError(f"there is no noise backend {backend!r}: table, opendp or diffprivlib")


class _LibraryNoise:
    """Base of the noise of other libraries, with the ideal distribution."""

    def __init__(self, sensitivity: int, epsilon: Exact) -> None:
        self.scale = checked_scale(sensitivity, epsilon, largest=MAX_SCALE)
        self.sensitivity = sensitivity
        self.epsilon = fraction(epsilon, "epsilon")
        self._distribution = DiscreteLaplace(sensitivity, epsilon)

    def probability(self, k: int) -> Fraction:
        """Return P(Z = k) of the ideal distribution, to within 2^-59."""
        return self._distribution.probability(k)

    def interval(self, confidence: Exact = DEFAULT_CONFIDENCE) -> int:
        """Return the smallest h with P(|Z| <= h) >= confidence."""
        return self._distribution.interval(confidence)


class OpenDPLaplace(_LibraryNoise):
    """Discrete Laplace noise by OpenDP's ``make_laplace``, with its own proof.

    Guarantee: pure epsilon, as computed by OpenDP's privacy map. Reference for the table: about a
    hundred times slower, and independent of it in theory and code. Needs the extra ``noise``.
    """

    def __init__(self, sensitivity: int, epsilon: Exact) -> None:
        """Build the measurement; `ParameterError` for a parameter out of range.

        Args:
            sensitivity: L1 sensitivity, a positive integer.
            epsilon: Exact; floats are refused.

        Raises:
            BackendError: OpenDP is not installed.
        """
        super().__init__(sensitivity, epsilon)
        dp = _library("opendp.prelude", "OpenDP")
        dp.enable_features("contrib")
        space = dp.vector_domain(dp.atom_domain(T="i64")), dp.l1_distance(T="i64")
        scale = float(self.scale)
        # A scale rounded down would cost a little more than epsilon.
        while Fraction((measurement := dp.m.make_laplace(*space, scale)).map(sensitivity)) > (
            self.epsilon
        ):
            scale = math.nextafter(scale, math.inf)
        self._measurement = measurement

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n >= 0 fresh independent draws, ``[n]``."""
        return np.array(self._measurement([0] * _checked(n)), dtype=np.int64).reshape(n)

    def delta(self, epsilon: Exact) -> Fraction:
        """Return 0, for an epsilon that is that of the noise or more, and at most 40."""
        check_covered(epsilon, self.epsilon)
        return Fraction(0)


class DiffprivlibGeometric(_LibraryNoise):
    """Two-sided geometric noise by diffprivlib's ``Geometric``.

    Guarantee: (epsilon, delta). The library rounds a logarithm of a 53-bit uniform number, so the
    probability of each of the about 75 * scale possible values is off by a few units of 2^-53, and
    no value lies beyond 37 * scale; `delta` bounds the effect. Unlike the table's delta it is not
    computed from the sampled distribution, and assumes that the C library's logarithm is right to
    the last place. Other mechanisms of diffprivlib draw floats whose low bits reveal the count, and
    are not offered here. Needs the extra ``noise``.
    """

    def __init__(self, sensitivity: int, epsilon: Exact) -> None:
        """Build the mechanism; see `OpenDPLaplace` for parameters and errors."""
        super().__init__(sensitivity, epsilon)
        mechanisms = _library("diffprivlib.mechanisms", "diffprivlib")
        self._mechanism = mechanisms.Geometric(
            epsilon=math.nextafter(float(self.epsilon), 0.0), sensitivity=sensitivity
        )

    def sample(self, n: int) -> NDArray[np.int64]:
        """Return n >= 0 fresh independent draws, ``[n]``, some 80,000 a second."""
        draws = (self._mechanism.randomise(0) for _ in range(_checked(n)))
        return np.fromiter(draws, dtype=np.int64, count=n)

    def delta(self, epsilon: Exact) -> Fraction:
        """Return (1 + e^epsilon) * sensitivity * 150 * scale * 2^-53 at its own epsilon.

        Each of the at most `sensitivity` cells that differ is within 150 * scale * 2^-53 of the
        ideal distribution in total variation. The given epsilon is that of the noise or more, and
        at most 40.
        """
        check_covered(epsilon, self.epsilon)
        cells = Fraction(math.ceil(1 + math.exp(self.epsilon))) * self.sensitivity
        return cells * 150 * max(Fraction(1), self.scale) / 2**53


def _checked(n: int) -> int:
    if n < 0:
        raise ParameterError(f"n is {n}: give 0 or more draws")
    return n


def _library(module: str, name: str) -> Any:
    try:
        return import_module(module)
    except ImportError as error:
        raise BackendError(
            f"{name} is not installed: run `pip install 'tactful[noise]'`, or use the backend table"
        ) from error
