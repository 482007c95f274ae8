"""Charts for notebooks draw what the answers say."""

from __future__ import annotations

from typing import Any

from tests.platform.client.test_frames import cell, page

from tactful.client.plots import effects, learning_curve, released
from tactful.schemas.experiments.readouts import (
    ArmLevel,
    Bounds,
    Effect,
    RatioCheck,
    ReadOutMessage,
)


def values(chart: Any) -> list[dict[str, Any]]:
    spec = chart.to_dict()
    named = spec.get("datasets", {}).values()
    parts = [part.get("data", {}).get("values", []) for part in (spec, *spec["layer"])]
    return [row for part in (*named, *parts) for row in part]


def test_released_numbers_have_a_band() -> None:
    pages = [page(cell(0), cell(0, "mug")), page(cell(1))]
    chart = released(pages, keys=["tea"])
    spec = chart.to_dict()
    assert [part["mark"]["type"] for part in spec["layer"]] == ["area", "line"]
    drawn = {row["start"]: row for row in values(chart)}
    assert [row["value"] for row in drawn.values()] == [0.5, 1.5]
    assert all(
        (row["low"], row["high"], row["key"]) == (-1.0, 9.0, "tea") for row in drawn.values()
    )
    assert spec["description"].startswith("2 released numbers of views")
    assert "statistic" in released([]).to_dict()["description"]


def test_an_effect_is_drawn_as_a_share_of_the_control() -> None:
    def level(arm: str, value: float) -> ArmLevel:
        return ArmLevel(arm=arm, value=value, interval=Bounds(low=None, high=None), people=10)

    def effect(metric: str, control: float, high: float | None) -> Effect:
        return Effect(
            metric=metric,
            words=metric,
            better="higher",
            control=level("control", control),
            treatment=level("change", 0.25),
            difference=0.05,
            relative=None,
            fixed=Bounds(low=0.0, high=0.1),
            anytime=Bounds(low=-0.01, high=high),
            chance_to_win=0.9,
            loss_of_treatment=0.0,
            loss_of_control=0.1,
            verdict="inconclusive",
        )

    read_out = ReadOutMessage(
        key="blue-buttons",
        source="exact",
        at=0,
        since=0,
        until=None,
        sample_ratio=RatioCheck(verdict="ok", p=1.0, expected={}, people={}),
        effects=[effect("takers", 0.2, 0.11), effect("revenue", 0.0, None)],
    )
    chart = effects(read_out)
    first, second = {row["metric"]: row for row in values(chart) if "metric" in row}.values()
    assert abs(first["difference"] - 0.25) < 1e-9 and abs(first["high"] - 0.55) < 1e-9
    assert second["difference"] == 0.05 and second["high"] is None, "a control of 0 has no share"
    said = chart.to_dict()["description"]
    assert "takers (change) +25.0%, inconclusive" in said
    assert values(effects(ReadOutMessage(**{**_fields(read_out), "effects": []})))


def _fields(read_out: ReadOutMessage) -> dict[str, Any]:
    return {name: getattr(read_out, name) for name in read_out.__struct_fields__}


def test_a_learning_curve_marks_the_round_that_was_kept() -> None:
    chart = learning_curve({"train": [0.9, 0.5], "held back": [1.0, 0.7, 0.8]}, best=1)
    drawn = [row for row in values(chart) if "set" in row]
    assert [(row["round"], row["value"]) for row in drawn if row["set"] == "held back"] == [
        (0, 1.0),
        (1, 0.7),
        (2, 0.8),
    ]
    assert {"round": 1} in values(chart)
    assert "train 0.5; held back 0.8" in chart.to_dict()["description"]
    assert len(learning_curve({}).to_dict()["layer"]) == 1
