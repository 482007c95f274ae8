from datetime import timedelta

import pytest
from tests.ui import sample
from tests.ui.reading import rows

from tactful_ui.components import charts
from tactful_ui.components.charts import DARK, LIGHT, Palette
from tactful_ui.report import METRICS, Arm, Count, Estimate, Federated, Report

# Streamlit's own backgrounds of the two themes, charts and page alike.
BACKGROUNDS = [(LIGHT, "#FFFFFF"), (DARK, "#0E1117"), (DARK, "#171614")]


@pytest.mark.parametrize("metric", METRICS)
def test_quality_draws_every_ranking_with_its_interval(metric: str) -> None:
    report = Report.parse(sample.report())
    chart = charts.quality(report.quality, metric, LIGHT)
    assert chart is not None
    drawn = {row["name"]: row for row in rows(chart.to_dict())}
    for ranking in report.quality:
        estimate = ranking.metrics[metric]
        row = drawn[ranking.label]
        assert Estimate(row["value"], row["low"], row["high"]) == estimate
        assert row["colour"] == (LIGHT.platform if ranking.served else LIGHT.other)
        assert f"{ranking.label} {estimate.value:.3f}" in chart.to_dict()["description"]
    assert charts.quality(report.quality, "auc", LIGHT) is None
    assert charts.quality([], metric, LIGHT) is None


def test_arms_are_drawn_in_per_cent() -> None:
    chart = charts.arms([Arm("control", 1, 1, Estimate(0.25, 0.2, None))], LIGHT)
    (row,) = rows(chart.to_dict())
    assert (row["value"], row["low"], row["high"]) == (25.0, 20.0, None)


def test_rounds_draw_the_markov_chain_beside_the_model() -> None:
    learned = Report.parse(sample.report()).federated
    assert learned is not None
    for top, reference in ((1, 25.4), (5, 42.5)):
        chart = charts.rounds(learned, top, LIGHT)
        assert chart is not None
        drawn = rows(chart.to_dict())
        assert len([row for row in drawn if "name" not in row]) == len(learned.rounds)
        assert {row["share"] for row in drawn if row.get("name")} == {reference}
    assert charts.rounds(Federated(None, (), 0.2, 0.4, "", "", ""), 1, LIGHT) is None


def test_the_data_of_a_chart_are_what_it_draws() -> None:
    report = Report.parse(sample.report())
    chart = charts.quality(report.quality, METRICS[0], LIGHT)
    found = charts.rows_of(chart)
    assert [row["name"] for row in found] == [row.label for row in report.quality]
    assert {*found[0]} == {"name", "value", "low", "high"}, "colours and labels are no data"
    cells = [Count(sample.FIRST_PANE, "A", Estimate(5, 3, 7))]
    assert charts.rows_of(charts.counts("A", cells, *charts.span(cells), LIGHT))[0]["value"] == 5
    bars = charts.rows_of(charts.bars([("a", 1.0), ("b", 2.0)], "title", LIGHT))
    assert bars == [{"name": "a", "value": 1.0}, {"name": "b", "value": 2.0}]


@pytest.mark.parametrize(("panes", "whisker"), [(60, "rule"), (61, "area")])
def test_counts_show_bars_until_they_would_touch(panes: int, whisker: str) -> None:
    found = [
        Count(sample.FIRST_PANE + timedelta(hours=hour), "A", Estimate(hour, hour - 3, hour + 3))
        for hour in range(panes)
    ]
    chart = charts.counts("A", found[::-1], -3, 70, LIGHT)
    spec = chart.to_dict()
    intervals = [each for each in spec["layer"] if "y2" in each["encoding"]]
    assert [each["mark"]["type"] for each in intervals] == [whisker]
    values = [row for row in rows(chart.to_dict()) if "start" in row]
    assert [row["value"] for row in values][:panes] == list(range(panes))
    assert f"{panes} privately released counts of A" in spec["description"]


def test_bars_keep_their_order_and_take_zeros() -> None:
    chart = charts.bars([("b", 2.0), ("a", 0.0)], "Seconds", LIGHT)
    assert [row["name"] for row in rows(chart.to_dict())][:2] == ["b", "a"]
    charts.bars([("a", 0.0)], "Seconds", LIGHT).to_dict()


@pytest.mark.parametrize(("palette", "background"), BACKGROUNDS)
def test_colours_stand_out_from_the_background(palette: Palette, background: str) -> None:
    # WCAG 2.2, success criteria 1.4.11 (graphics, 3:1) and 1.4.3 (text, 4.5:1).
    for colour in (palette.platform, palette.reference, palette.other):
        assert contrast(colour, background) >= 3.0
    assert contrast(palette.text, background) >= 4.5
    assert len({palette.platform, palette.reference, palette.other}) == 3


def contrast(one: str, other: str) -> float:
    """Contrast ratio of two colours, WCAG 2.2."""
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


def luminance(colour: str) -> float:
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("times", [[1_772_366_400_000], [1_772_366_400_000, 1_772_370_000_000]])
def test_a_single_time_has_a_date_as_its_label(times: list[int]) -> None:
    points = [{"at": at, "arm": arm, "share": 0.5} for at in times for arm in ("winter", "春")]
    chart = charts.over_time(points, value="share", series="arm", title="Share", number=".1%")
    drawn = chart.to_dict()
    assert f"winter, 春, {len(times)} points" in drawn["description"]
    assert ("format" in drawn["encoding"]["x"]["axis"]) == (len(times) == 1)
