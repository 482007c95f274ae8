import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_bandits.analysis.retention import retention
from tactful_bandits.analysis.samples import Proportion
from tactful_bandits.errors import StatisticsError

joins = st.lists(st.integers(0, 20), min_size=2, max_size=12)


@given(joins, st.data(), st.integers(0, 6), st.integers(1, 5))
def test_it_counts_as_by_hand(
    joined: list[int], data: st.DataObject, start: int, wide: int
) -> None:
    visits = data.draw(
        st.lists(st.tuples(st.integers(0, len(joined) - 1), st.integers(0, 30)), max_size=40)
    )
    now, end = 25, start + wide
    counted = [unit for unit, first in enumerate(joined) if first + end <= now]
    came = [
        any(who == unit and start <= when - joined[unit] < end for who, when in visits)
        for unit in counted
    ]
    ask = {"span": (start, end), "now": now}
    who, when = [v[0] for v in visits], [v[1] for v in visits]
    if len(counted) < 2:
        with pytest.raises(StatisticsError, match="at least 2 units"):
            retention(joined, who, when, **ask)  # type: ignore[arg-type]
    else:
        assert retention(joined, who, when, **ask) == Proportion(len(counted), sum(came))  # type: ignore[arg-type]


def test_the_young_do_not_count_as_lost() -> None:
    joined = [0, 0, 9, 9]
    assert retention(joined, [0], [7.5], span=(7, 8), now=10) == Proportion(2, 1)
    for day, expected in ((1, Proportion(4, 1)), (7, Proportion(2, 1))):
        visits = [0, 2, 3], [7.5, 10, 11]
        assert retention(joined, *visits, span=(day, day + 1), now=11) == expected


def test_what_cannot_be_counted_is_refused() -> None:
    for span in ((3, 3), (-1, 2)):
        with pytest.raises(StatisticsError, match="span must start"):
            retention([0, 0], [], [], span=span, now=9)
    with pytest.raises(StatisticsError, match="from 0 to 1"):
        retention([0, 0], [2], [1], span=(0, 1), now=9)
