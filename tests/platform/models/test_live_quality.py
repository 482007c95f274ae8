"""Live quality by day, against a count by brute force and by hand."""

from __future__ import annotations

import asyncio
import itertools
import json
import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from tests.platform.shop import DAY, HOUR, write_log
from tests.platform.support import Live

from tactful.cli.main import main
from tactful.client import Client
from tactful.client.routes import models as routes
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.models.kept_quality import keep_quality, read_quality
from tactful.models.live_quality import (
    Logged,
    Shown,
    Take,
    by_day,
    diversity,
    measure,
    novelty,
    popularity_bias,
)
from tactful.models.quality_process import QualityMeasurer
from tactful.schemas.models import QualityDay
from tactful_streaming.contract.log_entries import Entry, Event

OUTCOME = 24 * HOUR
BEGIN = 1_700_006_400_000  # a midnight


def drawn(seed: int) -> Logged:
    """Lists and takes of a few users over some days, many of them at the edges of their times."""
    draw = np.random.default_rng(seed)
    items = [f"i{number}" for number in range(12)]
    logged = Logged(since=BEGIN + int(draw.integers(0, 2)) * DAY, until=BEGIN + 5 * DAY)
    for number in range(int(draw.integers(0, 40))):
        chosen = draw.permutation(items)[: int(draw.integers(1, 8))]
        at = BEGIN + int(draw.integers(0, 5 * 24)) * HOUR
        logged.shown.append(
            Shown(at, f"u{draw.integers(0, 4)}", f"r{number}", tuple(map(str, chosen)))
        )
    for _ in range(int(draw.integers(0, 60))):
        user = None if draw.random() < 0.2 else f"u{draw.integers(0, 4)}"
        name = f"r{draw.integers(0, 40)}" if draw.random() < 0.3 else None
        at = BEGIN + int(draw.integers(0, 5 * 24)) * HOUR
        logged.takes.append(Take(at, user, str(draw.choice(items)), name))
    return logged


def recount(logged: Logged, day: int) -> dict[str, Any]:
    """The figures of a day, each by looking at everything again."""
    lists = [
        it
        for it in logged.shown
        if it.at // DAY == day and it.at >= logged.since and it.at + OUTCOME <= logged.until
    ]
    hits: list[bool] = []
    gains: list[float] = []
    wanted: list[str] = []
    for one in lists:
        taken = {
            take.item
            for take in logged.takes
            if one.at <= take.at < one.at + OUTCOME
            and (take.user == one.user or take.recommendation_id == one.recommendation_id)
        }
        if not taken:
            continue
        wanted += taken
        gain = sum(1 / math.log2(n + 2) for n, it in enumerate(one.items) if it in taken)
        best = sum(1 / math.log2(n + 2) for n in range(min(len(taken), 20)))
        hits.append(bool(taken & set(one.items)))
        gains.append(gain / best)
    popular = Counter(take.item for take in logged.takes)
    shown = [item for one in lists for item in one.items]
    shared = [len(set(a.items) & set(b.items)) for a, b in itertools.combinations(lists, 2)]
    total = len(logged.takes) + len(set(shown) | set(popular))
    mean_taken = float(np.mean([popular[it] for it in wanted])) if wanted else 0.0
    return {
        "recommendations": len(lists),
        "users": len({it.user for it in lists}),
        "followed": len(hits),
        "hr20": float(np.mean(hits)) if hits else None,
        "ndcg20": float(np.mean(gains)) if gains else None,
        "items": len(set(shown)),
        "diversity": 1 - float(np.mean(shared)) / (len(shown) / len(lists)) if shared else None,
        "novelty": float(np.mean([math.log2(total / (popular[it] + 1)) for it in shown])),
        "popularity_bias": float(np.mean([popular[it] for it in shown])) / mean_taken - 1
        if mean_taken
        else None,
    }


@given(st.integers(0, 2**32 - 1))
def test_it_is_what_a_recount_finds(seed: int) -> None:
    logged = drawn(seed)
    found = by_day(logged, outcome_ms=OUTCOME)
    counted = {it.at // DAY for it in logged.shown if logged.since <= it.at <= BEGIN + 4 * DAY}
    assert len(found) == len(counted)
    for day, number in zip(found, sorted(counted), strict=True):
        for name, wanted in recount(logged, number).items():
            value = getattr(day, name)
            value = getattr(value, "value", value)
            assert value == (None if wanted is None else pytest.approx(wanted, abs=1e-9)), name
        if day.hr20 is not None:
            assert day.hr20.low <= day.hr20.value + 1e-12
            assert day.hr20.high >= day.hr20.value - 1e-12


def test_extremes_are_known() -> None:
    assert diversity({"a": 2, "b": 2}, [2, 2]) == 0.0, "two lists of the same items"
    assert diversity({"a": 1, "b": 1}, [1, 1]) == 1.0
    assert diversity({"a": 1}, [1]) is None
    assert novelty({"a": 1}, {}) == 0.0 and novelty({}, {"a": 3}) is None
    assert novelty({"rare": 1}, {"a": 14}) == 4.0
    assert popularity_bias({"a": 1}, ["a"], {"a": 5}) == 0.0
    assert popularity_bias({"a": 1}, ["b"], {"a": 6, "b": 2}) == 2.0
    assert popularity_bias({"a": 1}, [], {"a": 1}) is None


def an_event(number: int, at: int, type_: str, **fields: Any) -> Event:
    return Event(event_id=f"e{number}", type=type_, timestamp=at, user_id="u", **fields)


def a_list(name: str, at: int, items: list[str], **properties: Any) -> Event:
    return Event(
        event_id=f"impression:{name}",
        type="impression",
        timestamp=at,
        user_id="u",
        recommendation_id=name,
        properties={"items": [*items], **properties},
    )


LOG: list[Entry] = [
    a_list("r1", BEGIN, ["a", "b"]),
    a_list("forced", BEGIN + 1, ["c"], forced=True),
    an_event(1, BEGIN + HOUR, "view", item_id="a"),
    an_event(2, BEGIN + HOUR, "click", item_id="b"),
    an_event(3, BEGIN + 2 * HOUR, "purchase", item_id="z"),
    a_list("r2", BEGIN + DAY, ["a"]),
    a_list("late", BEGIN + 2 * DAY, ["a"]),
    an_event(4, BEGIN + 2 * DAY + HOUR, "click", item_id="a"),
]


def test_a_log_is_read_as_the_platform_writes_it(tmp_path: Path) -> None:
    """A view is too weak, a forced list does not count, and the last one is too young."""
    with write_log(tmp_path / "log", LOG) as log:
        first, second = measure(log, label="click")
        (later,) = measure(log, label="click", latest=4)
    assert (first.day, second.day) == ("2023-11-15", "2023-11-16")
    assert (first.recommendations, first.followed, second.followed) == (1, 1, 0)
    assert first.hr20 is not None and first.ndcg20 is not None and second.hr20 is None
    assert first.hr20.value == 1.0
    assert first.ndcg20.value == pytest.approx((1 / math.log2(3)) / (1 + 1 / math.log2(3)))
    assert later.day == second.day, "the day in which the records begin is left out"


def a_day(number: int) -> QualityDay:
    return QualityDay(
        day=f"2026-{1 + number // 28:02}-{1 + number % 28:02}",
        recommendations=number,
        users=1,
        followed=0,
        hr20=None,
        ndcg20=None,
        items=1,
        diversity=None,
        novelty=None,
        popularity_bias=None,
    )


def test_earlier_days_are_kept_and_old_ones_are_not(tmp_path: Path) -> None:
    keep_quality(tmp_path, [a_day(number) for number in range(70)], now=1, label="click")
    kept = keep_quality(tmp_path, [a_day(70)], now=2, label="click")
    assert [day.recommendations for day in kept.days] == [*range(11, 71)]
    assert read_quality(tmp_path) == kept
    (tmp_path / "quality.json").write_text("{")
    assert read_quality(tmp_path).days == []


def test_the_command_measures_and_the_route_shows_it(
    live: Live, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_log(tmp_path / "shop" / "log", LOG).close()
    told = CliRunner().invoke(main, ["models", "quality", "--data", str(tmp_path / "shop")])
    assert told.exit_code == 0, told.output
    assert told.output.startswith("2023-11-15         1 recommendations  hr20 1.000")
    printed = CliRunner().invoke(
        main, ["models", "quality", "--data", str(tmp_path / "shop"), "--json"]
    )
    assert [it["day"] for it in json.loads(printed.stdout)["days"]] == ["2023-11-15", "2023-11-16"]
    keep_quality(live.platform.settings.models, [a_day(3)], now=5, label="click")
    with Client(live.url) as client:
        quality = client.run(routes.quality())
    assert quality.days == [a_day(3)] and quality.measured_at == 5


def test_a_server_measures_while_its_log_grows(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$@" >> {tmp_path}/asked\n')
    python.chmod(0o755)
    ends = [0]
    settings = Settings(storage=StorageSettings(data=tmp_path / "data"))
    measurer = QualityMeasurer(settings, lambda: ends, python=str(python))
    for end in (0, 5, 5, 6):
        ends = [end]
        asyncio.run(measurer.run())
    assert (tmp_path / "asked").read_text().split("\n") == 2 * [
        "-m tactful models quality --json"
    ] + [""]
