"""Learning from lists that were shown: which outcomes count, and what a place is worth."""

from __future__ import annotations

import random
from base64 import b64encode
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xgboost
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.shop import BEGIN, DAY, HOUR, definitions, entries, make_shop, write_log

from tactful.ranking.calibration import calibrate
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint, layout
from tactful.ranking.intent_effect import LoggedIntent
from tactful.ranking.model import START, read_manifest
from tactful.schemas.interactions import STRENGTH, at_least
from tactful.training.boosting import fit
from tactful.training.options import TrainingOptions
from tactful.training.replay_rows import Rows
from tactful.training.shown_rows import (
    LEAST,
    ShownLists,
    ShownReading,
    examination,
    read_shown,
)
from tactful.training.train import train
from tactful_streaming.contract.log_entries import Entry, Event

TAKEN = at_least("add_to_cart", STRENGTH)
WIDTH = len(RANKING_FEATURES)
LAYOUT = layout("d")
OPTIONS = TrainingOptions(outcome_hours=2.0)


def shown(identity: str, at: int, items: Sequence[str], **changes: Any) -> Event:
    """A list as the server logs it; the first feature of an item is a number of its own."""
    features = np.zeros((len(items), WIDTH), "<f4")
    features[:, 0] = [int(item[1:]) for item in items]
    properties: dict[str, Any] = {
        "items": list(items),
        "model_version": "1",
        "layout": LAYOUT,
        "forced": False,
        "features": b64encode(features.tobytes()).decode(),
        **changes,
    }
    return Event(
        event_id=f"impression:{identity}",
        type="impression",
        timestamp=at,
        user_id="u",
        recommendation_id=identity,
        properties=properties,
    )


def outcome(identity: str | None, at: int, item: str, kind: str = "purchase", n: int = 0) -> Event:
    return Event(
        event_id=f"{identity}-{item}-{at}-{kind}-{n}",
        type=kind,
        timestamp=at,
        user_id="u",
        item_id=item,
        recommendation_id=identity,
    )


def read(path: Path, what: Sequence[Entry], **how: Any) -> ShownLists:
    limits = {"since": BEGIN, "until": BEGIN + DAY, "options": OPTIONS, "types": TAKEN, **how}
    with write_log(path, what) as log:
        return read_shown(log, LAYOUT, **limits)


def taken_of(lists: ShownLists) -> list[list[str]]:
    """The items of each list that were taken."""
    if not len(lists):
        return []
    ends = np.cumsum(lists.sizes)[:-1]
    names = np.split(lists.features[:, 0].astype(int), ends)
    flags = np.split(lists.taken, ends)
    return [[f"i{n}" for n in row[flag].tolist()] for row, flag in zip(names, flags, strict=True)]


def test_outcomes_count_exactly_within_their_time(tmp_path: Path) -> None:
    """An outcome one millisecond late does not count."""
    items = ["i1", "i2", "i3", "i4", "i5", "i6", "i7"]
    what = [
        shown("r", BEGIN, items),
        outcome("r", BEGIN - 1, "i1"),
        outcome("r", BEGIN, "i2"),
        outcome("r", BEGIN + 2 * HOUR - 1, "i3"),
        outcome("r", BEGIN + 2 * HOUR, "i4"),
        outcome("r", BEGIN + HOUR, "i5", "click"),
        outcome("other", BEGIN + HOUR, "i6"),
        outcome(None, BEGIN + HOUR, "i6"),
        outcome("r", BEGIN + HOUR, "i9"),
        # It comes long after, but it happened in time.
        *(outcome("x", BEGIN + 20 * HOUR, "i1", n=n) for n in range(50)),
        outcome("r", BEGIN + HOUR, "i7", "add_to_cart"),
        outcome("r", BEGIN + HOUR, "i7", "add_to_cart", n=1),
    ]
    assert taken_of(read(tmp_path / "log", what)) == [["i2", "i3", "i7"]]
    assert taken_of(read(tmp_path / "clicks", what, types={"click"})) == [["i5"]]


def test_an_outcome_may_be_logged_before_its_list(tmp_path: Path) -> None:
    what = [outcome("r", BEGIN + 5, "i2"), shown("r", BEGIN, ["i1", "i2"])]
    assert taken_of(read(tmp_path / "log", what)) == [["i2"]]


def test_lists_that_teach_nothing_are_left_out(tmp_path: Path) -> None:
    end = BEGIN + DAY
    left_out = [
        shown("forced", BEGIN, ["i1"], forced=True),
        shown("heuristic", BEGIN, ["i1"], features=None),
        shown("older layout", BEGIN, ["i1"], layout=layout("other definitions")),
        shown("no layout", BEGIN, ["i1"], layout=None),
        shown("damaged", BEGIN, ["i1"], features="AAAA"),
        shown("before", BEGIN - 1, ["i1"]),
        shown("not over", end - 2 * HOUR + 1, ["i1"]),
    ]
    kept = [shown("first", BEGIN, ["i1"]), shown("last", end - 2 * HOUR, ["i2", "i3"])]
    lists = read(tmp_path / "log", [*left_out, *kept])
    assert lists.at.tolist() == [BEGIN, end - 2 * HOUR]
    assert lists.sizes.tolist() == [1, 2]
    assert lists.place.tolist() == [0, 0, 1]
    assert len(read(tmp_path / "none", left_out)) == 0
    assert read(tmp_path / "few", kept, options=TrainingOptions(shown=1)).sizes.tolist() == [1]
    assert len(read(tmp_path / "off", kept, options=TrainingOptions(shown=0))) == 0


@given(seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_the_join_equals_a_naive_one(tmp_path_factory: pytest.TempPathFactory, seed: int) -> None:
    draw = random.Random(seed)
    items = [f"i{n}" for n in range(8)]
    what: list[Entry] = []
    for number in range(draw.randint(0, 12)):
        chosen = draw.sample(items, draw.randint(1, 5))
        what.append(shown(f"r{number}", BEGIN + draw.randrange(0, 26 * HOUR), chosen))
    for n in range(draw.randint(0, 40)):
        at = BEGIN + draw.randrange(0, 27 * HOUR)
        kind = draw.choice(["purchase", "click", "add_to_cart"])
        what.append(outcome(f"r{draw.randrange(14)}", at, draw.choice(items), kind, n))
    draw.shuffle(what)
    found = read(tmp_path_factory.mktemp("log") / "log", what)
    events = [it for it in what if isinstance(it, Event)]
    wanted = []
    for each in events:
        if each.type != "impression" or each.timestamp > BEGIN + DAY - 2 * HOUR:
            continue
        listed = each.properties["items"]
        assert isinstance(listed, list)
        taken = {
            str(it.item_id)
            for it in events
            if it.type in ("purchase", "add_to_cart")
            and it.recommendation_id == each.recommendation_id
            and each.timestamp <= it.timestamp < each.timestamp + 2 * HOUR
        }
        wanted.append(sorted(taken & {*map(str, listed)}))
    assert sorted(sorted(it) for it in taken_of(found)) == sorted(wanted)
    assert found.at.tolist() == sorted(found.at.tolist())


def test_each_taken_item_makes_a_weighted_list() -> None:
    """Its weight is that of its place."""
    features = np.arange(8, dtype=np.float32).reshape(-1, 1)
    lists = ShownLists(
        features=features,
        taken=np.array([0, 1, 1, 0, 0, 0, 1, 1], np.bool_),
        place=np.array([0, 1, 2, 3, 0, 1, 0, 1]),
        sizes=np.array([4, 2, 2]),
        at=np.array([1, 2, 3]),
    )
    rows = lists.rows(np.array([1.0, 0.5, 0.25]))
    assert rows.sizes.tolist() == [3, 3], "where nothing or all was taken nothing is learned"
    assert rows.features[:, 0].tolist() == [0, 1, 3, 0, 2, 3]
    assert rows.labels.tolist() == [False, True, False, False, True, False]
    assert np.allclose(rows.weights, np.array([2.0, 4.0]) / 3.0)
    assert lists.between(2, 3).features[:, 0].tolist() == [4, 5]
    assert len(lists.between(4, 1)) == 0


# What a place is worth


def shop_of_clicks(
    lists: int, seed: int, looked: NDArray[np.float64], *, noise: float
) -> tuple[ShownLists, NDArray[np.float64]]:
    """Lists in an order that prefers one feature, people who want another, and look from the top.

    They are returned with how much each of their items attracts.
    """
    draw = np.random.default_rng(seed)
    length = len(looked)
    features = draw.standard_normal((lists, length, 4)).astype(np.float32)
    order = np.argsort(-(features[:, :, 0] + noise * draw.standard_normal((lists, length))), axis=1)
    features = np.take_along_axis(features, order[:, :, None], axis=1)
    attracts = 1.0 / (1.0 + np.exp(-(2.0 * features[:, :, 1] + 0.3 * features[:, :, 0] - 2.0)))
    taken = (draw.random((lists, length)) < looked) & (draw.random((lists, length)) < attracts)
    shown = ShownLists(
        features=features.reshape(-1, 4),
        taken=taken.ravel(),
        place=np.tile(np.arange(length), lists),
        sizes=np.full(lists, length),
        at=np.arange(lists),
    )
    return shown, attracts


LOOKED = np.power(1.0 + np.arange(12), -0.8).astype(np.float64)


@pytest.mark.slow
@pytest.mark.parametrize("noise", [0.5, 3.0])
def test_places_are_worth_what_they_were_made_to_be_worth(noise: float) -> None:
    lists, _ = shop_of_clicks(1_500, 1, LOOKED, noise=noise)
    found = examination(lists.features, lists.taken, lists.place)
    assert found[0] == 1.0
    assert (np.diff(found) <= 0).all()
    assert np.abs(found - np.maximum(LOOKED, LEAST)).mean() < 0.05
    assert np.abs(found - np.maximum(LOOKED, LEAST)).max() < 0.15


@pytest.mark.slow
def test_without_bias_or_with_few_outcomes_nothing_is_corrected() -> None:
    lists, _ = shop_of_clicks(1_500, 2, np.ones(12), noise=1.0)
    assert examination(lists.features, lists.taken, lists.place).min() > 0.8
    lists, _ = shop_of_clicks(20, 3, LOOKED, noise=1.0)
    assert examination(lists.features, lists.taken, lists.place).tolist() == [1.0] * 12
    nothing = np.zeros((0, 4), np.float32), np.zeros(0, np.bool_), np.zeros(0, np.int64)
    assert examination(*nothing).tolist() == [1.0]


@pytest.mark.slow
def test_a_model_of_biased_lists_is_better_with_the_correction() -> None:
    """It ranks by what attracts; without it, also by what the old order put on top."""
    lists, _ = shop_of_clicks(1_500, 4, LOOKED, noise=0.3)
    fair, attracts = shop_of_clicks(400, 5, np.ones(12), noise=0.3)
    half = lists.between(0, 1_200), lists.between(1_200, 1_500)
    options = TrainingOptions(rounds=40, depth=3, threads=1)

    def regret(looked: NDArray[np.float64]) -> float:
        """What the first places attract less than they could, on lists people look at whole."""
        forest, _ = fit([half[0].rows(looked)], [half[1].rows(looked)], options, start="")
        scores = forest.inplace_predict(fair.features, predict_type="margin").reshape(-1, 12)
        best = np.take_along_axis(attracts, np.argsort(-scores, axis=1)[:, :3], axis=1)
        return float(np.sort(attracts, axis=1)[:, -3:].mean() - best.mean())

    corrected = regret(examination(half[0].features, half[0].taken, half[0].place))
    as_it_is = regret(np.ones(1))
    assert corrected < 0.8 * as_it_is, (corrected, as_it_is)


# From margins to probabilities


def test_probabilities_are_what_they_say() -> None:
    draw = np.random.default_rng(6)
    margins = draw.normal(0.0, 3.0, 20_000).astype(np.float32)
    truth = 0.4 / (1.0 + np.exp(-0.5 * margins + 1.0))
    taken = draw.random(len(margins)) < truth
    found = calibrate(margins, taken, 10_000, "shown")
    assert found is not None
    assert (found.method, found.rows, found.of) == ("isotonic", 10_000, "shown")
    assert np.abs(found.probability(margins) - truth).mean() < 0.02
    assert found.error < 0.02
    assert found.brier < found.brier_constant
    assert (np.diff(found.probabilities) >= 0).all()
    over = np.array([found.probability(np.array([it], np.float32))[0] for it in (-99.0, 99.0)])
    assert ((over >= 0) & (over <= 1)).all()


def test_a_map_that_was_fitted_on_another_world_is_told() -> None:
    draw = np.random.default_rng(7)
    margins = draw.normal(0.0, 1.0, 8_000).astype(np.float32)
    chance = np.where(np.arange(8_000) < 4_000, 0.1, 0.4)
    found = calibrate(margins, draw.random(8_000) < chance, 4_000, "candidates")
    assert found is not None
    assert found.error > 0.25


def test_calibration_depends_on_the_amount_of_data() -> None:
    """Few outcomes give two parameters, and very few give none."""
    draw = np.random.default_rng(8)
    margins = draw.normal(0.0, 1.0, 600).astype(np.float32)
    taken = draw.random(600) < 1.0 / (1.0 + np.exp(-2.0 * margins + 1.5))
    found = calibrate(margins, taken, 300, "shown")
    assert found is not None
    assert found.method == "platt"
    assert (np.diff(found.probabilities) >= 0).all()
    assert calibrate(margins, taken & (np.arange(600) > 550), 300, "shown") is None
    assert calibrate(margins, np.ones(600, np.bool_), 300, "shown") is None
    turned = calibrate(-margins, taken, 300, "shown")
    assert turned is not None
    assert len(set(turned.probabilities)) == 1, "a better score never means a smaller probability"


# All of it


def past() -> tuple[list[Entry], int]:
    """The log of a small shop, and the time of the last thing taken."""
    what: list[Entry] = list(entries(make_shop(3, people=8, items=40, days=30)))
    events = [it for it in what if isinstance(it, Event)]
    return what, max(it.timestamp for it in events if it.type in ("add_to_cart", "purchase"))


@pytest.mark.slow
def test_a_training_learns_from_what_was_shown(tmp_path: Path) -> None:
    """Of lists in an order of chance, people take what has the highest price."""
    what, end = past()
    draw = np.random.default_rng(9)
    price = RANKING_FEATURES.index("price")
    for number in range(600):
        at = end - 13 * DAY + number * (12 * DAY // 600)
        features = draw.standard_normal((10, WIDTH)).astype("<f4")
        features[:, RANKING_FEATURES.index(START)] = 0.1
        best = int(np.argmax(features[:, price]))
        items = [f"i{n}" for n in range(10)]
        encoded = b64encode(features.tobytes()).decode()
        meaning = layout(columns_fingerprint(definitions()))
        what.append(shown(f"r{number}", at, items, features=encoded, layout=meaning))
        what.append(outcome(f"r{number}", at + HOUR, f"i{best}"))
        if number % 2:
            what.append(outcome(f"r{number}", at + 30 * HOUR, f"i{(best + 1) % 10}"))
    found: dict[int, Any] = {}
    for lists in (0, 10_000):
        options = TrainingOptions(
            label_days=14,
            lists=60,
            rounds=20,
            threads=1,
            shown=lists,
            outcome_hours=24,
            validation=0.4,
        )
        with write_log(tmp_path / f"log-{lists}", what) as log:
            train(log, definitions(), tmp_path / f"model-{lists}", options)
        found[lists] = read_manifest(tmp_path / f"model-{lists}")
    without, with_ = found[0], found[10_000]
    assert (without.shown, "shown_ndcg" in without.metrics) == (0, False)
    assert 400 < with_.shown <= 600
    assert with_.data_hash != without.data_hash
    assert next(iter(with_.gains)) == "price"
    assert with_.metrics["shown_ndcg"] > 0.9 > 0.7 > with_.metrics["shown_ndcg_as_served"]
    assert with_.calibration is not None
    assert with_.calibration.of == "shown"
    assert min(with_.looked) > 0.7, "an order of chance, and every place was looked at"


@pytest.mark.slow
def test_lists_across_the_cut_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    what, end = past()
    meaning = layout(columns_fingerprint(definitions()))
    for number in range(14 * 24):
        at = end - 14 * DAY + number * HOUR
        what.append(shown(f"r{number}", at, ["i1", "i2"], layout=meaning))
        what.append(outcome(f"r{number}", at, "i2"))
    asked: list[tuple[int, int, int]] = []
    honest = ShownLists.between

    def watch(self: ShownLists, first: int, last: int) -> ShownLists:
        part = honest(self, first, last)
        asked.append((first, last, len(part)))
        return part

    monkeypatch.setattr(ShownLists, "between", watch)
    options = TrainingOptions(label_days=14, lists=60, rounds=3, threads=1, validation=0.4)
    with write_log(tmp_path / "log", what) as log:
        train(log, definitions(), tmp_path / "model", options)
    (_, learned_until, learned), (judged_from, _, judged) = asked
    assert judged_from - learned_until == DAY
    assert learned
    assert judged


def test_lists_without_a_candidate_do_no_harm() -> None:
    draw = np.random.default_rng(11)
    features = draw.standard_normal((400, 2)).astype(np.float32)
    labels = np.tile(np.array([True, False, False, False]), 100)
    options = TrainingOptions(rounds=5, depth=2, threads=1)
    full = Rows(features, labels, np.full(100, 4), np.ones(100, np.float32))
    sizes = np.concatenate([[0], np.full(50, 4), [0, 0], np.full(50, 4), [0]])
    holes = Rows(features, labels, sizes, np.ones(len(sizes), np.float32))
    (one, curve), (other, same) = (fit([rows], [rows], options, start="") for rows in (full, holes))
    assert curve == same
    assert one.save_raw("json") == other.save_raw("json")


def test_the_forest_takes_weights_of_lists() -> None:
    """A list that counts a hundred times as much decides."""
    draw = np.random.default_rng(10)
    features = draw.standard_normal((400, 2)).astype(np.float32).reshape(100, 4, 2)
    for number, rows in enumerate(features):
        rows[0] = (3.0, -3.0) if number % 2 else (-3.0, 3.0)
    labels = np.tile(np.array([True, False, False, False]), 100)

    def forest(weights: NDArray[np.float32]) -> xgboost.Booster:
        rows = Rows(features.reshape(-1, 2), labels, np.full(100, 4), weights)
        options = TrainingOptions(rounds=20, depth=2, threads=1)
        return fit([rows], [rows], options, start="")[0]

    heavy = np.where(np.arange(100) % 2, 100.0, 1.0).astype(np.float32)
    probe = np.array([[3.0, -3.0], [-3.0, 3.0]], np.float32)
    for weights, first in ((heavy, 0), (heavy[::-1].copy(), 1)):
        scores = forest(weights).inplace_predict(probe, predict_type="margin")
        assert int(np.argmax(scores)) == first


def test_intents_are_read_with_what_followed(tmp_path: Path) -> None:
    """Also of lists without features, which no model ranked."""
    told = LoggedIntent(known=False, trust=0.5, total=0.9, ratios=[3.0, 0.0], chances=[0.25, 0.125])
    intent = told.write()
    heuristic: dict[str, Any] = {"features": None, "intent": intent}
    what = [
        shown("r", BEGIN, ["i1", "i2"], **heuristic),
        outcome("r", BEGIN + HOUR, "i2"),
        shown("nothing taken", BEGIN, ["i1", "i2"], intent=intent),
        shown("late", BEGIN, ["i1", "i2"], **heuristic),
        outcome("late", BEGIN + 2 * HOUR, "i2"),
        shown("forced", BEGIN, ["i1", "i2"], forced=True, **heuristic),
        outcome("forced", BEGIN + HOUR, "i1"),
        shown("other length", BEGIN, ["i1"], features=None, intent=intent),
        outcome("other length", BEGIN + HOUR, "i1"),
        shown("damaged", BEGIN, ["i1", "i2"], intent="{}"),
        outcome("damaged", BEGIN + HOUR, "i1"),
        shown("without", BEGIN, ["i1", "i2"]),
        outcome("without", BEGIN + HOUR, "i1"),
    ]
    reading = ShownReading(LAYOUT, BEGIN, BEGIN + DAY, OPTIONS, TAKEN)
    with write_log(tmp_path / "log", what) as log:
        reading.add([*log.read(log.begin, len(what))])
    [held] = reading.intended(np.array([1.0, 0.25]))
    assert not held.known and held.total == 0.9
    assert held.chances.tolist() == told.chances and held.ratios.tolist() == told.ratios
    assert held.taken.tolist() == [0.0, 4.0]  # seldom looked at
    wanted = 4 * np.log(1 - 0.9 * 0.5) - 4 * np.log(0.25 * (1 - 0.45 + 1.5) + 0.125 * (1 - 0.45))
    assert held.likelihood(np.array([0.5])).tolist() == pytest.approx([wanted])
