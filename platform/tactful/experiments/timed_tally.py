"""Count the outcomes of a rollout or experiment, so that they are known for earlier times, too."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tactful.experiments.tally import PersonOutcome, Tally

Floats = NDArray[np.float64]

_FIELDS = len(PersonOutcome._fields)


@dataclass(frozen=True)
class OutcomesUntil:
    """Outcomes of all recommendations that were over by a time."""

    at: int  # epoch milliseconds
    arms: Mapping[str, Floats]  # by arm, rows of `PersonOutcome`, ``[users, 7]``


class TimedTally(Tally):
    """Counts like `Tally`, and keeps the outcomes of each user by time.

    ```text
    _steps   (12, "user:ada") → PersonOutcome of her recommendations over in step 12
    ```
    """

    def __init__(self, experiment: str, *, step: int, **options: Any) -> None:
        """Start empty; `step` is the resolution of times in milliseconds."""
        super().__init__(experiment, **options)
        self._step = step
        self._steps: dict[tuple[int, str], PersonOutcome] = {}

    def until_each(self, points: int) -> Iterator[OutcomesUntil]:
        """Yield the outcomes up to at most `points` times, oldest first, ending with all of them.

        Users who were shown several arms are left out at all times.
        """
        arms = {person: arm for person, arm in self._arms.items() if arm is not None}
        numbers = {person: number for number, person in enumerate(arms)}
        entries = sorted(
            (step, numbers[person], outcome)
            for (step, person), outcome in self._steps.items()
            if person in numbers
        )
        if not entries:
            return
        steps = np.array([step for step, _, _ in entries])
        people = np.array([number for _, number, _ in entries])
        values = np.array([outcome for _, _, outcome in entries], np.float64)
        names = np.array([*arms.values()])
        totals = np.zeros((len(numbers), _FIELDS))
        ends = np.unique(steps)
        kept = ends[np.unique(np.linspace(len(ends) - 1, 0, min(points, len(ends))).astype(int))]
        begin = 0
        for last in kept:
            end = int(np.searchsorted(steps, last, side="right"))
            np.add.at(totals, people[begin:end], values[begin:end])
            begin, seen = end, totals[:, 0] > 0
            yield OutcomesUntil(
                (int(last) + 1) * self._step,
                {str(arm): totals[seen & (names == arm)] for arm in np.unique(names)},
            )

    def _count(self, person: str, over: int, outcome: PersonOutcome) -> None:
        super()._count(person, over, outcome)
        place = over // self._step, person
        known = self._steps.get(place)
        self._steps[place] = outcome if known is None else known.plus(outcome)
