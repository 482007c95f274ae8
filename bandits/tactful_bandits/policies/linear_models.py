"""Linear reward models of the arms: prediction with uncertainty, and choice."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from tactful_bandits.errors import PolicyError
from tactful_bandits.policies.choice import (
    Choice,
    Rule,
    UpperConfidence,
    choose_best,
    choose_winner,
)
from tactful_bandits.policies.memory import require_small

_MOST_CELLS = 20_000_000


class LinearModels:
    """One linear model per arm.

    Attributes:
        inverse: ``A⁻¹`` of each arm, ``[arms, features, features]``: the covariance of its
            coefficients for noise of variance 1. It may be changed in place.
        coefficients: ``θ`` of each arm, ``[arms, features]``.
    """

    def __init__(self, inverse: NDArray[np.float64], coefficients: NDArray[np.float64]) -> None:
        """Store both without a copy; `inverse` must be contiguous."""
        self.inverse, self.coefficients = inverse, coefficients
        self._arms, self._features = coefficients.shape
        # A view: one product with a tall matrix is faster than one product per arm.
        self._flat = inverse.reshape(self._arms * self._features, self._features)

    def predict(self, features: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Compute each arm's mean reward and standard deviation for noise variance 1.

        Raises:
            PolicyError: The features have another shape, are not finite or exceed the range.
        """
        x = checked_features(features, self._features)
        spread = (self._flat @ x).reshape(self._arms, self._features) @ x
        # A tiny variance may be negative after rounding.
        deviations: NDArray[np.float64] = np.sqrt(np.maximum(spread, 0.0))
        means: NDArray[np.float64] = self.coefficients @ x
        return means, deviations

    def choose(
        self,
        features: ArrayLike,
        rule: Rule,
        explore: float,
        rng: np.random.Generator,
        penalties: ArrayLike | None,
        allowed: ArrayLike | None,
    ) -> Choice:
        """Choose an arm; see `LinearBandit.choose`.

        Raises:
            PolicyError: The features or penalties have another shape or are not finite, or no arm
                is allowed.
        """
        means, deviations = self.predict(features)
        if penalties is not None:
            means = means - checked_penalties(penalties, self._arms)
        mask = None if allowed is None else np.asarray(allowed, dtype=np.bool_)
        if isinstance(rule, UpperConfidence):
            return choose_best(means + rule.width * deviations, explore, rng, mask)
        draws = rng.standard_normal((rule.draws, self._arms))
        draws *= rule.scale * deviations
        draws += means
        return choose_winner(draws, explore, rng, mask)


def checked_penalties(penalties: ArrayLike, arms: int) -> NDArray[np.float64]:
    """Validate the penalties, which are subtracted from the arms' scores, ``[arms]``.

    Raises:
        PolicyError: The shape differs, or a value is not finite.
    """
    values = np.asarray(penalties, dtype=np.float64)
    # A NaN would win every choice: argmax returns it.
    if values.shape != (arms,) or not np.isfinite(values).all():
        raise PolicyError(f"penalties must be {arms} finite numbers, one for each arm")
    return values


def checked_features(features: ArrayLike, length: int) -> NDArray[np.float64]:
    """Validate a feature vector ``[length]``.

    Raises:
        PolicyError: The shape differs, or a value is NaN, infinite or beyond `LARGEST`.
    """
    x = np.asarray(features, dtype=np.float64)
    if x.shape != (length,):
        raise PolicyError(f"features have shape {x.shape}, not [{length}]")
    require_small(x, "features")
    return x


def require_shape(arms: int, features: int, ridge: float, periods: int = 1) -> None:
    """Check the dimensions and the ridge of a linear policy.

    Raises:
        PolicyError: There are no arms or features, too many, or the ridge is not above 0.
    """
    if arms < 1 or features < 1 or arms * features**2 * periods > _MOST_CELLS:
        raise PolicyError(
            f"{arms} arms of {features} features in {periods} periods: give at least one of each,"
            f" and at most {_MOST_CELLS:,} for arms * features² * periods"
        )
    if not 0 < ridge < float("inf"):
        raise PolicyError(f"ridge is {ridge}: it must be finite and above 0")
