"""Five numbers of a user are all that a fit reads of the visits."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tactful.lifecycle.sample import VisitSample

HORIZON = 30
days_of_users = st.lists(st.sets(st.integers(0, 200)).map(sorted), max_size=8)


@given(days_of_users, st.integers(0, 220))
def test_visits_and_outcomes_are_those_of_the_days(users: list[list[int]], today: int) -> None:
    sample = VisitSample(today, HORIZON, random.Random(0))
    for days in users:
        sample.add(days)
    known = [seen for days in users if (seen := [day for day in days if day <= today])]
    rows = [(len(days) - 1, days[-1] - days[0], today - days[0]) for days in known]
    assert [*zip(*sample.visits, strict=True)] == rows
    begin = today - HORIZON
    earlier = [[day for day in days if day <= begin] for days in known]
    visits, returned = sample.outcomes
    rows = [(len(it) - 1, it[-1] - it[0], begin - it[0]) for it in earlier if it]
    assert [*zip(*visits, strict=True)] == rows
    both = zip(known, earlier, strict=True)
    assert returned.tolist() == [days[-1] > begin for days, it in both if it]
    assert sample.seen == len(known)


def test_a_full_sample_is_uniform() -> None:
    """Each of 300 users is in a fifth of 100 samples of 60."""
    counts = np.zeros(300)
    rng = random.Random(3)
    for _ in range(100):
        sample = VisitSample(2_000, HORIZON, rng, most=60)
        for user in range(300):
            sample.add([user, 1_500])
        drawn = 2_000 - sample.visits.age.astype(int)
        assert len({*drawn}) == 60 and sample.seen == 300
        counts[drawn] += 1
    # Chi-square with 299 degrees of freedom; 0.8 of it, since no user is drawn twice in a sample.
    assert 180 < ((counts - 20) ** 2 / (20 * 0.8)).sum() < 420
    assert abs(counts[:60].mean() - 20) < 3 and abs(counts[-60:].mean() - 20) < 3


def test_a_price_counts_of_every_user() -> None:
    sample = VisitSample(100, HORIZON, random.Random(0), most=1)
    sample.add([1])
    assert not sample.priced
    sample.add([], spent=2.5)
    sample.add([2])
    assert sample.priced
