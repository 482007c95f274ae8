"""Looks at a rollout that use only released counts.

A look releases, for each arm, how many users took something from their first recommendation in the
stage, and how many did not, of those whose first recommendation is over since the look before. Each
count gets discrete Laplace noise of scale `1 / ε`.

Guarantee: one user (one key of the log: a user, or a device without a login) stands in one count of
one look of a stage, so all looks of a stage together are ε-differentially private for adding or
removing a user; a rollout costs ε for each stage that it begins. All results, rollbacks and holds
of a look are computed from these counts. Histories are not assumed to be independent. A user who
withdraws consent to measurement and gives it again, or is erased and returns, may be counted twice
in a stage; so may a user whose first recommendation left the log by retention before the stage was
over, if the server was restarted since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tactful.experiments.definitions import CHANGE, CONTROL
from tactful.experiments.tally import FirstList
from tactful_bandits.analysis.noisy_samples import ReleasedProportion, units_behind_noise
from tactful_bandits.rollouts.lifecycle import StageObservations
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

Released = Mapping[str, tuple[int, int]]
"""By arm: noisy counts of the users who took something, and of those who did not."""

METRIC = "takers"
"""The metric of such looks."""

LOOKS = 24
"""Looks of a stage, about: noise adds up look by look."""


def noise_of(epsilon: float) -> DiscreteLaplace:
    """Return the noise of one count at the epsilon of a definition."""
    return DiscreteLaplace(1, str(epsilon))


def release(firsts: Sequence[FirstList], noise: Noise) -> dict[str, tuple[int, int]]:
    """Release the counts of one look; to be drawn once for each span of time.

    The first recommendations are those that are over since the look before.
    """
    counts = Counter((first.arm, first.took) for first in firsts)
    drawn = noise.sample(4).tolist()
    return {
        arm: (counts[arm, True] + drawn[2 * number], counts[arm, False] + drawn[2 * number + 1])
        for number, arm in enumerate((CONTROL, CHANGE))
    }


def observations(looks: Sequence[Released], variance: float, share: float) -> StageObservations:
    """Sum the released counts of a stage for `tactful_bandits.judge_rollout`.

    `variance` is that of the noise in one count, `share` that of the users who should get the
    change.
    """
    arms = []
    for arm in (CONTROL, CHANGE):
        took, not_taken = (sum(look[arm][cell] for look in looks) for cell in (0, 1))
        if took + not_taken < 2:
            return StageObservations((0, 0), {METRIC: None})
        noise = len(looks) * variance
        arms.append(ReleasedProportion(took, not_taken, noise, noise))
    control, change = arms
    units = units_behind_noise(control, change, share) if share < 1 else (0, 0)
    return StageObservations(units, {METRIC: (control, change)})
