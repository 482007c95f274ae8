"""Looks at a rollout that see nothing but released counts.

A look releases, for each arm, how many people took something from the first list they were shown in
the stage, and how many did not, of those whose first list is over since the look before. Each count
gets discrete Laplace noise of scale ``1 / ε``.

Guarantee: one person (one key of the log: a user, or a device that nobody has logged in on) stands
in one count of one look of a stage, so all looks of a stage together are ε-differentially private
for whoever is added or removed; a rollout costs ε for each stage that it begins. Whatever a look
says, rolls back or holds is computed from these counts. Nobody's history is assumed to be
independent of anybody's. Who takes consent to measurement back and gives it again, or is erased and
comes again, may be counted twice in a stage; so may be whose first list retention took from the log
before the stage was over, if the server was started anew since.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

from tactful.experiments.definitions import CHANGE, CONTROL
from tactful.experiments.readout import FirstList
from tactful_bandits.analysis.noisy_samples import ReleasedProportion, units_behind_noise
from tactful_bandits.rollouts.model import StageObservations
from tactful_privacy.mechanisms.backends import Noise
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

Released = Mapping[str, tuple[int, int]]
"""By arm: noisy counts of the people who took something, and of those who did not."""

METRIC = "takers"
"""What such looks can judge."""

LOOKS = 24
"""Of a stage, about: noise adds up look by look."""


def noise_of(epsilon: float) -> DiscreteLaplace:
    """The noise of one count, by the decimal number that a definition says."""
    return DiscreteLaplace(1, str(epsilon))


def release(firsts: Sequence[FirstList], noise: Noise) -> dict[str, tuple[int, int]]:
    """Release what one look may see; to be drawn once for each span of time.

    Args:
        firsts: of the people whose first list is over since the look before.
        noise: of one count.
    """
    counts = Counter((first.arm, first.took) for first in firsts)
    drawn = noise.sample(4).tolist()
    return {
        arm: (counts[arm, True] + drawn[2 * number], counts[arm, False] + drawn[2 * number + 1])
        for number, arm in enumerate((CONTROL, CHANGE))
    }


def observations(looks: Sequence[Released], variance: float, share: float) -> StageObservations:
    """What the looks of a stage have released, for `tactful_bandits.judge_rollout`.

    Args:
        looks: of the stage so far.
        variance: of the noise in one count.
        share: of the people who should get the change.
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
