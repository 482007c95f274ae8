"""Training again: when it is due, by whom it is done, and which version may then serve."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import logging
import os
import stat
import typing
from base64 import b64encode, urlsafe_b64encode
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tests.platform.models.test_mlflow_registry import DEFINITIONS, make_model
from tests.platform.shop import definitions, entries, make_shop, write_log
from tests.platform.support import Live, build, wait_until

from tactful.cli.main import main
from tactful.config.engine import EngineSettings
from tactful.config.load import load_settings
from tactful.config.recommendation import TrainingSettings
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.metadata.lease import Lease, LeaseLost
from tactful.metadata.store import open_metadata
from tactful.models.audit_log import ModelChange, ModelLog
from tactful.models.schedule import (
    SCORE,
    Drift,
    environment,
    measure_drift,
    population_stability,
    retrain,
    why_due,
)
from tactful.models.training_run import no_worse
from tactful.ranking.features import RANKING_FEATURES, layout
from tactful.ranking.model import (
    Pointer,
    load_trees,
    read_manifest,
    version_directory,
    write_pointer,
)
from tactful.recommend import build as assembly
from tactful.server.platform import Platform
from tactful.training.replay_rows import Rows
from tactful.training.train import Trained
from tactful.util.checkpoint import Checkpoint
from tactful_streaming.contract.log_entries import Entry, Event

HOUR = 3_600_000
NOW = 1_700_000_000_000
WIDTH = len(RANKING_FEATURES)

# When it is due


def change(hours_ago: float, state: Any = "done", version: str = "3") -> ModelChange:
    train: dict[str, Any] = {"action": "train", "name": "ranker", "previous": ""}
    train |= {"changed_by": "a", "reason": "", "begun_at": NOW - int(hours_ago * HOUR)}
    return ModelChange(id=1, version=version, state=state, **train)


def never() -> Drift | None:
    raise AssertionError("drift is measured only where it can matter")


@pytest.mark.parametrize(
    ("every", "last", "due"),
    [
        (24.0, None, "no model was trained yet"),
        (24.0, change(23.9), None),
        (24.0, change(24.0), "24 hours have passed"),
        (0.5, change(0.6, "failed"), None),
        (0.5, change(1.1, "failed"), "0.5 hours have passed"),
        (24.0, change(0.1, "begun"), "was killed"),
        (0.0, None, None),
        (0.0, change(10_000.0), None),
    ],
)
def test_the_clock_makes_it_due(every: float, last: ModelChange | None, due: str | None) -> None:
    training = TrainingSettings(every_hours=every)
    found = why_due(training, now=NOW, last=last, champion="3", drift=never)
    assert (found is None) == (due is None)
    assert due is None or due in (found or "")


@pytest.mark.parametrize(
    ("last", "champion", "measured", "due"),
    [
        (change(1.0), "3", 0.3, True),
        (change(1.0), "3", 0.2, False),
        (change(1.0), "3", None, False),
        (None, "3", 0.3, True),
        # Version 3 waits to be promoted; another one like it would help nobody.
        (change(1.0), "2", 0.3, False),
        (change(2.0, "failed", ""), "2", 0.3, True),
        (change(0.5, "failed", ""), "2", 0.3, False),
        (change(1.0), None, 0.3, False),
    ],
)
def test_drift_makes_it_due(
    last: ModelChange | None, champion: str | None, measured: float | None, due: bool
) -> None:
    drift = None if measured is None else Drift({"price": measured, "score": 0.1})
    training = TrainingSettings(drift_psi=0.25)
    found = why_due(training, now=NOW, last=last, champion=champion, drift=lambda: drift)
    assert found == ("drift: price has moved by 0.30" if due else None)


@pytest.mark.parametrize(
    ("last", "erased_hours_ago", "due"),
    [
        (change(2.0), 1.0, True),
        (change(2.0), 3.0, False),
        (change(0.5, "failed", ""), 0.2, False),
        (None, 1.0, False),
    ],
)
def test_erasure_is_due(last: ModelChange | None, erased_hours_ago: float, due: bool) -> None:
    told: dict[str, Any] = {"now": NOW, "last": last, "champion": "3", "drift": never}
    found = why_due(TrainingSettings(), **told, erased_at=NOW - int(erased_hours_ago * HOUR))
    assert found == ("a user was erased since the last training" if due else None)


# Drift


def naive_stability(before: list[float], now: list[float]) -> float:
    """By the definition, value by value."""
    known = [it for it in before if it == it]
    # With n / 10 instead, the last bit of an edge may be another one, and lie beyond a value.
    cuts = np.linspace(0, 1, 11)[1:-1]
    found = np.quantile(np.array(known, np.float32), cuts) if known else np.zeros(0)
    edges = sorted({float(it) for it in found})

    def part(value: float) -> int:
        return -1 if value != value else sum(value > edge for edge in edges)

    total = 0.0
    for which in range(-1, len(edges) + 1):
        counts = [sum(part(it) == which for it in values) for values in (before, now)]
        p, q = max(counts[0] / len(before), 1e-4), max(counts[1] / len(now), 1e-4)
        total += (q - p) * float(np.log(q / p))
    return total


values = st.lists(
    st.one_of(st.just(float("nan")), st.floats(-4, 4, width=32)), min_size=1, max_size=60
)


@given(before=values, now=values)
@settings(max_examples=80, deadline=None)
def test_stability_equals_its_definition(before: list[float], now: list[float]) -> None:
    first, second = np.array(before, np.float32), np.array(now, np.float32)
    found = population_stability(first, second)
    assert found == pytest.approx(naive_stability(first.tolist(), second.tolist()), abs=1e-6)
    assert found >= 0
    assert population_stability(first, first) == 0


def listed(number: int, features: NDArray[np.float32], **changes: Any) -> Event:
    properties: dict[str, Any] = {
        "items": [f"i{n}" for n in range(len(features))],
        "scores": features[:, 0].astype(float).tolist(),
        "model_version": "3",
        "layout": layout("d"),
        "features": b64encode(features.astype("<f4").tobytes()).decode(),
        **changes,
    }
    return Event(
        event_id=f"impression:{number}",
        type="impression",
        timestamp=NOW + number,
        device_id="d",
        recommendation_id=f"r-{number}",
        properties=properties,
    )


def test_drift_compares_first_and_latest_lists(tmp_path: Path) -> None:
    """The lists of one version are compared."""
    draw = np.random.default_rng(1)
    price = RANKING_FEATURES.index("price")
    what: list[Entry] = []
    for number in range(400):
        features = draw.standard_normal((10, WIDTH)).astype(np.float32)
        if number >= 250:
            features[:, price] += 2.0
            features[:, price + 1] = np.nan
        what.append(listed(number, features))
        strange = features + 9.0
        what.append(listed(1_000 + number, strange, model_version="2"))
        what.append(listed(2_000 + number, strange, forced=True))
        what.append(listed(3_000 + number, strange, layout=layout("other")))
    with write_log(tmp_path / "log", what) as log:
        found = measure_drift(log, "3", layout("d"), lists=100)
        calm = measure_drift(log, "2", layout("d"), lists=201)
    assert calm is None, "there are not twice as many"
    assert found is not None
    moved = {name for name, index in found.by_name.items() if index > 0.25}
    assert moved == {"price", RANKING_FEATURES[price + 1]}
    assert set(found.by_name) == {*RANKING_FEATURES, SCORE}
    assert found.by_name[SCORE] < 0.1
    assert found.largest[1] == max(found.by_name.values())


# The process that trains


def other_values(of: Settings) -> Settings:
    """Settings none of which is the default."""
    changed: dict[str, Any] = {}
    for section in dataclasses.fields(of):
        held = getattr(of, section.name)
        kinds = typing.get_type_hints(type(held))
        values: dict[str, Any] = {}
        for field in dataclasses.fields(held):
            value, kind = getattr(held, field.name), kinds[field.name]
            choices = typing.get_args(kind) if typing.get_origin(kind) is typing.Literal else ()
            if choices:
                values[field.name] = next(it for it in choices if it != value)
            elif isinstance(value, bool):
                values[field.name] = not value
            elif isinstance(value, Path):
                values[field.name] = Path("/somewhere") / field.name
            elif isinstance(value, int | float):
                values[field.name] = type(value)(value * 2 + 1)
        changed[section.name] = replace(held, **values)
    changed["log"] = replace(changed["log"], kind="embedded", password_file=Path())
    changed["engine"] = replace(changed["engine"], kind="embedded")  # Flink needs Kafka
    changed["actions"] = replace(changed["actions"], secret_file=Path())
    changed["minimise"] = replace(changed["minimise"], ipv4_bits=16, ipv6_bits=32)
    changed["recommend"] = replace(changed["recommend"], holdout=0.25)
    kept = 2 * changed["training"].label_days  # less would leave nothing to learn from
    changed["lifecycle"] = replace(changed["lifecycle"], lapsing_below=0.7, lost_below=0.3)
    changed["speech"] = replace(changed["speech"], seconds=7.0)
    peers = {"杂志": [urlsafe_b64encode(bytes(64)).decode()]}
    changed["domains"] = replace(changed["domains"], name="shop", peers=peers)
    changed["retention"] = replace(changed["retention"], impressions_days=kept)
    return replace(of, **changed)


@pytest.mark.parametrize("chosen", [Settings(), other_values(Settings())], ids=["default", "other"])
def test_the_process_has_the_settings_of_the_server(chosen: Settings) -> None:
    ours = load_settings(environ=environment(chosen))
    for section in dataclasses.fields(chosen):
        for field in dataclasses.fields(getattr(chosen, section.name)):
            one, other = (getattr(getattr(it, section.name), field.name) for it in (chosen, ours))
            if isinstance(one, Path) and one != Path():
                one = one.absolute()
            assert one == other, (section.name, field.name)


def stand_in(directory: Path, body: str) -> str:
    """An interpreter that does something else."""
    path = directory / "python"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def held(directory: Path, name: str = "a") -> Lease:
    """A lease that is held; whoever held it before has lost it."""
    lease = Lease(open_metadata(directory / "lease.db"), name, alone=True)
    assert lease.acquire() is not None
    return lease


def test_a_training_ends_with_the_lease_and_changes_nothing_after_it(tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"echo $TACTFUL_LEASE_FENCE $$ > {tmp_path}/begun; exec sleep 600")
    training = TrainingSettings(every_hours=1, check_minutes=0.0005)
    log_of = partial(ModelLog, open_metadata(tmp_path / "lease.db"), clock=lambda: 0)

    async def ask() -> int:
        lease, begun = held(tmp_path), tmp_path / "begun"
        work = retrain(Settings(training=training), lease, python=python)
        task = asyncio.create_task(work)
        while not begun.exists() or not begun.read_text().strip():
            await asyncio.sleep(0.01)
        fence, process = map(int, begun.read_text().split())
        assert fence == lease.fence
        with log_of(fence=fence).entry("train", "m", by="x", reason=""):
            pass
        held(tmp_path, "b")
        lease.release()  # in its own eyes, too
        while Path(f"/proc/{process}").exists():
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return fence

    log = log_of(fence=asyncio.run(ask()))
    with pytest.raises(LeaseLost), log.entry("promote", "m", by="x", reason=""):
        pass
    assert [change.action for change in log.changes()] == ["train"]


def test_it_retries_and_says_what_failed(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    note = f'echo "$@ $TACTFUL_STORAGE__DATA" >> {tmp_path}/asked'
    python = stand_in(tmp_path, f"{note}\necho tactful: too little >&2; exit 1")
    chosen = Settings(
        storage=StorageSettings(data=tmp_path / "data"),
        training=TrainingSettings(every_hours=1, check_minutes=0.0005, promote=True, lists=77),
    )

    async def ask() -> None:
        task = asyncio.create_task(retrain(chosen, held(tmp_path), python=python))
        asked = tmp_path / "asked"
        for _ in range(2_000):
            await asyncio.sleep(0.01)
            if asked.exists() and len(asked.read_text().splitlines()) >= 3:
                break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    with caplog.at_level(logging.ERROR):
        asyncio.run(ask())
    first = (tmp_path / "asked").read_text().splitlines()[0].split()
    assert first[:4] == ["-m", "tactful", "train", "--if-due"]
    assert {"--promote", "--if-better", "77"} <= set(first)
    assert first[-1] == str(tmp_path / "data")
    assert "training failed with exit code 1: tactful: too little" in caplog.text


def test_a_server_that_stops_ends_its_training(tmp_path: Path) -> None:
    python = stand_in(tmp_path, f"echo $$ > {tmp_path}/pid; exec sleep 600")

    async def ask() -> int:
        training = TrainingSettings(every_hours=1, check_minutes=0.0005)
        work = retrain(Settings(training=training), held(tmp_path), python=python)
        task = asyncio.create_task(work)
        while not (tmp_path / "pid").exists() or not (tmp_path / "pid").read_text().strip():
            await asyncio.sleep(0.01)
        pid = int((tmp_path / "pid").read_text())
        while os.getpriority(os.PRIO_PROCESS, pid) < 10:
            await asyncio.sleep(0.01)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        return pid

    pid = asyncio.run(ask())
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_server_may_retrain(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[Settings] = []

    async def note(given: Settings, lease: Lease) -> None:
        started.append(given)

    monkeypatch.setattr("tactful.server.background.retrain", note)
    with Live(Platform.open(settings, build)):
        pass
    assert started == []
    due = replace(settings, training=TrainingSettings(drift_psi=0.2))
    with Live(Platform.open(due, build)):
        wait_until(lambda: bool(started))
    assert started == [due]


@pytest.mark.slow
def test_the_command_trains_only_when_it_is_due(tracking_uri: str, tmp_path: Path) -> None:
    what = entries(make_shop(41, people=12, items=40, days=40))
    write_log(tmp_path / "data" / "log", what).close()
    (tmp_path / "tactful.toml").write_text("[training]\nevery_hours = 24\n")
    command = ["train", "--data", "data", "--if-due", "--json", "--lists", "60", "--by", "cron"]

    def run() -> Any:
        result = CliRunner().invoke(main, command)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout.splitlines()[-1])

    with Checkpoint.hold(tmp_path / "data" / "models" / "training"):
        assert run() == {"due": None}, "somebody else does it"
    assert run()["version"] == "1"
    assert run() == {"due": None}
    log = json.loads(CliRunner().invoke(main, ["models", "log", "--data", "data", "--json"]).stdout)
    (one,) = log
    assert (one["action"], one["changed_by"]) == ("train", "cron")
    assert one["reason"] == "no model was trained yet"


@pytest.mark.slow
def test_a_server_trains_and_takes_over_by_itself(tracking_uri: str, tmp_path: Path) -> None:
    data = tmp_path / "data"
    what = entries(make_shop(41, people=12, items=40, days=40))
    write_log(data / "log", what).close()
    chosen = Settings(
        server=ServerSettings(port=0, dev=True),
        storage=StorageSettings(data=data, durability="process"),
        engine=EngineSettings(clock="events"),
        training=TrainingSettings(every_hours=1_000, check_minutes=0.02, promote=True, lists=60),
    )
    with Live(Platform.open(chosen, assembly.build)) as live:
        assert live.http.get("/v1/models").json()["champion"] is None

        def champion() -> Any:
            return live.http.get("/v1/models").json()["champion"]

        wait_until(lambda: champion() is not None, seconds=600)
        assert champion()["version"] == "1"
        wait_until(lambda: live.http.get("/v1/models/log").json()["changes"][0]["state"] == "done")
        log = live.http.get("/v1/models/log").json()["changes"]
        body = {"user_id": "person-01", "force": {"ranking": "learned"}, "explain": True}
        answer = live.http.post("/v1/recommend", json=body).json()
    assert [(it["action"], it["version"], it["changed_by"], it["reason"]) for it in log[:2]] == [
        ("promote", "1", "tactful serve", "no model was trained yet"),
        ("train", "1", "tactful serve", "no model was trained yet"),
    ]
    first = answer["explanation"]["items"][0]
    assert (answer["model_version"], answer["explanation"]["model_version"]) == ("1", "1")
    margin = answer["explanation"]["base"] + sum(first["contributions"].values())
    assert first["margin"] == pytest.approx(margin, abs=1e-4)


# Which version may serve


def test_a_version_that_is_worse_does_not_take_over(tmp_path: Path) -> None:
    """Models of `make_model` prefer a large value in the column of their number."""
    draw = np.random.default_rng(2)
    features = draw.standard_normal((200 * 10, WIDTH)).astype(np.float32)
    labels = np.zeros((200, 10), np.bool_)
    wanted = 4
    labels[np.arange(200), np.argmax(features[:, wanted].reshape(200, 10), axis=1)] = True
    rows = Rows(features, labels.ravel(), np.full(200, 10), np.ones(200, np.float32))
    good, bad = make_model(tmp_path / "good", wanted), make_model(tmp_path / "bad", wanted + 1)
    models = tmp_path / "models"

    def may(directory: Path, lists: int = 200) -> bool:
        manifest = read_manifest(directory)
        at = np.arange(200) + 1_700_000_000_000 + 100 - (200 - lists)
        # The champion knows the world up to 1_700_000_000_000 and its number.
        at = np.where(np.arange(200) < 200 - lists, 0, at)
        return no_worse(models, Trained(manifest, [], features[:5], rows, at, 0), directory)

    assert may(bad), "nothing serves yet"
    for number, source in (("1", good), ("2", bad)):
        version_directory(models, number).parent.mkdir(parents=True, exist_ok=True)
        source.rename(version_directory(models, number))
    good, bad = version_directory(models, "1"), version_directory(models, "2")
    write_pointer(models, Pointer(version="1"))
    assert (may(good), may(bad)) == (True, False)
    write_pointer(models, Pointer(version="2"))
    assert (may(good), may(bad)) == (True, True)
    assert not may(good, lists=49), "too few to tell"
    write_pointer(models, Pointer(version="9"))
    assert may(bad), "a champion that is not there cannot serve"
    assert load_trees(good).num_features() == WIDTH
    assert definitions().fingerprint != DEFINITIONS
    assert msgspec.json.encode(Pointer(version="1"))
