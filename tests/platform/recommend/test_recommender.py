"""One request, one list: what may be shown, to whom, by which model, and what is logged of it."""

from __future__ import annotations

import random
import shutil
import threading
from base64 import b64decode
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray
from tests.platform.shop import (
    SERVICE,
    definitions,
    engine_at,
    entries,
    make_shop,
    train_version,
    write_log,
)
from tests.platform.support import Live, small_settings

from tactful.bandits.decisions import read_decision
from tactful.bandits.definitions import read_bandit
from tactful.bandits.model import arrays_of, new_policy
from tactful.bandits.serving import PublishedBandit, encode_published
from tactful.catalogue.request_context import RequestContext
from tactful.config.engine import EngineSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.errors import ConfigError
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.serving import Served as ServedNow
from tactful.ranking.features import RANKING_FEATURES, columns_fingerprint
from tactful.ranking.model import (
    Pointer,
    RankingModel,
    load_model,
    read_manifest,
    version_directory,
    write_pointer,
)
from tactful.recall.candidates import Quotas
from tactful.recall.index import CHANNELS
from tactful.recommend import served_models
from tactful.recommend.build import build
from tactful.recommend.recommender import (
    HEURISTIC,
    LEARNED,
    RANKING_EXPERIMENT,
    Recommender,
    RecommenderOptions,
)
from tactful.schemas.problems import ProblemError
from tactful.schemas.recommendations import Recommendation, RecommendRequest
from tactful.server.platform import Platform
from tactful.training.evaluation import CUTOFF
from tactful.training.options import TrainingOptions
from tactful.training.questions import Question
from tactful.training.replay_rows import collect, replay_engine
from tactful_bandits.assignment.assign import Arm, Experiment, assign
from tactful_bandits.assignment.definitions import load_experiments
from tactful_streaming.contract.log_entries import Entry, Event, Item, decode_entry, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState, RocksState

SHOP = make_shop(7, people=14, items=70, days=40)
ENTRIES = entries(SHOP)
UPSERTS = len(ENTRIES) - len(SHOP)
NOW = int(SHOP.timestamp[-1]) + 1
SHIPPED = Experiment(RANKING_EXPERIMENT, (Arm(HEURISTIC, 0.1), Arm(LEARNED, 0.9)))


@dataclass(frozen=True)
class Served:
    """A log and two models learned from two spans of it."""

    log: EmbeddedLog
    models: Path


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Served:
    directory = tmp_path_factory.mktemp("served")
    log = write_log(directory / "log", ENTRIES)
    for version, share in (("1", 0.6), ("2", 1.0)):
        part = write_log(directory / f"part-{version}", ENTRIES[: int(share * len(ENTRIES))])
        train_version(part, directory / "models", version)
        part.close()
    write_pointer(directory / "models", Pointer(version="1"))
    return Served(log, directory / "models")


@pytest.fixture
def models(served: Served, tmp_path: Path) -> Path:
    """A copy of the models that a test may change."""
    return Path(shutil.copytree(served.models, tmp_path / "models"))


@pytest.fixture
def engine(served: Served) -> Engine:
    return engine_at(Engine(definitions(), MemoryState()), served.log, served.log.end)


def recommender(engine: Engine, models: Path, **changes: Any) -> Recommender:
    fingerprint = columns_fingerprint(definitions())
    options: dict[str, Any] = {"definitions": fingerprint, "experiment": SHIPPED, **changes}
    return Recommender(engine, RecommenderOptions(models=models, **options))


def apply(engine: Engine, *entries: Entry) -> None:
    first = engine.offset
    engine.apply([(first + number, encode_entry(it)) for number, it in enumerate(entries)])


bought = partial(Event, type="purchase", timestamp=NOW)


def learner() -> str:
    """Somebody whose arm is the learned one."""
    return next(p for p in SHOP.person if assign(SHIPPED, p).arm == LEARNED)


def ids(answer: Recommendation) -> list[str]:
    return [item.item_id for item in answer.items]


def decoded(impression: bytes | None) -> Event:
    assert impression is not None
    entry = decode_entry(impression)
    assert isinstance(entry, Event)
    return entry


def features_of(impression: Event) -> NDArray[np.float32]:
    raw = impression.properties["features"]
    assert isinstance(raw, str)
    return np.frombuffer(b64decode(raw), "<f4").reshape(-1, len(RANKING_FEATURES))


# What may be shown


def test_an_empty_catalogue_says_why_and_the_first_items_show_at_once(tmp_path: Path) -> None:
    fresh = Engine(definitions(), MemoryState())
    ranked = recommender(fresh, tmp_path)
    answer, impression = ranked.recommend(RecommendRequest(user_id="u"), now=NOW)
    assert (answer.items, impression) == ([], None)
    assert answer.fallback == "the catalogue is empty: send items with PUT /v1/items"
    assert answer.model_version == HEURISTIC
    apply(fresh, Item(item_id="tea", timestamp=0))
    assert ids(ranked.recommend(RecommendRequest(user_id="ada"), now=NOW)[0]) == ["tea"]


def test_a_catalogue_nobody_touched_yet_is_shown_nevertheless(tmp_path: Path) -> None:
    """Before the first champion the heuristic serves."""
    fresh = Engine(definitions(), MemoryState())
    apply(fresh, *(Item(item_id=it, timestamp=0, available=it != "c") for it in "bac"))
    ranked = recommender(fresh, tmp_path)
    answer, impression = ranked.recommend(RecommendRequest(user_id=learner(), count=2), now=NOW)
    assert ids(answer) == ["a", "b"]
    assert {item.channel for item in answer.items} == {"popular"}
    assert ranked.describe()["champion"] is None
    assert answer.model_version == HEURISTIC
    assert answer.variant == {}, "nobody was exposed to an arm that cannot be served"
    assert decoded(impression).properties["arm"] is None
    no_model = "no model is trained yet: ordered by own repeats, similar visits and popularity"
    assert answer.fallback == f"{no_model}; this user has no history yet: ordered by popularity"
    apply(fresh, bought(event_id="b", user_id="u", item_id="b"))
    again, _ = ranked.recommend(RecommendRequest(user_id="u", count=2), now=NOW)
    assert again.fallback == no_model


@pytest.mark.parametrize("trained", [False, True])
def test_items_are_filtered(engine: Engine, models: Path, tmp_path: Path, trained: bool) -> None:
    recommend = recommender(engine, models if trained else tmp_path / "none").recommend
    person = learner()

    def ask(**fields: Any) -> tuple[list[str], Recommendation]:
        request = RecommendRequest(user_id=person, count=200, **fields)
        answer, _ = recommend(request, now=NOW)
        assert len(set(ids(answer))) == len(answer.items)
        return ids(answer), answer

    everything, answer = ask()
    assert SERVICE not in everything, "it sells best and is not for sale"
    assert f"only {len(everything)} items" in (answer.fallback or "")
    first_half, _ = ask(exclude=(*everything[: len(everything) // 2], "no-such-item"))
    assert len(everything) > 40
    assert not set(first_half) & set(everything[: len(everything) // 2])
    assert set(everything[len(everything) // 2 :]) <= set(first_half)
    for category in ("kind-0", "kind-7"):
        found, _ = ask(category=category)
        assert set(found) == {it.item_id for it in engine.items.values() if it.category == category}
        fewer, _ = ask(category=category, exclude=found[:2])
        assert fewer == found[2:]
    for category in ("service", "kind-99"):
        found, answer = ask(category=category)
        assert found == []
        assert "only 0 items passed the filters" in (answer.fallback or "")


def test_prices_what_was_seen_and_what_was_taken_are_filtered(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    person = learner()

    def ask(**fields: Any) -> set[str]:
        request = RecommendRequest(user_id=person, count=1_000, **fields)
        return set(ids(ranked.recommend(request, now=NOW)[0]))

    with pytest.raises(ProblemError, match="above"):
        ask(min_price=2.0, max_price=1.0)
    everything = ask()
    on_sale = {it.item_id for it in engine.items.values() if it.available}
    assert everything == on_sale, "a long list holds all there is"
    prices = {it.item_id: it.price for it in engine.items.values() if it.available}
    middle = float(np.median([price for price in prices.values() if price is not None]))
    dear = {it for it, price in prices.items() if price is not None and price >= middle}
    cheap = {it for it, price in prices.items() if price is not None and price <= middle}
    assert ask(min_price=middle) == dear
    assert ask(max_price=middle) == cheap
    assert ask(min_price=middle, max_price=middle) == dear & cheap
    user: Mapping[str, Any] = engine.read("user", person, NOW)
    took = set(user["taken_last"]) & on_sale
    assert took
    assert ask(exclude_taken=True) == on_sale - took
    seen = {it for it, _ in user["recent_items"]}
    assert ask(exclude_seen=True) == on_sale - took - seen


def test_an_intent_adds_candidates_of_its_categories(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    for kind in ("kind-0", "kind-3"):
        request = RecommendRequest(intent={kind: 1.0, "no-such-kind": 0.5}, count=70)
        answer, _ = ranked.recommend(request, now=NOW)
        assert {it.item_id for it in engine.items.values() if it.category == kind} <= set(
            ids(answer)
        )


def test_an_arm_may_have_quotas_of_its_own(engine: Engine, models: Path) -> None:
    silent = dict.fromkeys(Quotas.__struct_fields__[:-1], 0)
    arms = (Arm(HEURISTIC, 0.1), Arm(LEARNED, 0.9, {"quotas": {**silent, "popular": 5}}))
    ranked = recommender(engine, models, experiment=Experiment(RANKING_EXPERIMENT, arms))
    request = RecommendRequest(user_id=learner(), count=5)
    answer, _ = ranked.recommend(request, now=NOW)
    assert {item.channel for item in answer.items} == {"popular"}
    forced = msgspec.structs.replace(request, force={RANKING_EXPERIMENT: HEURISTIC})
    assert {item.channel for item in ranked.recommend(forced, now=NOW)[0].items} != {"popular"}
    wrong = (Arm(HEURISTIC, 0.1), Arm(LEARNED, 0.9, {"quotas": {"vector": 5}}))
    with pytest.raises(ConfigError, match=r"arm 'learned': quotas: .* unknown field `vector`"):
        recommender(engine, models, experiment=Experiment(RANKING_EXPERIMENT, wrong))


def test_a_sold_out_item_is_gone_after_the_refresh(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    request = RecommendRequest(user_id=learner(), count=20)
    before = ids(ranked.recommend(request, now=NOW)[0])
    sold_out = msgspec.structs.replace(engine.items[before[0]], available=False)
    apply(engine, sold_out)
    ranked.refresh()
    after = ids(ranked.recommend(request, now=NOW)[0])
    assert before[0] not in after
    assert set(before[1:]) <= set(after)


def test_a_list_is_never_longer_than_asked_and_best_first(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    longest, _ = ranked.recommend(RecommendRequest(user_id=learner(), count=200), now=NOW)
    for count in (1, 5, CUTOFF):
        answer, _ = ranked.recommend(RecommendRequest(user_id=learner(), count=count), now=NOW)
        assert ids(answer) == ids(longest)[:count]
        assert answer.fallback is None
    scores = [item.score for item in longest.items]
    assert scores == sorted(scores, reverse=True)
    assert {item.channel for item in longest.items} <= set(CHANNELS)


# To whom


def test_a_stranger_gets_what_is_popular_and_is_told_so(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    for request, reason in (
        (RecommendRequest(user_id="stranger"), "this user has no history yet"),
        (RecommendRequest(device_id="stranger"), "this user has no history yet"),
        (RecommendRequest(), "no user is named: not personal"),
    ):
        answer, impression = ranked.recommend(request, now=NOW)
        assert len(answer.items) == 20
        assert reason in (answer.fallback or "")
        event = decoded(impression)
        assert (event.user_id, event.device_id) == (request.user_id, request.device_id)


def test_nobody_is_in_no_arm_unless_one_is_forced(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    answer, impression = ranked.recommend(RecommendRequest(), now=NOW)
    assert answer.variant == {}
    assert answer.model_version == HEURISTIC, "popularity: nothing is known"
    said = decoded(impression).properties
    assert (said["arm"], said["forced"]) == (None, False)
    request = RecommendRequest(force={RANKING_EXPERIMENT: HEURISTIC})
    answer, impression = ranked.recommend(request, now=NOW)
    assert (answer.variant, answer.model_version) == ({RANKING_EXPERIMENT: HEURISTIC}, HEURISTIC)
    assert decoded(impression).properties["forced"] is True


def test_a_forced_arm_shapes_lists_before_a_model_is_trained(
    engine: Engine, tmp_path: Path
) -> None:
    """By its objective: what the model would add is missing, and the answer says so."""
    arms = (Arm(HEURISTIC, 0.5), Arm("cheap", 0.5, {"objective": {"relevance": 0, "price": 1}}))
    ranked = recommender(engine, tmp_path, experiment=Experiment(RANKING_EXPERIMENT, arms))
    request = RecommendRequest(user_id=learner(), count=8)
    own, _ = ranked.recommend(request, now=NOW)
    forced = msgspec.structs.replace(request, force={RANKING_EXPERIMENT: "cheap"})
    answer, impression = ranked.recommend(forced, now=NOW)
    assert (own.variant, answer.variant) == ({}, {RANKING_EXPERIMENT: "cheap"})
    assert answer.model_version == HEURISTIC
    said = decoded(impression).properties
    assert (said["arm"], said["forced"]) == ("cheap", True)
    assert said["objective"] == ["price=1"]
    prices = [[engine.items[item].price or 0.0 for item in ids(listed)] for listed in (own, answer)]
    assert sum(prices[1]) < sum(prices[0])


def test_a_device_has_a_history_of_its_own(models: Path, engine: Engine) -> None:
    taken = [f"item-{number:03d}" for number in range(5)] * 3
    ids_of = [f"phone-{number}" for number in range(len(taken))]
    made = zip(ids_of, taken, strict=True)
    apply(engine, *(bought(event_id=n, device_id="phone", item_id=item) for n, item in made))
    ranked = recommender(engine, models)
    force = {RANKING_EXPERIMENT: HEURISTIC}
    later = NOW + 3_600_000  # else what was taken is of this visit
    mine, _ = ranked.recommend(RecommendRequest(device_id="phone", force=force), now=later)
    other, _ = ranked.recommend(RecommendRequest(user_id="phone", force=force), now=later)
    assert mine.fallback is None
    assert set(taken) <= set(ids(mine))
    assert ids(mine) != ids(other)
    assert "no history yet" in (other.fallback or "")


def test_the_arm_is_the_one_the_experiment_assigns(
    engine: Engine, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RequestContext, "known", True)  # else popularity orders in every arm
    (shipped,) = load_experiments(Settings().experiments)
    storage = StorageSettings(data=models.parent, models=models)
    ranked = build(engine=engine, settings=Settings(storage=storage))
    arms: list[str | None] = []
    for number in range(200):
        for request in (
            RecommendRequest(user_id=f"u-{number}", count=1),
            RecommendRequest(device_id=f"u-{number}", count=1),
        ):
            answer, impression = ranked.recommend(request, now=NOW)
            wanted = assign(shipped, request.subject or "")
            arms.append(wanted.arm)
            said = decoded(impression).properties
            assert answer.variant == {shipped.key: wanted.arm}
            assert answer.model_version == (HEURISTIC if wanted.arm == HEURISTIC else "1")
            assert (said["arm"], said["experiment"]) == (wanted.arm, shipped.key)
            assert said["propensity"] == wanted.propensity
            assert said["forced"] is False
    assert 15 <= arms.count(HEURISTIC) <= 75, "of 400, a tenth"


def test_a_forced_arm_is_marked_and_leaves_others_alone(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    person = learner()
    for arm, version in ((LEARNED, "1"), (HEURISTIC, HEURISTIC)):
        answer, impression = ranked.recommend(
            RecommendRequest(user_id=person, force={RANKING_EXPERIMENT: arm, "other": "x"}), now=NOW
        )
        said = decoded(impression).properties
        assert (answer.model_version, answer.variant) == (version, {RANKING_EXPERIMENT: arm})
        assert (said["forced"], said["propensity"], said["arm"]) == (True, None, arm)
        assert ("features" in said) is (arm == LEARNED)
    assert ranked.recommend(RecommendRequest(user_id=person), now=NOW)[0].model_version == "1"


def test_an_arm_that_does_not_exist_is_the_callers_mistake(tmp_path: Path) -> None:
    settings = replace(small_settings(tmp_path), engine=EngineSettings())
    with Live(Platform.open(settings, build)) as live:
        answer = live.http.post(
            "/v1/recommend", json={"user_id": "u", "force": {RANKING_EXPERIMENT: "best"}}
        )
        assert answer.status_code == 422
        assert answer.json()["field"] == "$.force"
        assert "heuristic" in answer.json()["detail"]


# Equal state, equal list


def test_equal_state_gives_equal_lists(served: Served, models: Path, tmp_path: Path) -> None:
    """Whatever the batches, and after a restart from disk."""
    whole = engine_at(Engine(definitions(), MemoryState()), served.log, served.log.end)
    pieces = Engine(definitions(), RocksState(tmp_path / "state"))
    draw = random.Random(0)
    while pieces.offset < served.log.end:
        engine_at(pieces, served.log, pieces.offset + draw.randint(1, 400))
        if draw.random() < 0.2:
            pieces.commit()
    pieces.commit()
    pieces.close()
    reopened = Engine(definitions(), RocksState(tmp_path / "state"))
    for directory in (models, tmp_path / "none"):
        one, other = (
            recommender(it, directory, new_id=lambda: "r", stopwatch=lambda: 0.0)
            for it in (whole, reopened)
        )
        for person in sorted(set(SHOP.person)):
            for arm in (LEARNED, HEURISTIC):
                request = RecommendRequest(
                    user_id=person, count=200, force={RANKING_EXPERIMENT: arm}
                )
                mine, logged = one.recommend(request, now=NOW)
                theirs, logged_there = other.recommend(request, now=NOW)
                assert mine.items == theirs.items
                assert logged == logged_there
    reopened.close()


def test_an_impression_may_be_encoded_later(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models, new_id=lambda: "r", stopwatch=lambda: 0.0)
    requests = [RecommendRequest(user_id=person) for person in sorted(set(SHOP.person))]
    waiting = [ranked.answer(request, now=NOW) for request in requests]
    for request, (answer, impression) in zip(requests, waiting, strict=True):
        assert impression is not None
        assert (answer, impression()) == ranked.recommend(request, now=NOW)


def test_ties_do_not_depend_on_a_restart(tmp_path: Path) -> None:
    first = Engine(definitions(), RocksState(tmp_path / "state"))
    items = [Item(item_id=f"i{number * 7 % 30}", timestamp=0) for number in range(30)]
    assert [item.item_id for item in items] != sorted(item.item_id for item in items)
    apply(first, *items)
    request = RecommendRequest(user_id="u", count=30)
    before = ids(recommender(first, tmp_path / "none").recommend(request, now=NOW)[0])
    assert len(before) == 30
    first.commit()
    first.close()
    again = Engine(definitions(), RocksState(tmp_path / "state"))
    assert ids(recommender(again, tmp_path / "none").recommend(request, now=NOW)[0]) == before
    again.close()


# No skew


@pytest.mark.slow
def test_no_training_serving_skew(served: Served, models: Path, tmp_path: Path) -> None:
    """Float for float: the list is logged before its event, and training replays to the same."""
    index = load_model(
        version_directory(models, "1"), definitions=columns_fingerprint(definitions())
    ).index
    live = Engine(definitions(), RocksState(tmp_path / "state"))
    draw = random.Random(1)
    asks = sorted(draw.sample(SHOP.asks, 12), key=lambda ask: ask.before)
    questions = [
        Question(UPSERTS + it.before, it.at, it.person, it.session_id, it.taken) for it in asks
    ]
    opened = partial(replay_engine, definitions())
    _, replayed = collect(served.log, opened, index, questions, 0, TrainingOptions())
    ends = np.cumsum(replayed.sizes)[:-1]
    features, labels = np.split(replayed.features, ends), np.split(replayed.labels, ends)
    for number, (ask, rows, taken) in enumerate(zip(asks, features, labels, strict=True)):
        offset = UPSERTS + ask.before
        engine_at(live, served.log, offset, chunk=draw.randint(1, 300))
        if number % 3 == 0:
            live.commit()
            live.close()
            live = Engine(definitions(), RocksState(tmp_path / "state"))
        request = RecommendRequest(
            user_id=ask.person,
            session_id=ask.session_id,
            timestamp=ask.at,
            count=200,
            force={RANKING_EXPERIMENT: LEARNED},
        )
        answer, impression = recommender(live, models).recommend(request, now=0)
        shown = features_of(decoded(impression))
        by_row = np.argsort([index.item_ids.index(it) for it in ids(answer)])
        assert shown.shape == (len(answer.items), len(RANKING_FEATURES))
        assert np.array_equal(shown[by_row], rows, equal_nan=True)
        assert {ids(answer)[place] for place in by_row[taken]} == ask.taken & set(ids(answer))
    live.close()


# What is logged


def test_an_impression_holds_the_list_as_it_was_shown(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models, new_id=lambda: "r-1")
    request = RecommendRequest(
        user_id=learner(), device_id="d", session_id="s", count=7, timestamp=NOW + 5
    )
    answer, impression = ranked.recommend(request, now=NOW)
    event = decoded(impression)
    assert (event.event_id, event.recommendation_id) == ("impression:r-1", "r-1")
    assert event.type == "impression"
    assert (event.user_id, event.device_id, event.session_id) == (learner(), "d", "s")
    assert event.timestamp == NOW + 5
    said = event.properties
    assert said["items"] == ids(answer)
    assert said["scores"] == [item.score for item in answer.items]
    assert said["channels"] == [item.channel for item in answer.items]
    assert said["model_version"] == answer.model_version == "1"
    model = load_model(
        version_directory(models, "1"), definitions=columns_fingerprint(definitions())
    )
    assert model.score(features_of(event)).tolist() == said["scores"]


def test_an_impression_changes_nobodys_features(engine: Engine, models: Path) -> None:
    request = RecommendRequest(user_id=learner(), session_id="s", timestamp=NOW)
    _, impression = recommender(engine, models).recommend(request, now=NOW)
    assert impression is not None

    def everything() -> Any:
        return [
            *(engine.read("user", person, NOW) for person in sorted(set(SHOP.person))),
            *(engine.read("item", item, NOW) for item in sorted(engine.items)),
            engine.read("session", "s", NOW),
        ]

    before = everything()
    _, nobodys = recommender(engine, models).recommend(RecommendRequest(), now=NOW)
    assert nobodys is not None
    for each in (impression, nobodys):
        assert engine.apply([(engine.offset, each)]).invalid == 0
    assert everything() == before


# Models come and go


def test_a_new_champion_takes_over_at_the_next_refresh(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    assert ranked.describe()["champion"]["version"] == "1"
    write_pointer(models, Pointer(version="2", previous="1"))
    ranked.refresh()
    told = ranked.describe()
    manifest = read_manifest(version_directory(models, "2"))
    assert told["champion"] == {
        "name": "ranker",
        "version": "2",
        "run_id": "",
        "trained_until": manifest.trained_until,
        "metrics": manifest.metrics,
        "evaluated": "kernel",
    }
    assert told["refused"] is None
    assert told["items"] == told["indexed_items"] == len(SHOP.items)
    assert told["experiment"] == {"key": RANKING_EXPERIMENT, "arms": {HEURISTIC: 0.1, LEARNED: 0.9}}
    (models / "champion.json").write_bytes(b"{")
    ranked.refresh()
    assert ranked.describe()["champion"]["version"] == "2", "a damaged pointer changes nothing"
    assert "champion.json" in ranked.describe()["refused"]


def spoil(directory: Path, what: str) -> None:
    """Damage the manifest or the forest of a model."""
    if what == "features":
        manifest = msgspec.structs.replace(
            read_manifest(directory), features=("other", *RANKING_FEATURES[1:])
        )
        (directory / "manifest.json").write_bytes(msgspec.json.encode(manifest))
    else:
        forest = directory / "model.ubj"
        forest.write_bytes(forest.read_bytes()[:-40])


@pytest.mark.parametrize(
    ("what", "said"),
    [("features", "features are not the server's"), ("forest", "not an XGBoost model")],
)
def test_a_champion_that_does_not_fit_is_refused(
    engine: Engine, models: Path, what: str, said: str, caplog: pytest.LogCaptureFixture
) -> None:
    ranked = recommender(engine, models)
    request = RecommendRequest(user_id=learner())
    before, _ = ranked.recommend(request, now=NOW)
    spoil(version_directory(models, "2"), what)
    write_pointer(models, Pointer(version="2", previous="1"))
    for _ in range(3):
        ranked.refresh()
    told = ranked.describe()
    assert told["champion"]["version"] == "1"
    assert said in told["refused"]
    assert ranked.recommend(request, now=NOW)[0].items == before.items
    refusals = [record for record in caplog.records if "refused" in record.message]
    assert len(refusals) == 1, "told once, not every second"
    write_pointer(models, Pointer(version="1"))
    ranked.refresh()
    assert ranked.describe()["refused"] is None, "what is asked for serves again"


@pytest.mark.parametrize("previous", ["", "1"])
def test_unfit_champion_at_the_start(engine: Engine, models: Path, previous: str) -> None:
    """If there was none before, the heuristic serves."""
    spoil(version_directory(models, "2"), "forest")
    write_pointer(models, Pointer(version="2", previous=previous))
    ranked = recommender(engine, models)
    for _ in range(2):
        champion = ranked.describe()["champion"]
        assert (champion["version"] if champion else "") == previous
        assert "not an XGBoost model" in ranked.describe()["refused"]
        assert len(ranked.recommend(RecommendRequest(user_id="u"), now=NOW)[0].items) == 20
        ranked.refresh()


def test_a_removed_pointer_to_the_champion_is_named(
    engine: Engine, models: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Else a server answers without its model, and nothing says why."""
    (models / "champion.json").unlink()
    assert recommender(engine, models).describe()["champion"] is None
    assert f"{models / 'champion.json'} is missing" in caplog.text
    caplog.clear()
    recommender(engine, models.parent / "none")
    assert "missing" not in caplog.text


@pytest.mark.slow
def test_a_swap_under_load_leaves_every_list_of_one_model(engine: Engine, models: Path) -> None:
    people = sorted(set(SHOP.person))[:6]
    requests = [
        RecommendRequest(user_id=p, count=30, force={RANKING_EXPERIMENT: arm})
        for p in people
        for arm in (LEARNED, HEURISTIC)
    ]

    def key(answer: Recommendation) -> tuple[Any, ...]:
        return (answer.model_version, tuple((it.item_id, it.score) for it in answer.items))

    wanted: list[set[tuple[Any, ...]]] = [set() for _ in requests]
    for version in ("1", "2"):
        write_pointer(models, Pointer(version=version))
        quiet = recommender(engine, models)
        for place, request in enumerate(requests):
            wanted[place].add(key(quiet.recommend(request, now=NOW)[0]))
    assert any(len(both) == 2 for both in wanted), "the versions differ"
    ranked = recommender(engine, models)
    stop = threading.Event()
    mixed: list[Any] = []
    counts = {"1": 0, "2": 0, HEURISTIC: 0}

    def ask(start: int) -> None:
        number = start
        while not stop.is_set():
            place = number % len(requests)
            answer, _ = ranked.recommend(requests[place], now=NOW)
            counts[answer.model_version] += 1
            if key(answer) not in wanted[place]:
                mixed.append((place, answer))
            number += 1

    threads = [threading.Thread(target=ask, args=(start,)) for start in range(3)]
    for thread in threads:
        thread.start()
    for number in range(24):
        write_pointer(models, Pointer(version=str(1 + number % 2)))
        ranked.refresh()
    stop.set()
    for thread in threads:
        thread.join()
    assert not mixed
    assert min(counts.values()) > 0, counts


def test_new_items_are_candidates_without_a_new_model(engine: Engine, models: Path) -> None:
    ranked = recommender(engine, models)
    new = Item(item_id="new", timestamp=NOW, category="kind-0", price=1.0)
    people = [f"early-{number}" for number in range(200)]
    apply(engine, new, *(bought(event_id=it, user_id=it, item_id="new") for it in people))
    ranked.refresh()
    answer, _ = ranked.recommend(RecommendRequest(user_id=learner(), count=200), now=NOW)
    assert "new" in ids(answer)
    assert ranked.describe()["items"] == ranked.describe()["indexed_items"] + 1


@pytest.mark.parametrize(
    ("how", "told_why"),
    [("raises", "fails (ValueError: a planted one)"), ("gives no number", "no numbers")],
)
def test_the_champion_ranks_where_a_model_on_trial_fails(
    how: str,
    told_why: str,
    engine: Engine,
    models: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def score(features: NDArray[np.float32]) -> NDArray[np.float32]:
        if how == "raises":
            raise ValueError("a planted one")
        return np.full(len(features), np.nan, np.float32)

    def load(directory: Path, **options: Any) -> RankingModel:
        model = load_model(directory, **options)
        return model if model.manifest.version == "1" else replace(model, score=score)

    monkeypatch.setattr(served_models, "load_model", load)
    file = tmp_path / "rollouts.json"
    tried = RolloutDefinition(key="trial", change={"model": "2"})
    file.write_bytes(msgspec.json.encode([ServedNow(tried, 1.0)]))
    trial = recommender(engine, models, rollouts=file)
    person = learner()
    answer, impression = trial.recommend(RecommendRequest(user_id=person, count=5), now=NOW)
    told = decoded(impression).properties
    assert (answer.variant["trial"], answer.model_version, told["failed"]) == ("change", "1", True)
    assert told_why in caplog.text
    plain = recommender(engine, models)
    champion, whole = plain.recommend(RecommendRequest(user_id=person, count=5), now=NOW)
    assert ids(answer) == ids(champion)
    assert "failed" not in decoded(whole).properties


def test_a_bandit_shapes_lists_and_stands_in_the_impression(
    engine: Engine, models: Path, tmp_path: Path
) -> None:
    definition = read_bandit(
        {
            "key": "order",
            "arms": [
                {"name": "as-is", "parameters": {}},
                {"name": "cheap", "parameters": {"objective": {"relevance": 0.1, "price": 1}}},
            ],
            "reward": {"event": "click"},
            "policy": "linucb",
            "features": [{"user": "visits_364d", "scale": 100}],
        }
    )
    person = RecommendRequest(user_id=learner(), count=5)

    def serve(state: Any, share: float | None, **request: Any) -> tuple[Recommendation, Event]:
        arrays = arrays_of(new_policy(definition))
        published = tmp_path / "published"
        published.write_bytes(encode_published([PublishedBandit(definition, state, arrays)]))
        rollouts = tmp_path / "rollouts.json"
        plan = RolloutDefinition(key="promote", change={"bandit": "order"})
        rolled = [] if share is None else [ServedNow(plan, share)]
        rollouts.write_bytes(msgspec.json.encode(rolled))
        ranked = recommender(engine, models, bandits=published, rollouts=rollouts)
        asked = msgspec.structs.replace(person, **request)
        answer, impression = ranked.recommend(asked, now=NOW)
        return answer, decoded(impression)

    plain, _ = recommender(engine, models).recommend(person, now=NOW)
    answer, logged = serve("shadow", None)
    assert (ids(answer), answer.variant["order"]) == (ids(plain), "as-is")
    decision = read_decision(logged)
    assert decision is not None
    assert (decision.arm, decision.propensity, decision.floor, decision.live) == (
        *("as-is", 1.0, 0.0),
        False,
    )
    assert decision.features[0] == 1.0
    assert 0 < decision.features[1] <= 1
    answer, logged = serve("live", None)
    decision = read_decision(logged)
    assert decision is not None
    assert decision.live
    assert decision.floor == pytest.approx(0.5)  # nothing is learnt: both arms are alike
    answer, logged = serve("shadow", 1.0)
    assert answer.variant["promote"] == "change"
    assert read_decision(logged).live  # type: ignore[union-attr]
    answer, logged = serve("live", 0.0)
    assert (answer.variant["promote"], answer.variant["order"]) == ("control", "as-is")
    assert not read_decision(logged).live  # type: ignore[union-attr]
    cheap, logged = serve("live", None, force={"order": "cheap"})
    assert read_decision(logged) is None
    assert ids(cheap) != ids(plain)
    answer, logged = serve("live", None, user_id=None)
    assert read_decision(logged) is None
    assert "order" not in answer.variant
    answer, logged = serve("off", None)
    assert read_decision(logged) is None
