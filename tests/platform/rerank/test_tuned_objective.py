"""A tuner in a rollout: it sets weights within bounds, and nothing where it knows too little."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from tests.platform.shop import BEGIN, HOUR, write_log

from tactful.cli.main import main
from tactful.errors import ConfigError
from tactful.experiments.controller import write_served
from tactful.experiments.definitions import RolloutDefinition
from tactful.experiments.serving import ServedRollouts
from tactful.experiments.store import RolloutStore
from tactful.experiments.tuner import ProbedList, evaluate_tuner, read_probed, write_probe
from tactful.metadata.store import open_metadata
from tactful.rerank.objective import Objective
from tactful.rerank.tuned_objective import (
    MANIFEST,
    POLICY,
    SIGNALS,
    Tuner,
    TunerManifest,
    require_better,
)
from tactful_bandits.tuner.network import NetworkPolicy
from tactful_bandits.tuner.weight_bounds import WeightBounds
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.log.embedded_log import EmbeddedLog

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
def test_bad_signals_leave_the_champion(at: int, values: dict[str, float], tmp_path: Path) -> None:
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


def test_a_rollout_serves_a_tuner_unless_damaged(tmp_path: Path) -> None:
    """The change arm gets the tuner; a damaged tuner is left out for all."""
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
    write_served(file, store)
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
def test_tuner_beats_the_champion(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The trained directory serves, and beats the champion in the simulator."""
    pytest.importorskip("torch")
    pytest.importorskip("gymnasium")
    # Enough to tell: seeds gain 5 to 14 % here, and who learns nothing gains none.
    monkeypatch.setattr("tactful.experiments.tuner_training._EVALUATED_HOURS", 100)
    monkeypatch.setattr("tactful.experiments.tuner_training._SHOPS", 3)
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


def probed_log(candidate: Path, probe: Path, path: Path, *, gain: float) -> EmbeddedLog:
    """Lists of a probe; whoever gets more price than the champion gives takes something more."""
    rng = np.random.default_rng(5)
    lists: list[Event] = []
    tuners = []
    for promotion in (0.0, 1.0):
        signal(probe, promotion=promotion)
        tuners.append(Tuner(probe))
        tuners[-1].objective(AT)  # reads the signal
    for number in range(6_000):
        tuned = tuners[number % 2].tune(AT, rng)
        assert tuned is not None
        chance = 0.4 + gain * tuned.log_fields["tuner_drawn"][1]
        shown = Event(
            event_id=f"impression:{number}",
            type="impression",
            timestamp=BEGIN + number,
            user_id=f"p{number}",
            recommendation_id=f"r{number}",
            properties={"items": ["i1"], "rollouts": ["probe:change"], **tuned.log_fields},
        )
        lists.append(shown)
        if rng.random() < chance:
            click = {"type": "click", "item_id": "i1", "event_id": f"c{number}", "properties": {}}
            lists.append(msgspec.structs.replace(shown, **click))
    return write_log(path, lists)


@pytest.mark.slow
@pytest.mark.parametrize(("gain", "verdict"), [(0.3, "better"), (-0.3, "worse"), (0.0, "")])
def test_only_better_tuners_start(gain: float, verdict: str, tmp_path: Path) -> None:
    """A tuner is evaluated by a probe, and starts only if it is better."""
    candidate, probe = made(tmp_path / "tuner"), tmp_path / "probe"
    about = msgspec.json.decode((candidate / MANIFEST).read_bytes(), type=TunerManifest)
    modest = np.zeros((3, 5), np.float32)
    modest[0] = (0.0, 0.25, 0.0, 0.0, 0.0)
    network = NetworkPolicy.from_bytes((candidate / POLICY).read_bytes())
    layers = [(modest, network.layers[0][1])]
    network = NetworkPolicy(
        layers, network.mean, network.deviation, network.lowest, network.highest
    )
    (candidate / POLICY).write_bytes(network.to_bytes())
    write_probe(candidate, probe, noise=0.3)
    assert Tuner(probe).manifest == msgspec.structs.replace(
        about, noise=0.3, trained_in="nowhere", figures={}
    )
    log = probed_log(candidate, probe, tmp_path / "log", gain=gain)
    until = BEGIN + 2 * HOUR
    lists = read_probed(log, "probe", since=BEGIN, until=until, types=("click",), lasts=HOUR)
    assert len(lists) == 6_000
    found = evaluate_tuner(candidate, lists, noise=0.3)
    assert found.verdict == (verdict or "inconclusive"), found
    # In promotions, half of the lists, it moves price by tanh(0.25).
    assert found.low <= gain * math.tanh(0.25) / 2 <= found.high
    database = open_metadata(tmp_path / "metadata.db")
    store = RolloutStore(database, clock=lambda: AT)
    change = {"tuner": str(candidate)}
    tuned = RolloutDefinition(key="tuned", change=change, evaluated=True, start=True)
    if verdict == "better":
        store.apply(tuned, by="ann", reason="r")
        (candidate / POLICY).write_bytes((probe / POLICY).read_bytes())
        with pytest.raises(ConfigError, match="another network was evaluated"):
            require_better(candidate)
    else:
        with pytest.raises(ConfigError, match=f"is {found.verdict}, not better"):
            store.apply(tuned, by="ann", reason="r")
        assert store.find("tuned") is None
    database.close()
    log.close()


def test_a_tuner_that_nobody_evaluated_waits(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="run tactful tuner evaluate first"):
        require_better(made(tmp_path / "tuner"))
    with pytest.raises(ConfigError, match="cannot be evaluated by"):
        evaluate_tuner(tmp_path / "tuner", [], noise=0.2)
    with pytest.raises(ConfigError, match=r"evaluated needs change\.tuner"):
        RolloutDefinition(key="k", change={"model": "7"}, evaluated=True).plan()


def test_the_commands_write_a_probe_and_evaluate(tmp_path: Path) -> None:
    """The command line writes a probe and evaluates its lists."""
    candidate, probe = made(tmp_path / "tuner"), tmp_path / "probe"
    run = CliRunner().invoke
    assert run(main, ["tuner", "probe", str(candidate), str(probe)]).exit_code == 0
    again = run(main, ["tuner", "probe", str(candidate), str(probe)])
    assert "cannot be written here" in again.output
    data = tmp_path / "data"
    write_log(data / "log", []).close()
    options = ["--probe", str(probe), "--key", "probe", "--data", str(data)]
    judged = run(main, ["tuner", "evaluate", str(candidate), *options])
    assert judged.exit_code != 0
    assert "cannot be evaluated by 0 lists of the probe: roll the probe out" in judged.output


@pytest.mark.parametrize(
    ("forged", "noise", "why"),
    [
        ({}, 0.0, "noise of 0.0 has no density"),
        ({"drawn": [0.1]}, 0.2, "has shape"),
        ({"state": [0.1]}, 0.2, "state"),
        ({"log_density": -1e6}, 0.2, "cannot be evaluated by"),
    ],
)
def test_forged_lists(forged: dict[str, Any], noise: float, why: str, tmp_path: Path) -> None:
    candidate = made(tmp_path / "tuner")
    states = len(Tuner(candidate).manifest.state)

    def probed(person: str, **about: Any) -> ProbedList:
        drawn = {"state": [0.0] * states, "drawn": [0.1] * 5, "log_density": 1.0, **about}
        return ProbedList(person, AT, frozenset({"i1"}), **drawn)

    lists = [*(probed(f"p{number}") for number in range(300)), probed("forger", **forged)]
    with pytest.raises(ConfigError, match=why):
        evaluate_tuner(candidate, lists, noise=noise)
