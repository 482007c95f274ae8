"""A server without a model learns recall from its log."""

from __future__ import annotations

import asyncio
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from tests.platform.shop import definitions, engine_at, entries, make_shop, write_log
from tests.platform.understanding.tiny_picture_model import plain_picture, write_picture_model

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.config.understanding import UnderstandingSettings
from tactful.erasure.offline_stores import purge_training
from tactful.models.schedule import RecallLearner
from tactful.models.untrained_recall import learn_recall
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import Pointer, untrained_recall, write_pointer
from tactful.recall.takers import Takers
from tactful.recommend.recommender import HEURISTIC, RANKING_EXPERIMENT, Recommender
from tactful.recommend.served_models import RecommenderOptions
from tactful.schemas.recommendations import RecommendRequest
from tactful.server import background
from tactful.understanding.picture_store import PictureStore, picture_path, reference_of
from tactful.understanding.pictures import shrunk
from tactful.understanding.vector_store import content_key
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, Item, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.errors import LogUnreachableError, StreamingError
from tactful_streaming.state.store import MemoryState

SHOP = make_shop(7, people=14, items=70, days=12)
NOW = int(SHOP.timestamp[-1]) + 1
EXPERIMENT = Experiment(RANKING_EXPERIMENT, (Arm(HEURISTIC, 0.1), Arm("learned", 0.9)))


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    made = Settings(storage=StorageSettings(data=tmp_path / "data"))
    write_log(made.storage.data / "log", entries(SHOP)).close()
    return made


def test_lists_follow_similar_visits_before_anything_is_trained(
    settings: Settings, tmp_path: Path
) -> None:
    """A visitor without a history gets what others took after the item of the visit."""
    with write_log(tmp_path / "same", entries(SHOP)) as log:
        engine = engine_at(Engine(definitions(), MemoryState()), log, log.end)
    options = RecommenderOptions(
        models=settings.models,
        definitions=columns_fingerprint(definitions()),
        experiment=EXPERIMENT,
    )
    serving = Recommender(engine, options)
    view = Event(
        event_id="v",
        type="view",
        timestamp=NOW,
        user_id="new",
        session_id="s",
        item_id=str(SHOP.items[0]["item_id"]),
    )
    engine.apply([(engine.offset, encode_entry(view))])

    def channels() -> set[str]:
        request = RecommendRequest(user_id="new", session_id="s", count=20)
        answer, _ = serving.recommend(request, now=NOW)
        return {item.channel for item in answer.items}

    assert channels() == {"popular"}
    index = learn_recall(settings)
    assert index is not None
    serving.refresh()
    assert {"next", "sessions"} & channels()
    assert serving.describe()["champion"] is None
    assert serving.describe()["indexed_items"] == len(index.item_ids)
    serving.close()


def test_an_anonymous_list_follows_no_visit_of_a_few(settings: Settings, tmp_path: Path) -> None:
    with write_log(tmp_path / "same", entries(SHOP)) as log:
        engine = engine_at(Engine(definitions(), MemoryState()), log, log.end)
    options = RecommenderOptions(
        models=settings.models,
        definitions=columns_fingerprint(definitions()),
        experiment=EXPERIMENT,
        takers=Takers(3),
    )
    serving = Recommender(engine, options)
    request = RecommendRequest(session_id=SHOP.session[-1], count=20)
    before, _ = serving.recommend(request, now=NOW)
    assert learn_recall(settings) is not None
    serving.refresh()
    after, _ = serving.recommend(request, now=NOW)
    assert serving.describe()["indexed_items"] > 0
    assert after.items == before.items
    serving.close()


def test_nothing_is_learned_beside_a_champion_or_from_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    empty = Settings(storage=StorageSettings(data=tmp_path / "empty"))
    write_log(empty.storage.data / "log", entries(SHOP)[:80]).close()
    assert learn_recall(empty) is None
    write_pointer(settings.models, Pointer(version="1"))
    assert learn_recall(settings) is None
    assert not untrained_recall(settings.models).exists()


def test_the_command_learns(settings: Settings) -> None:
    arguments = ["train", "--recall-only", "--data", str(settings.storage.data)]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "is learned" in done.output
    assert (untrained_recall(settings.models) / "index.json").exists()


def test_an_outage_of_the_log_does_not_end_the_learning(settings: Settings, tmp_path: Path) -> None:
    """The loop went on for ever only while every answer of the brokers came."""
    started = tmp_path / "started"
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$4" >> {started}\n')
    python.chmod(0o700)
    ends: list[list[int] | None] = [[1], None, [1], [2], [2]]

    def end() -> list[int]:
        if (reached := ends.pop(0)) is None:
            raise LogUnreachableError("no broker answers", retry_after=1.0)
        return reached

    learner = RecallLearner(settings, end, python=str(python))

    async def learn() -> None:
        work = background._repeat(0.01, learner.run, (StreamingError,), "nothing", lambda: None)
        loop = asyncio.create_task(work)
        while ends:
            learner._next_at = 0.0  # the processes of this test take no share of the time
            await asyncio.sleep(0.005)
        loop.cancel()

    asyncio.run(learn())
    assert started.read_text().split() == ["--recall-only"] * 2, "once for each new end"


def test_recall_is_learned_again_after_an_erasure(settings: Settings, tmp_path: Path) -> None:
    """It held the visits of an erased user until the log grew."""
    place = untrained_recall(settings.models)
    started, python = tmp_path / "started", tmp_path / "python"
    python.write_text(
        f'#!/bin/sh\necho x >> {started}\nmkdir -p {place}\necho "{{}}" > {place}/index.json\n'
    )
    python.chmod(0o700)
    learner = RecallLearner(settings, lambda: [7], python=str(python))

    def times(runs: int) -> int:
        for _ in range(runs):
            learner._next_at = 0.0
            asyncio.run(learner.run())
        return len(started.read_text().split())

    assert times(2) == 1
    purge_training(settings)
    assert not place.exists()
    assert times(2) == 2


HUES = ((200, 0, 0), (0, 180, 0), (0, 0, 200), (180, 180, 0))


def colourful(data: Path, items: int, people: int) -> list[Entry]:
    """Make a shop of pictures alone, where each user takes things of one hue."""
    draw = np.random.default_rng(0)
    store = PictureStore(picture_path(data), writes=True)
    made: list[Entry] = []
    for number in range(items + len(HUES)):  # nobody takes the last ones
        red, green, blue = np.clip(HUES[number % 4] + draw.integers(-40, 41, 3), 0, 255).tolist()
        file = plain_picture((red, green, blue))
        content = content_key(file)
        store.put({content: shrunk(file)}, 0)
        made.append(Item(item_id=f"i{number}", timestamp=NOW, image=reference_of(content)))
    store.close()
    for person in range(people):
        for number, place in enumerate(draw.choice(items // 4, 12, replace=False).tolist()):
            made.append(
                Event(
                    event_id=f"e{person}-{number}",
                    type="purchase",
                    timestamp=NOW + person * 100_000 + number,
                    user_id=f"u{person}",
                    session_id=f"s{person}",
                    item_id=f"i{4 * place + person % 4}",
                )
            )
    return made


@pytest.mark.slow
@pytest.mark.parametrize(("model", "items"), [("colours", 320), ("absent", 60)])
def test_a_new_picture_lands_among_its_like(
    tmp_path: Path, model: str, items: int, caplog: pytest.LogCaptureFixture
) -> None:
    pytest.importorskip("onnxruntime")
    write_picture_model(tmp_path / "colours")
    made = Settings(
        storage=StorageSettings(data=tmp_path / "data"),
        understanding=UnderstandingSettings(picture_model=str(tmp_path / model)),
    )
    write_log(made.storage.data / "log", colourful(made.storage.data, items, items // 2)).close()
    index = learn_recall(made)
    assert index is not None
    rows = index.item_ids.rows_of([f"i{number}" for number in range(items, items + 4)])
    vectors = index.vectors[[row for row in rows if row is not None]]
    if model == "absent":
        assert "without one of their encoders" in caplog.text and not index.content.encoder
        return
    assert index.content.encoder.startswith("picture:colours-")
    nearest = np.argsort(-vectors @ index.vectors.T, axis=1)[:, :20]
    hue = np.array([int(str(item_id)[1:]) % 4 for item_id in index.item_ids])
    assert (hue[nearest] == np.arange(4)[:, None]).mean() > 0.9
