"""A tuner in a rollout: it sets weights within bounds, and nothing where it knows too little."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner

from tactful.cli import main
from tactful.errors import ConfigError
from tactful.metadata import open_metadata
from tactful.objective import Objective
from tactful.rollout_definitions import RolloutDefinition
from tactful.rollout_keeper import write_served
from tactful.rollout_serving import ServedRollouts
from tactful.rollout_store import RolloutStore
from tactful.tuner_serving import MANIFEST, POLICY, SIGNALS, Tuner, TunerManifest
from tactful_bandits import NetworkPolicy, WeightBounds

AT = 1_772_366_400_000  # noon
CHAMPION = (0.6, 0.1, 0.1, 0.1, 0.1)
OBJECTIVES = ("relevance", "price", "novelty", "margin", "campaign")
STATE = ("promotion", "hour_sine", "hour_cosine")


def made(directory: Path) -> Path:
    """A network of one layer: in promotions price rises and relevance falls."""
    weights = np.zeros((3, 5), np.float32)
    weights[0] = (-0.5, 0.9, 0.0, 0.0, 0.0)
    network = NetworkPolicy(
        [(weights, np.zeros(5, np.float32))],
        np.zeros(3, np.float32),
        np.ones(3, np.float32),
        np.array([0, -1.1, -1.1], np.float32),
        np.array([1, 1.1, 1.1], np.float32),
    )
    about = TunerManifest(
        champion=CHAMPION, reach=0.3, objectives=OBJECTIVES, state=STATE, trained_in="test"
    )
    directory.mkdir()
    (directory / POLICY).write_bytes(network.to_bytes())
    (directory / MANIFEST).write_bytes(msgspec.json.encode(about))
    return directory


def signal(directory: Path, *, at: int = AT, **values: float) -> None:
    (directory / SIGNALS).write_text(json.dumps({"at": at, "values": values}))


def test_weights_follow_the_situation_within_their_bounds(tmp_path: Path) -> None:
    directory = made(tmp_path / "tuner")
    signal(directory, promotion=1.0)
    found = Tuner(directory).objective(AT + 1_000)
    assert found is not None
    action = np.tanh([-0.5, 0.9, 0, 0, 0])
    expected = WeightBounds(CHAMPION, reach=0.3).weights(action)
    assert [getattr(found, name) for name in OBJECTIVES] == pytest.approx(expected.tolist())
    assert found.price > 0.25 > CHAMPION[1]
    signal(directory, promotion=0.0)
    plain = Tuner(directory).objective(AT + 1_000)
    assert plain is not None
    assert [getattr(plain, name) for name in OBJECTIVES] == pytest.approx(CHAMPION)


@pytest.mark.parametrize(
    ("at", "values"),
    [
        (AT, {}),
        (AT, {"promotion": 1.5}),
        (AT, {"promotion": -0.01}),
        (AT - 61 * 60_000, {"promotion": 1.0}),
        (AT + 60_000, {"promotion": 1.0}),  # of a clock that is ahead
    ],
)
def test_where_it_knows_too_little_the_champion_holds(
    at: int, values: dict[str, float], tmp_path: Path
) -> None:
    directory = made(tmp_path / "tuner")
    tuner = Tuner(directory)
    assert tuner.objective(AT) is None  # no signals at all
    signal(directory, at=at, **values)
    assert Tuner(directory).objective(AT) is None
    (directory / SIGNALS).write_text("{")
    assert Tuner(directory).objective(AT) is None


def test_signals_are_read_again_and_again(tmp_path: Path) -> None:
    directory = made(tmp_path / "tuner")
    tuner = Tuner(directory)
    signal(directory, promotion=0.0)
    first = tuner.objective(AT)
    signal(directory, promotion=1.0)
    assert tuner.objective(AT + 1_000) == first
    later = tuner.objective(AT + 6_000)
    assert first is not None
    assert later is not None
    assert later.price > first.price


def test_a_rollout_gives_the_change_to_its_arm_and_leaves_a_damaged_tuner_out(
    tmp_path: Path,
) -> None:
    directory = made(tmp_path / "tuner")
    signal(directory, promotion=1.0)
    database = open_metadata(tmp_path / "metadata.db")
    store = RolloutStore(database, clock=lambda: AT)
    tuned = RolloutDefinition(key="tuned", change={"tuner": str(directory)}, start=True)
    store.apply(tuned, by="ann", reason="r")
    with pytest.raises(ConfigError, match="changes objective, too"):
        other = RolloutDefinition(key="o", change={"objective": {"price": 1}}, start=True)
        store.apply(other, by="ann", reason="r")
    file = tmp_path / "rollouts.json"
    write_served(file, store.all())
    lists = ServedRollouts(file)
    assert lists.refresh()

    def parts(arm: str) -> dict[str, Objective]:
        return dict(lists.draw("p", {"tuned": arm}, lambda it: True, at=AT).parts or {})

    assert parts("control") == {}
    assert parts("change")["objective"].price > 0.25
    (directory / POLICY).write_bytes(b"damaged")
    again = ServedRollouts(file)
    assert again.refresh()
    assert again.rollouts == ()
    database.close()


@pytest.mark.parametrize(
    "change", [{"tuner": 3}, {"tuner": "d", "objective": {"price": 1}}, {"tuner": "d", "x": 1}]
)
def test_what_says_two_things_at_once_is_refused(change: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        RolloutDefinition(key="k", change=change).plan()


def test_parts_that_do_not_fit_are_refused(tmp_path: Path) -> None:
    directory = made(tmp_path / "tuner")
    about = msgspec.json.decode((directory / MANIFEST).read_bytes(), type=TunerManifest)
    for wrong in (
        msgspec.structs.replace(about, state=STATE[:2]),
        msgspec.structs.replace(about, objectives=(*OBJECTIVES[:4], "luck")),
        msgspec.structs.replace(about, champion=(1.0,), objectives=("relevance",)),
        msgspec.structs.replace(about, champion=(1.0, 1.0, 0.0, 0.0, 0.0)),
    ):
        (directory / MANIFEST).write_bytes(msgspec.json.encode(wrong))
        with pytest.raises(ConfigError):
            Tuner(directory)


@pytest.mark.slow
def test_what_is_trained_in_the_simulator_serves_and_beats_the_champion(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("torch")
    pytest.importorskip("gymnasium")
    # Enough to tell: seeds gain 5 to 14 % here, and who learns nothing gains none.
    monkeypatch.setattr("tactful.tuner_training._EVALUATED_HOURS", 100)
    monkeypatch.setattr("tactful.tuner_training._SHOPS", 2)
    directory = tmp_path / "tuner"
    trained = CliRunner().invoke(
        main, ["tuner", "train", str(directory), "--hours", "1000", "--no-rivals", "--json"]
    )
    assert trained.exit_code == 0, trained.output
    assert json.loads(trained.stdout)["tuner_vs_champion"] > 1.02
    names = Tuner(directory).manifest.state
    network = NetworkPolicy.from_bytes((directory / POLICY).read_bytes())
    middle = dict(zip(names, map(float, network.mean), strict=True))
    angle = 2 * math.pi * 0.5
    hour = {"hour_sine": math.sin(angle), "hour_cosine": math.cos(angle)}
    (directory / SIGNALS).write_text(json.dumps({"at": AT, "values": {**middle, **hour}}))
    found = Tuner(directory).objective(AT)
    assert found is not None
    shown = CliRunner().invoke(main, ["tuner", "show", str(directory)])
    assert "The champion's weights hold" in shown.output  # signals of long ago
