"""Stages of one user: by own habits, and unknown while nothing is known."""

from __future__ import annotations

from datetime import date
from typing import Any

import msgspec
import pytest

from tactful.config.recommendation import LifecycleSettings
from tactful.config.settings import PACKAGED_FEATURES
from tactful.lifecycle.changes import change_of
from tactful.lifecycle.model import ReturnModel
from tactful.lifecycle.profile import NOT_COMPUTED, day_number, life_cycle
from tactful.lifecycle.sources import SOURCES, sources_of
from tactful.lifecycle.stored import FILE, Fitted, FittedFile
from tactful.schemas.users import LifeCycle
from tactful_streaming.definitions.reader import load_definitions

DAY = 86_400_000
TODAY = day_number("2026-12-01")
SETTINGS = LifecycleSettings()
MODEL = ReturnModel(r=0.8, alpha=12.0, a=0.5, b=4.0)
FITTED = Fitted(fitted_on=TODAY, horizon_days=30, people=500, model=MODEL, calibrated=True)


def features_of(*ages: int, **more: Any) -> dict[str, Any]:
    """Return the features of a user with events some days ago."""
    days = {_text(TODAY - age): float((TODAY - age) * DAY) for age in ages}
    return {"visit_days": days, "spent_728d": 0.0, "stage_last": [], **more}


def _text(day: int) -> str:
    return date.fromordinal(date(1970, 1, 1).toordinal() + day).isoformat()


def stage(features: dict[str, Any], day: int = TODAY) -> str | None:
    return life_cycle(features, day * DAY, FITTED, SETTINGS).stage


def test_stages_follow_each_other_as_a_user_stays_away() -> None:
    seen = [stage(features_of(*range(0, 40, 4)), TODAY + more) for more in range(0, 200, 5)]
    assert list(dict.fromkeys(seen)) == ["active", "lapsing", "lost"]
    once = [stage(features_of(0), TODAY + more) for more in range(0, 1000, 20)]
    assert list(dict.fromkeys(once)) == ["new", "lapsing", "lost"]


def test_a_habit_of_short_gaps_lapses_sooner() -> None:
    daily, monthly = features_of(*range(25, 35)), features_of(*range(25, 295, 30))
    assert (stage(daily), stage(monthly)) == ("lost", "active")


def test_value_has_one_unit_in_a_shop() -> None:
    """Sixty visits without a purchase are no 60 in money beside users who pay."""
    free = msgspec.structs.replace(FITTED, priced=False)
    often, payer = features_of(*range(60)), features_of(3, spent_728d=61.5)
    for fitted, values, unit in (
        (FITTED, [0.0, 61.5], "money"),
        (None, [0.0, 61.5], "money"),
        (free, [60.0, 1.0], "visits"),
    ):
        known = [life_cycle(it, TODAY * DAY, fitted, SETTINGS) for it in (often, payer)]
        assert [it.value for it in known] == values
        assert {it.value_unit for it in known} == {unit}


@pytest.mark.parametrize(
    ("features", "fitted", "reason"),
    [
        ({}, FITTED, NOT_COMPUTED),
        (features_of(), FITTED, "there is no event"),
        (features_of(-5), FITTED, "there is no event"),
        (features_of(3), None, "no model is fitted yet"),
        (
            features_of(3),
            Fitted(fitted_on=0, horizon_days=30, people=9, reason="the first visit is 3 days old"),
            "the first visit is 3 days old",
        ),
    ],
)
def test_the_unknown_has_a_reason(
    features: dict[str, Any], fitted: Fitted | None, reason: str
) -> None:
    known = life_cycle(features, TODAY * DAY, fitted, SETTINGS)
    assert (known.stage, known.return_probability, known.reason) == (None, None, reason)


@pytest.mark.parametrize(
    "text",
    [
        "{name: visit_days, entity: user, event: view, aggregate: count, window: {size: 8d}}",
        "{name: visit_days, entity: user, event: view, aggregate: count, group_by: day,"
        " window: {size: 8d}}",
        "{name: visit_days, entity: user, event: view, aggregate: last_time, group_by: category}",
        "{name: visit_days, entity: item, event: view, aggregate: last_time, group_by: day}",
        "{name: spent_728d, entity: user, event: view, aggregate: sum, of: properties.price,"
        " group_by: category, window: {size: 8d}}",
        "{name: stage_last, entity: user, event: view, aggregate: last_n, of: item_id, n: 1}",
        "{name: stage_last, entity: user, event: view, aggregate: count, window: {size: 8d}}",
    ],
)
def test_own_features_of_the_same_names_are_no_sources(text: str) -> None:
    assert sources_of(load_definitions(f"- {text}\n")) == ()


def test_the_packaged_features_are_the_sources() -> None:
    found = sources_of(load_definitions(PACKAGED_FEATURES))
    assert {feature.name for feature in found} == {*SOURCES}


def known_as(stage: Any, first_day: str = "2026-01-01") -> LifeCycle:
    return LifeCycle(stage=stage, horizon_days=30, first_day=first_day)


def test_a_change_is_one_event() -> None:
    at = TODAY * DAY
    features = features_of(3, stage_last=[("active", at - DAY)])
    event = change_of("ada", features, known_as("lapsing"), at)
    assert event is not None
    assert (event.type, event.user_id) == ("x.stage_lapsing", "ada")
    assert event.properties == {"stage": "lapsing", "before": "active"}
    again = change_of("ada", features, known_as("lapsing"), at + 5)
    assert again is not None and again.event_id == event.event_id
    assert change_of("ada", features, known_as("active"), at) is None
    assert change_of("ada", features, known_as(None), at) is None
    del features["stage_last"]
    assert change_of("ada", features, known_as("lapsing"), at) is None


def test_the_first_stage_of_a_known_user_triggers_nothing() -> None:
    at = TODAY * DAY
    old = change_of("device:d", features_of(90), known_as("lost"), at)
    assert old is not None
    assert (old.type, old.device_id, old.user_id) == ("x.stage_known", "d", None)
    new = change_of("ada", features_of(0), known_as("new", first_day="2026-12-01"), at)
    assert new is not None and new.type == "x.stage_new"


def test_a_damaged_file_is_no_model(tmp_path: Any) -> None:
    file = FittedFile(tmp_path)
    assert file.read() is None
    file.write(FITTED)
    assert file.read() == FITTED
    (tmp_path / FILE).write_bytes(b"{")
    assert file.read() is None
    (tmp_path / FILE).write_bytes(msgspec.json.encode(FITTED))
    assert FittedFile(tmp_path).read() == FITTED
