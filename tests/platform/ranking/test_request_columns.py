"""Rates, ages and the circumstances of a request, by hand and in training as in serving."""

from __future__ import annotations

import datetime as dt
import math
from base64 import b64decode
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.platform.shop import (
    definitions,
    engine_at,
    entries,
    learned,
    make_shop,
    train_version,
    write_log,
)

from tactful.catalogue.catalogue import Catalogue
from tactful.catalogue.request_context import RequestContext
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint, hide_rare
from tactful.ranking.model import Pointer, load_model, version_directory, write_pointer
from tactful.ranking.rates import RATES, rates_of, smoothed
from tactful.ranking.request_columns import MATCHES, PLAIN, matches_of, plain_values
from tactful.recall.popularity import CommonItems, Popularity
from tactful.recommend.recommender import LEARNED, RANKING_EXPERIMENT, Recommender
from tactful.recommend.served_models import RecommenderOptions
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question
from tactful.training.replay_rows import collect, replay_engine
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, Item, decode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.state.store import MemoryState

# A Monday.
NOON = int(dt.datetime(2026, 3, 2, 12, 30, tzinfo=dt.UTC).timestamp() * 1000)


def plain(**parts: Any) -> dict[str, float]:
    made = RequestContext(at=NOON, user={}, session=[], history=[], **parts)
    return dict(zip(PLAIN, plain_values(made).tolist(), strict=True))


def test_local_time_is_that_of_the_request_or_of_the_user_or_of_the_clock() -> None:
    assert (plain()["hour"], plain()["weekday"]) == (12.5, 0.0)
    tokyo = {"time_zone": "Asia/Tokyo"}
    assert plain(properties=tokyo)["hour"] == 21.5
    asked = plain(properties=tokyo, asked={"time_zone": "Pacific/Auckland"})
    assert (asked["hour"], asked["weekday"]) == (1.5, 1.0)
    visit = {"visit_time_zone": [["Asia/Kolkata", NOON]]}
    assert plain(properties=tokyo, visit=visit)["hour"] == 18.0


@pytest.mark.parametrize("name", ["", "no/zone", "../../etc/passwd", "\0", "Europe", "x" * 999, 7])
def test_an_unknown_time_zone_counts_as_utc(name: object) -> None:
    assert plain(asked={"time_zone": name})["hour"] == 12.5


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("phone", 0.0),
        ("Mozilla/5.0 (iPhone; CPU iPhone OS 17_0 like Mac OS X) Mobile/15E148", 0.0),
        ("Mozilla/5.0 (iPad; CPU OS 17_0 like Mac OS X) Mobile/15E148", 1.0),
        ("Mozilla/5.0 (X11; Linux x86_64) Chrome/120", 2.0),
        ("Desktop", 2.0),
        ("smart-tv", 3.0),
        ("fridge", 4.0),
        ("", math.nan),
        (None, math.nan),
        (True, math.nan),
    ],
)
def test_a_device_is_of_a_class(text: object, number: float) -> None:
    assert plain(asked={"device": text})["device"] == pytest.approx(number, nan_ok=True)


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("", 0.0),
        ("direct", 0.0),
        ("https://www.google.com/", 1.0),
        ("organic", 1.0),
        ("https://l.facebook.com/l.php?u=google.com", 2.0),
        ("https://t.co/abc", 2.0),
        ("newsletter", 3.0),
        ("https://mail.google.com/mail/u/0", 3.0),
        ("cpc", 4.0),
        ("https://blog.example/reddit-and-google", 5.0),
        ("https://fax.com", 5.0),
        ("https://www.reddit.com/r/tea", 2.0),
        ("paid_search", 4.0),
        ("https://ads.example/click", 4.0),
        ("https://research.example", 5.0),
        ("https://repaid.example", 5.0),
        (None, math.nan),
    ],
)
def test_a_referrer_is_of_a_class(text: object, number: float) -> None:
    assert plain(asked={"referrer": text})["referrer"] == pytest.approx(number, nan_ok=True)


def test_dwell_is_in_seconds_and_bounded() -> None:
    values = plain(asked={"dwell_now": 12_500})
    assert (values["dwell_now"], values["dwell_30m"]) == (12.5, 0.0)
    for odd in (1e300, 10**400, -5, math.inf):
        assert 0.0 <= plain(asked={"dwell_now": odd})["dwell_now"] <= 1800.0
    assert math.isnan(plain(asked={"dwell_now": "long"})["dwell_now"])
    made = RequestContext(at=NOON, user={"dwell_30m": 90_000.0}, session=[], history=[])
    assert dict(zip(PLAIN, plain_values(made).tolist(), strict=True))["dwell_30m"] == 90.0


def test_a_query_matches_the_words_of_title_and_description() -> None:
    items = {
        "a": Item(item_id="a", timestamp=0, title="Green TEA, loose"),
        "b": Item(item_id="b", timestamp=0, title="Mug", properties={"description": "For tea"}),
        "c": Item(item_id="c", timestamp=0, properties={"description": 5, "region": "north"}),
        "d": Item(item_id="d", timestamp=0, title="", properties={"region": ["north", "south"]}),
        "e": Item(item_id="e", timestamp=0, title="绿茶壶", properties={"region": "south"}),
    }
    catalogue = Catalogue(["a", "b"], items)
    rows = catalogue.rows_at(["a", "b", "c", "d", "e"])

    def matches(**asked: Any) -> dict[str, list[float]]:
        context = RequestContext(at=0, user={}, session=[], history=[], asked=asked)
        return dict(zip(MATCHES, matches_of(context, catalogue, rows).tolist(), strict=True))

    nan = math.nan
    found = matches(query="gréen tea", region="north")
    assert found["title_match"] == pytest.approx([1.0, 0.0, nan, nan, 0.0], nan_ok=True)
    assert found["description_match"] == pytest.approx([nan, 0.5, nan, nan, nan], nan_ok=True)
    assert found["region_match"] == pytest.approx([nan, nan, 1.0, 1.0, 0.0], nan_ok=True)
    assert matches(query="茶壶")["title_match"][4] == 1.0
    for empty in ({}, {"query": "!?"}, {"query": 5}):
        assert np.isnan([*matches(**empty).values()]).all()
    # An item that changed is compared by its new title.
    cup = Item(item_id="b", timestamp=1, title="Tea cup")
    changed = catalogue.updated(["a", "b"], [cup], then=("c", "d", "e"))
    assert changed is not None
    context = RequestContext(at=0, user={}, session=[], history=[], asked={"query": "tea"})
    assert matches_of(context, changed, changed.rows_at(["b"]))[0].tolist() == [1.0]


def test_a_rate_is_drawn_to_that_of_its_category() -> None:
    one = np.array([0, 100, 3], np.float32)
    category = np.array([[9, 9, 9], [95, 95, 95], [0, 15, np.nan], [0, 100, np.nan]], np.float32)
    click, take, of_clicks, of_takes = rates_of(
        (one, np.array([0, 1000, 3], np.float32), one, np.array([0, 1000, 0], np.float32)), category
    )
    nan = math.nan
    assert of_takes.tolist() == pytest.approx([14 / 195] * 3)
    assert of_clicks.tolist() == pytest.approx([nan, 0.1, nan], nan_ok=True)
    assert take.tolist() == pytest.approx(
        [14 / 195, 101 / (1000 + 195 / 14), 4 / (3 + 195 / 14)], rel=1e-5
    )
    assert click.tolist() == pytest.approx([nan, 101 / 1010, 4 / 23], rel=1e-5, nan_ok=True)


@given(
    arrays(np.float32, 5, elements=st.integers(0, 10**6)),
    arrays(np.float32, 5, elements=st.integers(0, 10**6)),
    st.floats(0.001, 0.9),
)
def test_a_rate_is_a_probability(
    successes: np.ndarray[Any, Any], trials: np.ndarray[Any, Any], prior: float
) -> None:
    rates = smoothed(successes, trials, 1.0, prior)
    assert ((rates > 0.0) & (rates <= 1.0)).all()
    more = smoothed(successes + 1, trials + 1, 1.0, prior)
    assert (more >= rates - 1e-6).all()


def test_an_anonymous_request_has_no_rates() -> None:
    features = np.ones((3, len(RANKING_FEATURES)), np.float32)
    everything = np.arange(3)
    common = CommonItems(Popularity.of(everything, 3), everything, np.zeros((3, 2)))
    hide_rare(features, everything, Catalogue(learned(3).item_ids, {}), common)
    for name in RATES:
        assert np.isnan(features[:, RANKING_FEATURES.index(name)]).all(), name


def eventful() -> list[Entry]:
    """A shop with titles, searches, impressions, clicks and times on pages."""
    made: list[Entry] = []
    shop = make_shop(3, people=10, items=50, days=30)
    for number, entry in enumerate(entries(shop)):
        if isinstance(entry, Item):
            day = dt.date(2023, 10, 1 + number % 28).isoformat()
            properties = {"released": day, "region": "north" if number % 2 else "south"}
            titled = {"title": f"tea number {number % 7}", "properties": properties}
            made.append(msgspec.structs.replace(entry, **titled))
            continue
        if isinstance(entry, Event) and entry.item_id:
            for place, (kind, item, more) in enumerate(
                (
                    ("search", None, {"query": f"number {number % 7}"}),
                    ("impression", entry.item_id, {"position": 1}),
                    ("click", entry.item_id, {}),
                    ("leave", entry.item_id, {"dwell_ms": 1000 + number}),
                )
            ):
                if number % (place + 2) == 0:
                    about: Any = {"event_id": f"{number}-{place}", "type": kind, "item_id": item}
                    at = entry.timestamp - 1 - place
                    changes = {**about, "timestamp": at, "properties": more}
                    made.append(msgspec.structs.replace(entry, **changes))
        made.append(entry)
    return made


@pytest.mark.slow
def test_training_and_serving_compute_the_same(tmp_path: Path) -> None:
    """An engine that has seen nothing later serves what a replay of the whole log lays out."""
    what = eventful()
    log = write_log(tmp_path / "log", what)
    with write_log(tmp_path / "part", what[: 2 * len(what) // 3]) as part:
        train_version(part, tmp_path / "models", rounds=3)
    write_pointer(tmp_path / "models", Pointer(version="1"))
    fingerprint = columns_fingerprint(definitions())
    index = load_model(version_directory(tmp_path / "models", "1"), definitions=fingerprint).index
    experiment = Experiment(RANKING_EXPERIMENT, (Arm("heuristic", 0.1), Arm(LEARNED, 0.9)))
    live = Engine(definitions(), MemoryState())
    known: dict[str, set[float]] = {name: set() for name in RANKING_FEATURES}
    for offset in range(2 * len(what) // 3, len(what), 83):
        asked = what[offset]
        if not (isinstance(asked, Event) and asked.user_id):
            continue
        engine_at(live, log, offset)
        options = RecommenderOptions(
            models=tmp_path / "models", definitions=fingerprint, experiment=experiment
        )
        request = RecommendRequest(
            user_id=asked.user_id,
            session_id=asked.session_id,
            timestamp=asked.timestamp,
            count=200,
            force={RANKING_EXPERIMENT: LEARNED},
        )
        answer, impression = Recommender(live, options).recommend(request, now=0)
        assert impression is not None
        event = decode_entry(impression)
        assert isinstance(event, Event)
        served = np.frombuffer(b64decode(str(event.properties["features"])), "<f4")
        served = served.reshape(len(answer.items), -1)
        question = Question(
            offset, asked.timestamp, asked.user_id, asked.session_id, frozenset(("item-001",))
        )
        opened = partial(replay_engine, definitions())
        _, rows = collect(log, opened, index, [question], 0, TrainingOptions())
        items = [item.item_id for item in answer.items]
        order = np.argsort(Catalogue(index.item_ids, live.items).rows_at(items))
        assert np.array_equal(served[order], rows.features, equal_nan=True)
        for name, column in zip(RANKING_FEATURES, rows.features.T, strict=True):
            known[name].update(column[~np.isnan(column)].tolist())
    log.close()
    for name in (*RATES, "item_age", "hour", "weekday", "dwell_30m", "title_match"):
        assert len(known[name]) > 1, name
    assert min(known["item_age"]) >= 0.0
    assert max(known["item_age"]) < 120
