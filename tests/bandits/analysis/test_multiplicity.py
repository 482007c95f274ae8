import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from tactful_bandits.analysis.multiplicity import benjamini_hochberg, holm
from tactful_bandits.errors import StatisticsError

p_values = st.lists(st.floats(0, 1), min_size=1, max_size=12)


@given(p_values)
def test_benjamini_hochberg_agrees_with_scipy(p: list[float]) -> None:
    assert benjamini_hochberg(p) == pytest.approx(stats.false_discovery_control(p).tolist())


@given(p_values, st.floats(0.001, 0.5))
def test_holm_rejects_step_by_step(p: list[float], alpha: float) -> None:
    # The procedure as published: from the smallest on, until one is too large.
    rejected = set()
    for step, index in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        if p[index] * (len(p) - step) > alpha:
            break
        rejected.add(index)
    assert {i for i, adjusted in enumerate(holm(p)) if adjusted <= alpha} == rejected


@given(p_values)
def test_holm_is_never_below_benjamini_hochberg(p: list[float]) -> None:
    for strict, mild, raw in zip(holm(p), benjamini_hochberg(p), p, strict=True):
        assert raw <= mild * (1 + 1e-12)
        assert mild <= strict * (1 + 1e-12)
        assert strict <= 1


@pytest.mark.parametrize("adjust", [holm, benjamini_hochberg])
@pytest.mark.parametrize("wrong", [[1.1], [-0.1], [float("nan")]])
def test_what_is_no_p_value_is_refused(adjust: object, wrong: list[float]) -> None:
    assert callable(adjust)
    assert adjust([]) == ()
    with pytest.raises(StatisticsError, match="from 0 to 1"):
        adjust(wrong)
