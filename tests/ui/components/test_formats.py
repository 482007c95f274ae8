import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tactful_ui.components import formats
from tactful_ui.report import Estimate, Experiment, Statistics

EXPERIMENT = Experiment("canary", (), Estimate(0.01, -0.02, 0.04), "", "")
STATISTICS = Statistics("views", 0.5, 20, "user-day", None, ())


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (formats.decimal(0.4123), "0.412"),
        (formats.decimal(-0.5, 1), "−0.5"),
        (formats.decimal(-0.00001), "0.000"),
        (formats.decimal(None), "–"),
        (formats.count(1234567.0), "1,234,567"),
        (formats.percent(0.0714), "7.1 %"),
        (formats.milliseconds(3.4219), "3.42 ms"),
        (formats.milliseconds(12.34), "12.3 ms"),
        (formats.milliseconds(1234.4), "1,234 ms"),
        (formats.duration(9.84), "9.8 s"),
        (formats.duration(221.0), "3 min 41 s"),
        (formats.duration(3661), "1 h 1 min"),
        (formats.duration(None), "–"),
        (formats.signed(0.057), "+0.057"),
        (formats.signed(-0.057), "−0.057"),
        (formats.estimate(Estimate(0.5, 0.25, 0.75), 2), "0.50 [0.25, 0.75]"),
        (formats.estimate(Estimate(0.5, None, 0.75), 2), "0.50"),
        (formats.estimate(None), "–"),
    ],
)
def test_numbers(said: str, expected: str) -> None:
    assert said == expected


@given(st.text())
def test_plain_text_keeps_every_character_and_no_markup(text: str) -> None:
    escaped = formats.plain(text)
    assert re.sub(r"\\([^A-Za-z0-9\s])", r"\1", escaped) == text
    assert not re.search(r"[*_`\[\]<>$~:#]", re.sub(r"\\.", "", escaped, flags=re.DOTALL))


def test_difference_with_zero_in_its_interval_is_inconclusive() -> None:
    said = formats.difference_sentence(EXPERIMENT)
    assert "+1.00 percentage points" in said
    assert "−2.00 to +4.00" in said
    assert "inconclusive" in said
    for gap in (Estimate(0.03, 0.01, 0.05), Estimate(-0.03, -0.05, -0.01)):
        said = formats.difference_sentence(replace(EXPERIMENT, difference=gap))
        assert "the arms differ" in said and "inconclusive" not in said
    for unknown in (None, Estimate(0.3), Estimate(0.3, low=0.1)):
        said = formats.difference_sentence(replace(EXPERIMENT, difference=unknown))
        assert "not been computed" in said or "nothing can be concluded" in said


def test_bars_are_explained_with_the_scale_of_the_noise() -> None:
    said = formats.bars_sentence(STATISTICS)
    assert "scale 40.0 (cap 20 ÷ ε 0.50)" in said
    assert "one unit of privacy (user\\-day)." in said
    assert "scale" not in formats.bars_sentence(replace(STATISTICS, epsilon=None))
    assert "scale" not in formats.bars_sentence(replace(STATISTICS, epsilon=0.0))
