"""Features as served against the same computed again from the log, and skew that is planted."""

from __future__ import annotations

import itertools
import shutil
from base64 import b64decode, b64encode
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from tests.platform.shop import definitions, entries, make_shop, write_log

from tactful.event_log.impressions import read_impressions
from tactful.models.skew import Skew, measure_skew
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint, layout
from tactful.ranking.model import Pointer, read_manifest, version_directory, write_pointer
from tactful.recommend.recommender import (
    HEURISTIC,
    LEARNED,
    RANKING_EXPERIMENT,
    Recommender,
    RecommenderOptions,
)
from tactful.schemas.interactions import STRENGTH, at_least
from tactful.schemas.recommendations import RecommendRequest
from tactful.training.options import TrainingOptions
from tactful.training.shown_rows import read_shown
from tactful.training.train import train
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, Item, decode_entry, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

TAKEN = at_least("add_to_cart", STRENGTH)
SHOP = make_shop(7, people=14, items=70, days=40)
ENTRIES = entries(SHOP)
LEARNED_FROM = int(0.6 * len(ENTRIES))
MOSTLY_LEARNED = Experiment(RANKING_EXPERIMENT, (Arm(HEURISTIC, 0.1), Arm(LEARNED, 0.9)))
EVERY = 40
Change = Callable[[dict[str, Any]], dict[str, Any]]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("models")
    place = version_directory(directory, "1")
    with write_log(directory / "log", ENTRIES[:LEARNED_FROM]) as log:
        train(log, definitions(), place, TrainingOptions(label_days=15, rounds=8, threads=1))
    manifest = msgspec.structs.replace(read_manifest(place), version="1")
    (place / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    write_pointer(directory, Pointer(version="1"))
    return directory


def serve(
    directory: Path,
    models: Path,
    *,
    sees: Callable[[Entry], bool] = lambda entry: True,  # entries that the engine applies
    change: Change = lambda properties: properties,  # of an impression before it is logged
    lag: int = 7,  # entries in the log, but not yet in the engine, when a list is served
) -> EmbeddedLog:
    """A log in which lists were asked for now and then."""
    log = EmbeddedLog(directory / "log", durability="process")
    log.append([encode_entry(entry) for entry in ENTRIES[:LEARNED_FROM]])
    engine = Engine(definitions(), MemoryState())
    engine.apply([record for record in log.read(0, LEARNED_FROM) if sees(decode_entry(record[1]))])
    fingerprint = columns_fingerprint(definitions())
    served: dict[str, Any] = {"definitions": fingerprint, "experiment": MOSTLY_LEARNED}
    ranked = Recommender(engine, RecommenderOptions(models=models, **served))
    for number, entry in enumerate(ENTRIES[LEARNED_FROM:]):
        log.append([encode_entry(entry)])
        if number % EVERY or not isinstance(entry, Event):
            continue
        while engine.offset < log.end - lag:
            records = log.read(engine.offset, log.end - lag - engine.offset)
            engine.apply([it for it in records if sees(decode_entry(it[1]))] or records[-1:])
        ranked.refresh()
        request = RecommendRequest(user_id=entry.user_id, session_id=entry.session_id)
        _, impression = ranked.recommend(request, now=entry.timestamp)
        assert impression is not None
        event = decode_entry(impression)
        assert isinstance(event, Event)
        changed = msgspec.structs.replace(event, properties=change({**event.properties}))
        log.append([encode_entry(changed)])
    return log


@pytest.fixture(scope="module")
def served(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedLog]:
    """A log with lists as the server logged them, for tests that only read it."""
    with serve(tmp_path_factory.mktemp("served"), models) as log:
        yield log


def measured(directory: Path, models: Path, **how: Any) -> Skew:
    with serve(directory, models, **how) as log:
        return measure_skew(log, definitions(), models)


@pytest.mark.slow
@pytest.mark.parametrize("lag", [0, 7, 100])
def test_served_features_are_those_of_training(tmp_path: Path, models: Path, lag: int) -> None:
    found = measured(tmp_path, models, lag=lag)
    assert found.lists > 10
    assert found.values == found.lists * 20 * len(RANKING_FEATURES)
    assert (found.skipped, found.different, found.share, dict(found.by_feature)) == (0, 0, 0.0, {})


def test_lists_that_a_server_logged_are_what_training_reads(tmp_path: Path, models: Path) -> None:
    log = serve(tmp_path, models)
    meaning = layout(columns_fingerprint(definitions()))
    until = int(SHOP.timestamp[-1])
    before = read_shown(log, meaning, 0, until, TrainingOptions(), TAKEN)
    assert len(before) > 10
    assert not before.taken.any()
    shown = [it for it in read_impressions(log) if it.features is not None]
    bought = [(it.event.recommendation_id, it.items[3], it.event.timestamp + 1) for it in shown]
    for number, (identity, item, at) in enumerate(bought):
        about: Any = {"user_id": "anybody", "item_id": item, "recommendation_id": identity}
        event = Event(event_id=f"bought-{number}", type="purchase", timestamp=at, **about)
        log.append([encode_entry(event)])
    lists = read_shown(log, meaning, 0, until, TrainingOptions(), TAKEN)
    log.close()
    assert len(lists) == len(before)
    assert lists.taken.sum() == len(lists)
    assert set(lists.place[lists.taken].tolist()) == {3}
    first = shown[0].features
    assert first is not None
    assert np.array_equal(lists.features[: len(first)], first, equal_nan=True)


def at_feedback(properties: dict[str, Any]) -> dict[str, Any]:
    """Forget how far the engine was: features would be those of when the list was logged."""
    return {**properties, "applied": None}


def test_features_of_the_time_of_logging_are_others(tmp_path: Path, models: Path) -> None:
    found = measured(tmp_path, models, lag=100, change=at_feedback)
    assert found.share > 0.01
    assert {"sold_7d", "sold_28d"} & set(found.by_feature)


def without_decay(name: str, factor: float) -> Change:
    """One column is computed in another way by the server."""
    column = RANKING_FEATURES.index(name)

    def change(properties: dict[str, Any]) -> dict[str, Any]:
        values = np.frombuffer(b64decode(properties["features"]), "<f4").copy()
        rows = values.reshape(-1, len(RANKING_FEATURES))
        rows[:, column] *= np.float32(factor)
        return {**properties, "features": b64encode(values.tobytes()).decode()}

    return change


@pytest.mark.parametrize(("name", "factor"), [("price", 1.001), ("sold_28d", 2.0)])
def test_a_changed_column_is_named(tmp_path: Path, models: Path, name: str, factor: float) -> None:
    found = measured(tmp_path, models, change=without_decay(name, factor))
    assert list(found.by_feature) == [name]
    assert found.by_feature[name] > 0.5
    assert found.share == pytest.approx(found.by_feature[name] / len(RANKING_FEATURES))


def test_events_that_the_server_lost_show(tmp_path: Path, models: Path) -> None:
    lost = {entry.event_id for entry in ENTRIES[::5] if isinstance(entry, Event)}
    found = measured(
        tmp_path, models, sees=lambda entry: getattr(entry, "event_id", None) not in lost
    )
    assert found.share > 0.05
    assert "sold_84d" in found.by_feature


def test_a_catalogue_that_lags_shows(tmp_path: Path, models: Path) -> None:
    log = serve(tmp_path, models, lag=0)
    prices = [
        Item(item_id=entry.item_id, timestamp=entry.timestamp + 1, price=99.0)
        for entry in ENTRIES
        if isinstance(entry, Item)
    ]
    late = write_log(tmp_path / "late", [])
    records = [payload for _, payload in log.read(0, log.end)]
    # The same lists, but the log says that prices had changed before them.
    late.append(records[:LEARNED_FROM])
    late.append([encode_entry(item) for item in prices])
    late.append([moved(payload, len(prices)) for payload in records[LEARNED_FROM:]])
    log.close()
    found = measure_skew(late, definitions(), models)
    late.close()
    assert found.by_feature["price"] == 1.0


def moved(payload: bytes, by: int) -> bytes:
    entry = decode_entry(payload)
    if not isinstance(entry, Event) or "applied" not in entry.properties:
        return payload
    properties: dict[str, Any] = {**entry.properties}
    properties["applied"] += by
    return encode_entry(msgspec.structs.replace(entry, properties=properties))


def test_lists_of_a_missing_model(tmp_path: Path, models: Path, served: EmbeddedLog) -> None:
    away = Path(shutil.copytree(models, tmp_path / "models"))
    shutil.rmtree(version_directory(away, "1"))
    found = measure_skew(served, definitions(), away)
    assert found.lists == found.values == 0
    assert found.skipped > 10
    assert found.share == 0.0


NONSENSE: list[dict[str, Any]] = [{"features": it} for it in ("no base64!", "AAA=", None)]
NONSENSE += [{"items": []}, {"items": "a"}]


def test_lists_that_say_nonsense_are_passed_over(tmp_path: Path, models: Path) -> None:
    """Each list of the log has one of several kinds of nonsense."""
    changes = itertools.cycle(NONSENSE)
    lists = itertools.count()

    def change(properties: dict[str, Any]) -> dict[str, Any]:
        next(lists)
        return {**properties, **next(changes)}

    found = measured(tmp_path, models, change=change)
    assert next(lists) > 2 * len(NONSENSE)
    assert (found.lists, found.values) == (0, 0)


def test_only_the_latest_lists_are_compared(models: Path, served: EmbeddedLog) -> None:
    reached: list[tuple[int, int]] = []
    found = measure_skew(
        served, definitions(), models, lists=3, progress=lambda *done: reached.append(done)
    )
    assert found.lists == 3
    assert [done for done, _ in reached] == sorted(done for done, _ in reached)
    assert reached[-1][0] == reached[-1][1]


def test_a_log_without_lists_has_no_skew(tmp_path: Path, models: Path) -> None:
    with write_log(tmp_path / "log", ENTRIES[:200]) as log:
        assert measure_skew(log, definitions(), models) == Skew(0, 0, 0, 0, {})
