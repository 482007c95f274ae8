"""Linear contextual bandit with differentially private models.

The sums of LinUCB are released through a binary tree over batches; every node has
discrete Gaussian noise that is drawn once (Shariff, Sheffet, "Differentially Private Contextual
Linear Bandits", NeurIPS 2018, arXiv 1810.00068; Chan, Shi, Song 2011 for the tree). Choices use
only the released sums and the features of the person who is served.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from fractions import Fraction
from typing import Self

import msgspec
import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import Choice, Rule, Thompson, UpperConfidence, require_share
from tactful_bandits.policies.codec import pack_policy, settings_of, unpack
from tactful_bandits.policies.linear import LinearModels, checked_features, require_shape
from tactful_privacy.mechanisms.gaussian import DiscreteGaussian

_FINEST, _COARSEST = 1024, 16
_SETTINGS = ("arms", "features", "batches", "contributions", "rule", "ridge", "explore")
_LARGEST_SIGMA = 20_000  # limits the time to build the noise table to half a second


class _State(msgspec.Struct, frozen=True, forbid_unknown_fields=True, tag="private-linear"):
    arms: int
    features: int
    rho: tuple[int, int]
    batches: int
    contributions: int
    rule: UpperConfidence | Thompson
    ridge: float
    explore: float
    closed: int
    counts: dict[str, int]
    sums: dict[str, bytes]
    recorded: dict[str, int] = {}


class PrivateLinearBandit:
    """Contextual bandit whose linear models hide each contributor.

    Guarantee: all choices together are rho-zCDP with respect to one contributor (joint differential
    privacy): the choices for everybody else are nearly independent of all decisions and rewards of
    one contributor. The contributor's own choices depend on own features, of course. Neighbours:
    the same run with all of one contributor's decisions left out. Holds against people who adapt to
    the choices they get, as every node has noise of its own (Denisov, McMahan, Rush, Smith,
    Guha Thakurta, NeurIPS 2022, arXiv 2202.08312). `delta` includes the noise's own error.

    Assumed: batches are closed by a public clock, never by their number of decisions; the key of
    a contributor belongs to one person; only this class gets features and rewards; a state from
    before a batch was closed is never restored, which would draw the noise of the batch again:
    store `to_bytes` after `close` and before the next choice.

    Features longer than norm 1 are scaled to norm 1, rewards clipped to [-1, 1].

    Attributes:
        batches: Number of batches that can be closed, in all.
        contributions: Number of decisions of one contributor that are learnt, in all; more are
            refused.
        rho: Privacy loss of the whole run.
        levels: Number of nodes that contain one decision.
        sigma: Standard deviation of the noise of a sum, in units of one decision's largest part.
        closed: Number of batches closed so far.
    """

    def __init__(
        self,
        arms: int,
        features: int,
        *,
        rho: Fraction,
        batches: int,
        contributions: int = 1,
        rule: Rule | None = None,
        ridge: float = 1.0,
        explore: float = 0.0,
        entropy: Callable[[int], bytes] = os.urandom,
    ) -> None:
        """Create a policy without observations, by default of Thompson sampling.

        `tactful_privacy.DiscreteGaussian` converts rho to epsilon and delta. `entropy` is the
        source of random bytes for the noise. Raise PolicyError if that would be too large to be of
        use.
        """
        require_shape(arms, features, ridge)
        if batches < 1 or contributions < 1 or not rho > 0:
            raise PolicyError("rho must be above 0, batches and contributions at least 1")
        self.arms, self.features = arms, features
        self.batches, self.contributions = int(batches), int(contributions)
        self.rho = Fraction(rho)
        self.rule: Rule = rule if rule is not None else Thompson()
        self.ridge, self.explore = float(ridge), require_share(explore)
        self.levels = self.batches.bit_length()
        self.sigma = self.contributions * math.sqrt(self.levels / self.rho)
        self._grid = _grid_for(self.sigma)
        self._noise = DiscreteGaussian(self.sensitivity_squared, self.rho, entropy=entropy)
        self.closed = 0
        self._counts: dict[str, int] = {}
        self._recorded: dict[str, int] = {}  # decisions in the open batch, by contributor
        self._upper = np.triu_indices(features)
        # Cells of a row: upper triangle of x xᵀ, then r x. Layers: one per level of the tree.
        cells = len(self._upper[0]) + features
        self._open = np.zeros((arms, cells), dtype=np.int64)
        self._exact = np.zeros((self.levels, arms, cells), dtype=np.int64)
        self._noisy = np.zeros((self.levels, arms, cells), dtype=np.int64)
        self._models = self._release()

    @property
    def sensitivity_squared(self) -> int:
        """Squared L2 sensitivity of all nodes to one contributor, in steps of the grid.

        Products of one decision with ``|x| <= g`` and ``|r| <= g`` have the squared norm
        ``(|x|⁴ + Σ x_i⁴) / 2 + r² |x|² <= 2 g⁴``; several decisions of one person may have the same
        direction and fall into the same node, so they add up before they are squared; each lies in
        one node of every level.
        """
        return 2 * self.contributions**2 * self._grid**4 * self.levels

    def delta(self, epsilon: Fraction) -> Fraction:
        """Compute a delta for which the run is (epsilon, delta)-private, epsilon in [0, 40]."""
        cells = self.contributions * self.levels * self._open.shape[1]
        return self._noise.delta(epsilon, cells=cells)

    def choose(
        self,
        features: ArrayLike,
        rng: np.random.Generator,
        *,
        penalties: ArrayLike | None = None,
        allowed: ArrayLike | None = None,
    ) -> Choice:
        """Choose an arm from the released models, see `LinearBandit.choose`."""
        x = self._scaled(features)
        return self._models.choose(x, self.rule, self.explore, rng, penalties, allowed)

    def record(self, contributor: str, arm: int, features: ArrayLike, reward: float) -> bool:
        """Add a decision to the open batch; choices use it only after the batch is closed.

        The contributor is a key of the person, best a pseudonym. Return False if the contributor
        has used all `contributions`: nothing is learnt then.
        """
        terms = self._terms(arm, features, reward)
        count = self._counts.get(contributor, 0)
        if count >= self.contributions:
            return False
        self._counts[contributor] = count + 1
        self._recorded[contributor] = self._recorded.get(contributor, 0) + 1
        self._open[arm] += terms
        return True

    def forget(self, contributor: str, decisions: list[tuple[int, ArrayLike, float]]) -> None:
        """Remove a contributor's decisions from the open batch, exactly.

        Give arm, features and reward of each, as recorded. Those of closed batches stay inside
        their noise: a second release without them would reveal the difference. The key stays with
        its count: a returning contributor has only the rest of `contributions`.

        More decisions than the contributor has in the open batch, or one that cannot have been
        recorded, raise PolicyError, and nothing is unlearnt: a second removal, or one from a closed
        batch, would move the sums by more than the noise hides.
        """
        left = self._recorded.get(contributor, 0) - len(decisions)
        if left < 0:
            raise PolicyError(
                "the contributor has fewer decisions in the open batch than were given:"
                " nothing is unlearnt"
            )
        parts = [(arm, self._terms(arm, features, reward)) for arm, features, reward in decisions]
        for arm, terms in parts:
            self._open[arm] -= terms
        if decisions:
            self._recorded[contributor] = left

    def close(self) -> None:
        """Close the batch and release it together with all earlier batches.

        All `batches` are covered by the guarantee, and no more: then PolicyError.
        """
        if self.closed >= self.batches:
            raise PolicyError(f"all {self.batches} batches are closed: create a new policy")
        self.closed += 1
        level = (self.closed & -self.closed).bit_length() - 1
        self._exact[level] = self._exact[:level].sum(axis=0) + self._open
        noise = self._noise.sample(self._open.size).reshape(self._open.shape)
        self._noisy[level] = self._exact[level] + noise
        self._exact[:level] = 0
        self._open[:] = 0
        self._recorded = {}
        self._models = self._release()

    def to_bytes(self) -> bytes:
        """Serialise the policy; the bytes hold exact sums and contributors: protect them."""
        sums = {name: array.astype("<i8").tobytes() for name, array in self._arrays().items()}
        rho = self.rho.numerator, self.rho.denominator
        parts = {"counts": self._counts, "sums": sums, "recorded": self._recorded}
        return pack_policy(_State, self, rho=rho, **parts)

    @classmethod
    def from_bytes(cls, data: bytes, *, entropy: Callable[[int], bytes] = os.urandom) -> Self:
        """Restore the policy of `to_bytes`; raise PolicyError if it is damaged."""
        state = unpack(data, _State)
        rho = Fraction(*state.rho)
        policy = cls(rho=rho, entropy=entropy, **settings_of(state, _SETTINGS))
        for name, array in policy._arrays().items():
            raw = state.sums.get(name, b"")
            if len(raw) != array.nbytes or not 0 <= state.closed <= state.batches:
                raise PolicyError("the state of this policy does not fit its shape")
            array[...] = np.frombuffer(raw, dtype="<i8").reshape(array.shape)
        policy.closed, policy._counts = state.closed, dict(state.counts)
        policy._recorded = dict(state.recorded)
        policy._models = policy._release()
        return policy

    def _arrays(self) -> dict[str, NDArray[np.int64]]:
        return {"open": self._open, "exact": self._exact, "noisy": self._noisy}

    def _release(self) -> LinearModels:
        """Compute the models of all closed batches from noisy sums only."""
        used = [level for level in range(self.levels) if self.closed >> level & 1]
        total = self._noisy[used].sum(axis=0) / self._grid**2
        split = len(self._upper[0])
        gram = np.zeros((self.arms, self.features, self.features))
        gram[:, self._upper[0], self._upper[1]] = total[:, :split]
        gram[:, self._upper[1], self._upper[0]] = total[:, :split]
        # The noise of a symmetric matrix has a norm of about twice sigma times the root of its
        # size. The shift by that norm, and a lower bound, make the matrix positive definite.
        shift = self.ridge + 2 * self.sigma * math.sqrt(len(used) * self.features)
        values, vectors = np.linalg.eigh(gram)
        values = np.maximum(values + shift, self.ridge)
        inverse = np.einsum("aij,aj,akj->aik", vectors, 1 / values, vectors)
        coefficients = np.einsum("aij,aj->ai", inverse, total[:, split:])
        return LinearModels(np.ascontiguousarray(inverse), coefficients)

    def _scaled(self, features: ArrayLike) -> NDArray[np.float64]:
        x = checked_features(features, self.features)
        return x / max(1.0, float(np.linalg.norm(x)))

    def _terms(self, arm: int, features: ArrayLike, reward: float) -> NDArray[np.int64]:
        if not 0 <= arm < self.arms:
            raise PolicyError(f"arm {arm}: there are {self.arms}, counted from 0")
        if not math.isfinite(reward):
            raise PolicyError("the reward is not finite")
        whole = np.rint(self._scaled(features) * self._grid).astype(np.int64)
        while int(whole @ whole) > self._grid**2:  # rounding may exceed the promised norm
            longest = int(np.abs(whole).argmax())
            whole[longest] -= np.sign(whole[longest])
        gain = round(min(max(reward, -1.0), 1.0) * self._grid)
        products = whole[:, None] * whole
        return np.concatenate([products[self._upper], whole * gain])


def _grid_for(sigma: float) -> int:
    grid = _FINEST
    while grid**2 * sigma > _LARGEST_SIGMA:
        grid //= 2
    if grid < _COARSEST:
        raise PolicyError(
            f"the noise of a sum would be that of {sigma:.0f} decisions: increase rho, close fewer"
            " batches, or take fewer contributions"
        )
    return grid
