"""Definitions of statistics: what is refused, and that they survive storage."""

from fractions import Fraction
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_privacy.errors import ParameterError
from tactful_privacy.ledger.statistic import DAY_MS, Statistic
from tactful_privacy.mechanisms.laplace import DiscreteLaplace

GOOD: dict[str, Any] = {
    "name": "views.by-category_1h",
    "keys": ("bread", "milk"),
    "pane_ms": 3_600_000,
    "cap": 5,
    "epsilon": Fraction(1, 2),
    "cell_cap": 2,
}


@pytest.mark.parametrize(
    ("field", "values"),
    [
        ("name", ["", "Views", ".hidden", "a" * 129, "two words"]),
        ("keys", [(), ("bread", ""), ("bread", "bread"), ("bread", 1)]),
        ("pane_ms", [0, 7_000_000, 2 * DAY_MS, 3_600_000.0]),
        ("cap", [0, True, 200_000]),
        ("cell_cap", [0]),
        ("epsilon", [0.5, Fraction(0)]),
    ],
)
def test_a_wrong_field_is_refused(field: str, values: list[object]) -> None:
    for value in values:
        with pytest.raises(ParameterError):
            Statistic(**GOOD | {field: value})


def test_text_and_integers_become_exact_fractions() -> None:
    assert Statistic(**GOOD | {"epsilon": "0.1"}).epsilon == Fraction(1, 10)
    assert Statistic(**GOOD | {"epsilon": 2}).epsilon == Fraction(2)


@given(
    st.lists(st.text(min_size=1), min_size=1, max_size=5, unique=True),
    st.fractions(Fraction(1, 100), 10, max_denominator=1000),
    st.none() | st.integers(1, 5),
)
def test_json_gives_an_equal_statistic(
    keys: list[str], epsilon: Fraction, cell_cap: int | None
) -> None:
    statistic = Statistic("views", tuple(keys), 60_000, 5, epsilon, cell_cap)
    again = Statistic.from_json(statistic.to_json())
    assert again == statistic
    assert again.fingerprint == statistic.fingerprint


def test_the_fingerprint_tells_every_field() -> None:
    other: dict[str, Any] = {"name": "other", "keys": ("milk", "bread"), "pane_ms": 60_000}
    other |= {"cap": 6, "epsilon": Fraction(1, 3), "cell_cap": None}
    assert other.keys() == GOOD.keys()
    for field, value in other.items():
        assert Statistic(**GOOD | {field: value}).fingerprint != Statistic(**GOOD).fingerprint


def test_the_noise_is_that_of_cap_and_epsilon() -> None:
    noise = Statistic(**GOOD).mechanism()
    assert isinstance(noise, DiscreteLaplace)
    assert (noise.sensitivity, noise.epsilon, noise.scale) == (5, Fraction(1, 2), Fraction(10))
