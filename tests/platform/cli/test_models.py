"""The commands around models: what they print, what they say is missing, and how they end."""

from __future__ import annotations

import datetime as dt
import json
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.shop import definitions, engine_at, entries, make_shop, write_log
from tests.platform.support import Live, now_ms

from tactful.cli.main import main
from tactful.config.server import ServerSettings
from tactful.config.settings import Settings
from tactful.config.storage import StorageSettings
from tactful.ranking.features import columns_fingerprint
from tactful.ranking.model import (
    Pointer,
    load_model,
    read_manifest,
    read_pointer,
    version_directory,
)
from tactful.recommend import recommender
from tactful.recommend.build import build
from tactful.schemas.recommendations import RecommendRequest
from tactful.server.platform import Platform
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event, encode_entry
from tactful_streaming.engine.engine import Engine
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import MemoryState

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run


pytestmark = pytest.mark.usefixtures("elsewhere")


def run(*arguments: object) -> Result:
    result = CliRunner().invoke(main, [str(it) for it in arguments])
    assert not isinstance(result.exception, Exception) or isinstance(result.exception, SystemExit)
    return result


def shop_log(path: Path, keep: int | None = None) -> list[Entry]:
    what = entries(make_shop(41, people=12, items=40, days=40))[:keep]
    write_log(path / "log", what).close()
    return what


# Nothing to train from


def test_where_there_is_no_log_it_says_where_to_get_one(tmp_path: Path) -> None:
    result = run("train", "--data", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert result.stdout == ""
    assert result.stderr.startswith("tactful: nothing to train from: ")
    assert "nowhere/log: there is no event log here" in result.stderr
    assert "send events to `tactful serve` first, or name its data directory" in result.stderr
    assert not (tmp_path / "nowhere").exists(), "looking makes nothing"


@pytest.mark.parametrize(
    ("keep", "arguments", "code", "messages"),
    [
        (*(0, [], 1), ["no event about a known item; send items, and views"]),
        (
            *(100, ["--label-days", "1", "--json"], 1),
            ["at least 20 are needed", "--label-days"],
        ),
        (100, ["--config", "bad.toml"], 2, ["features.yaml:1"]),
    ],
    ids=["an empty log", "too few visits", "wrong definitions"],
)
def test_nothing_to_train(
    tracking_uri: str, keep: int, arguments: list[str], code: int, messages: list[str]
) -> None:
    shop_log(Path("data"), keep=keep)
    Path("features.yaml").write_text("- {name: a, entity: moon}\n")
    Path("bad.toml").write_text('[engine]\nfeatures = "features.yaml"\n')
    result = run("train", "--data", "data", *arguments)
    assert result.exit_code == code
    assert all(message in result.stderr for message in messages)


@pytest.mark.parametrize(
    "arguments", [("--lists", "5"), ("--task", "guess"), ("--label-days", "0")]
)
def test_wrong_usage_is_told_before_anything_is_read(arguments: tuple[str, str]) -> None:
    result = run("train", *arguments)
    assert result.exit_code == 2
    assert arguments[0] in result.stderr


# A registry


@pytest.mark.slow
def test_a_failed_training_reads_what_was_sent_since(tracking_uri: str, tmp_path: Path) -> None:
    shop = entries(make_shop(41, people=12, items=40, days=40))
    events = [it for it in shop if isinstance(it, Event)]
    items = [it for it in shop if not isinstance(it, Event)]
    options = ("--data", tmp_path / "data", "--lists", "100", "--label-days", "20", "--json")
    write_log(tmp_path / "data" / "log", events).close()
    assert "send items" in run("train", *options).stderr
    few = append(tmp_path / "data", items[:1])
    failed = run("train", *options)
    assert failed.exit_code == 1
    assert "at least 20 are needed" in failed.stderr
    run_of_it = newest_run(tracking_uri)
    assert run_of_it.info.status == "FAILED"
    assert "at least 20 are needed" in run_of_it.data.tags["failure"]
    assert run_of_it.data.params["lists"] == "100"
    append(tmp_path / "data", [*items[1:], *events])
    again = run("train", *options)
    assert again.exit_code == 0, again.stderr
    result = json.loads(again.stdout.splitlines()[-1])
    assert not result["resumed"]
    assert result["read_until"] > few


def newest_run(tracking_uri: str) -> Run:
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri)
    experiment = client.get_experiment_by_name("ranker")
    assert experiment is not None
    return client.search_runs([experiment.experiment_id], max_results=1)[0]


def append(data: Path, what: Sequence[Entry]) -> int:
    """Append to the log of a data directory; returns its new end."""
    with EmbeddedLog(data / "log", durability="process") as log:
        log.append([encode_entry(it) for it in what])
        return log.end


@pytest.fixture
def data(tracking_uri: str, tmp_path: Path) -> Path:
    shop_log(tmp_path / "data")
    return tmp_path / "data"


def train(data: Path, *arguments: object) -> Result:
    options = ("--data", data, "--lists", "100", "--label-days", "20")
    result = run("train", *options, *arguments)
    assert result.exit_code == 0, result.output
    return result


def doctor(data: Path) -> tuple[str, str]:
    checks = json.loads(run("doctor", "--port", "0", "--data", data, "--json").stdout)
    (found,) = [check for check in checks if check["name"] == "model"]
    return found["state"], found["said"]


@pytest.mark.slow
def test_the_doctor_tells_which_champion_serves_and_its_age(
    data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run("train", "--data", data, "--label-days", "0.1")
    state, said = doctor(data)
    assert (state, "the last training failed: only " in said) == ("warning", True), said
    train(data)
    assert "`tactful models promote 1` makes version 1 of ranker the champion" in doctor(data)[1]
    assert run("models", "promote", "1", "--data", data).exit_code == 0
    until = read_manifest(version_directory(data / "models", "1")).trained_until
    today = dt.datetime.now(dt.UTC)
    assert doctor(data) == (
        "ok",
        f"ranker 1 is the champion since {today:%Y-%m-%d}, trained today on events until "
        f"{dt.datetime.fromtimestamp(until / 1000, dt.UTC):%Y-%m-%d}",
    )
    later = int(today.timestamp() * 1000) + 40 * 86_400_000
    monkeypatch.setattr("tactful.maintenance.doctor.now_ms", lambda: later)
    state, said = doctor(data)
    assert (state, "trained 40 days ago" in said, "it is old" in said) == ("warning", True, True)
    manifest = version_directory(data / "models", "1") / "manifest.json"
    manifest.write_text("{}")
    state, said = doctor(data)
    assert state == "warning" and "cannot be read as a model manifest" in said


@pytest.mark.slow
def test_the_doctor_tells_of_a_champion_that_does_not_fit(data: Path) -> None:
    train(data, "--promote")
    run("models", "promote", "1", "--data", data)
    Path("features.yaml").write_text(
        "- {name: views, entity: user, event: view, aggregate: count, window: {size: 1h}}\n"
    )
    Path("tactful.toml").write_text('[engine]\nfeatures = "features.yaml"\n')
    state, said = doctor(data)
    assert state == "warning" and "does not fit the present features" in said, said


@pytest.mark.slow
def test_versions_are_trained_listed_promoted_and_rolled_back(data: Path) -> None:
    assert run("models", "list", "--data", data).stdout == ""
    none = run("models", "rollback", "--reason", "worse", "--data", data)
    assert none.exit_code == 1
    assert "there is no previous champion to go back to" in none.stderr
    first = train(data)
    assert first.stdout.startswith(
        "ranker version 1; `tactful models promote 1` makes it the champion\n"
    )
    measures = {line.split()[0] for line in first.stdout.splitlines()[1:]}
    assert measures >= {"hr20", "ndcg20", "mrr20", "recall"}
    assert read_pointer(data / "models") is None
    promoted = run("models", "promote", "1", "--data", data)
    assert (promoted.exit_code, promoted.stderr) == (0, "ranker 1 is the champion.\n")
    alone = run("models", "rollback", "--reason", "worse", "--data", data)
    assert alone.exit_code == 1
    second = train(data, "--promote", "--seed", "1")
    assert second.stdout.startswith("ranker version 2 is the champion\n")
    assert read_pointer(data / "models") == Pointer(version="2", previous="1")
    listed = json.loads(run("models", "list", "--data", data, "--json").stdout)
    aliases = [(it["version"], it["aliases"]) for it in listed]
    assert aliases == [("2", "champion"), ("1", "previous")]
    told = run("models", "list", "--data", data).stdout.splitlines()
    assert [line.split() for line in told] == [
        [it["version"], it["run_id"], it["aliases"]] for it in listed
    ]
    back = run("models", "rollback", "--reason", "worse", "--data", data)
    assert (back.exit_code, back.stderr) == (0, "ranker 1 is the champion again.\n")
    assert read_pointer(data / "models") == Pointer(version="1", previous="2")
    forth = run("models", "rollback", "--reason", "worse", "--data", data)
    assert forth.exit_code == 0
    assert read_pointer(data / "models") == Pointer(version="2", previous="1")
    log = json.loads(run("models", "log", "--data", data, "--json").stdout)
    assert [(it["action"], it["version"], it["previous"], it["reason"]) for it in log] == [
        ("rollback", "2", "1", "worse"),
        ("rollback", "1", "2", "worse"),
        ("promote", "2", "1", "tactful train --promote"),
        ("train", "2", "", ""),
        ("promote", "1", "", ""),
        ("train", "1", "", ""),
    ]
    assert "@" in log[0]["changed_by"]
    (newest,) = run("models", "log", "--data", data, "--limit", "1").stdout.splitlines()
    assert newest.split("  ")[1:3] == ["rollback", "ranker 2"]
    assert run("models", "rollback", "--data", data).exit_code == 2, "why?"


@dataclass(frozen=True)
class Trained:
    """A data directory with a champion, and what the training of it printed."""

    data: Path
    client: MlflowClient
    lines: list[Any]
    result: dict[str, Any]
    log_before: dict[str, bytes]


def files_of(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir() if path.is_file()}


@pytest.fixture(scope="module")
def trained(empty_registry: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trained]:
    """One training for several tests; MLflow's files lie in the working directory."""
    from mlflow import MlflowClient

    folder = tmp_path_factory.mktemp("trained")
    uri = f"sqlite:///{shutil.copy(empty_registry, folder / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        shop_log(folder / "data")
        before = files_of(folder / "data" / "log")
        arguments = ("--task", "basket", "--promote", "--json")
        *lines, result = map(json.loads, train(folder / "data", *arguments).stdout.splitlines())
        yield Trained(folder / "data", MlflowClient(uri), lines, result, before)


@pytest.fixture
def at_trained(trained: Trained, monkeypatch: pytest.MonkeyPatch) -> Trained:
    monkeypatch.chdir(trained.data.parent)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{trained.data.parent / 'mlflow.db'}")
    return trained


@pytest.mark.slow
def test_training_tells_programs_how_far_it_is_and_what_came_out(trained: Trained) -> None:
    lines, result = trained.lines, trained.result
    stages = ["read", "index", "replay", "fit", "register"]
    assert list(dict.fromkeys(line["stage"] for line in lines)) == stages
    assert all(0 <= line["done"] <= line["total"] for line in lines)
    assert (result["name"], result["version"], result["alias"]) == ("ranker", "1", "champion")
    place = version_directory(trained.data / "models", "1")
    model = load_model(place, definitions=columns_fingerprint(definitions()))
    assert model.manifest.run_id == result["run_id"]
    assert model.manifest.metrics == result["metrics"]
    assert (model.manifest.rows, model.manifest.questions) == (result["rows"], result["questions"])
    assert 20 <= result["questions"] <= 100
    assert [it["name"] for it in result["features"]] == list(model.manifest.gains)


def test_the_run_says_how_it_was_trained(trained: Trained) -> None:
    """Training changes nothing in the log."""
    run_data = trained.client.get_run(trained.result["run_id"]).data
    assert run_data.params["task"] == "basket"
    assert run_data.params["lists"] == "100"
    assert run_data.params["label_days"] == "20.0"
    assert run_data.params["xgboost_min_child_weight"] == "5"
    assert run_data.params["seed"] == "0"
    metrics, run_id = run_data.metrics, trained.result["run_id"]
    assert metrics["ndcg20_low"] <= metrics["ndcg20"] <= metrics["ndcg20_high"]
    curve = trained.client.get_metric_history(run_id, "ndcg20_by_tree")
    assert curve[int(metrics["trees"]) - 1].value == pytest.approx(metrics["ndcg20"], abs=1e-6)
    assert "ndcg20_loss_without_real_time" in metrics
    info = trained.client.get_run(run_id).info
    assert info.end_time - info.start_time > 500, "the run lasts as long as the training"
    pictures = trained.client.list_artifacts(trained.result["run_id"], "figures")
    assert {it.path for it in pictures} >= {"figures/learning_curve.png", "figures/gain.png"}
    assert files_of(trained.data / "log") == trained.log_before


def test_a_version_is_fetched_again(at_trained: Trained) -> None:
    data = at_trained.data
    place = version_directory(data / "models", "1")
    before = files_of(place)
    for path in before:
        (place / path).unlink()
    pulled = run("models", "pull", "1", "--data", data)
    assert pulled.exit_code == 0
    assert pulled.stdout.strip() == str(place)
    assert files_of(place) == before


@pytest.mark.parametrize("command", ["promote", "pull"])
def test_an_unknown_version_is_one_line(data: Path, command: str) -> None:
    result = run("models", command, "7", "--data", data)
    assert result.exit_code == 2
    assert result.stderr.startswith("tactful: ranker has no version '7' in sqlite:///")
    assert len(result.stderr.splitlines()) == 1


@pytest.mark.slow
def test_impressions_in_the_log_do_not_disturb_a_training(at_trained: Trained) -> None:
    """Lists that were shown are in the log, too; what is learned is what was taken."""
    shown: list[Entry] = []
    for number, entry in enumerate(entries(make_shop(41, people=12, items=40, days=40))):
        if isinstance(entry, Event) and number % 5 == 0:
            properties: dict[str, Any] = {"items": ["item-000", "item-001"], "arm": "learned"}
            shown.append(
                Event(
                    event_id=f"impression:{number}",
                    type="impression",
                    timestamp=entry.timestamp,
                    user_id=entry.user_id,
                    session_id=entry.session_id,
                    recommendation_id=str(number),
                    properties=properties,
                )
            )
        shown.append(entry)
    write_log(Path("shown", "log"), shown).close()
    result = json.loads(train(Path("shown"), "--task", "basket", "--json").stdout.splitlines()[-1])
    for key in ("rows", "questions", "metrics", "features"):
        assert at_trained.result[key] == result[key]


@pytest.mark.slow
def test_a_training_compares_what_was_served_with_what_it_computes(at_trained: Trained) -> None:
    first = at_trained.result
    assert first["skew"] == {"lists": 0, "skipped": 0, "share": None, "by_feature": {}}
    serve_lists(at_trained.data)
    second = json.loads(train(at_trained.data, "--json").stdout.splitlines()[-1])
    assert second["skew"]["lists"] >= 10
    assert (second["skew"]["share"], second["skew"]["by_feature"]) == (0.0, {})
    run_of = at_trained.client.get_run
    assert run_of(second["run_id"]).data.metrics["skew"] == 0.0
    assert "skew" not in run_of(first["run_id"]).data.metrics


def serve_lists(data: Path) -> None:
    """Ask the champion for lists and keep them in the log, as the server does."""
    log = EmbeddedLog(data / "log", durability="process")
    engine = engine_at(Engine(definitions(), MemoryState()), log, log.end)
    people = Experiment(
        recommender.RANKING_EXPERIMENT,
        (Arm(recommender.HEURISTIC, 0.1), Arm(recommender.LEARNED, 0.9)),
    )
    ranked = recommender.Recommender(
        engine,
        recommender.RecommenderOptions(
            models=data / "models",
            definitions=columns_fingerprint(definitions()),
            experiment=people,
        ),
    )
    for number in range(20):
        request = RecommendRequest(user_id=f"person-{number % 12:02d}")
        _, impression = ranked.recommend(request, now=engine.watermark + number)
        assert impression is not None
        log.append([impression])
    log.close()


def ask(live: Live, number: int, known: bool, count: int = 15) -> tuple[dict[str, Any], list[str]]:
    """A list for an intent by HTTP, and its items of the intended category, the best first."""
    person = {"user_id": f"person-{number % 12:02d}"}
    asked = {**(person if known else {"device_id": f"d{number}"}), "count": count}
    kind = number % 8
    answer = live.http.post("/v1/recommend", json=asked | {"intent": {f"kind-{kind}": 1.0}}).json()
    items = [it["item_id"] for it in answer["items"]]
    right = [it for it in items if it.startswith("item-") and int(it[-3:]) % 8 == kind]
    return answer | asked | {"others": [it for it in items if it not in right]}, right


def take(live: Live, number: int, known: bool) -> None:
    """Let a known user take what was intended, and a new device something else."""
    shown, right = ask(live, number, known)
    event: dict[str, Any] = {
        name: shown[name] for name in ("user_id", "device_id") if name in shown
    }
    event |= {"type": "add_to_cart", "event_id": f"taken-{number}", "timestamp": now_ms()}
    event |= {"recommendation_id": shown["recommendation_id"]}
    event |= {"item_id": right[0] if known else shown["others"][0]}
    assert live.http.post("/v1/events", json=event).json()["accepted"] == 1


def foreseen(live: Live) -> dict[bool, int]:
    """How many of the first five items are of the intended category, over some lists."""
    return {
        known: sum(len(ask(live, number, known, 5)[1]) for number in range(24))
        for known in (True, False)
    }


@pytest.mark.slow
def test_the_trust_in_intents_is_learnt_from_requests_and_serves(at_trained: Trained) -> None:
    data = Path(shutil.copytree(at_trained.data, "intended"))
    storage = StorageSettings(data=data, durability="process")
    settings = Settings(server=ServerSettings(port=0, dev=True), storage=storage)
    with Live(Platform.open(settings, build)) as live:
        before = foreseen(live)
        for number in range(60):
            take(live, number, known=number % 2 == 0)
    log = EmbeddedLog(data / "log", durability="process")
    later = now_ms() + 86_400_000 * 2  # the time for outcomes of the lists is over
    event = Event(event_id="later", type="view", timestamp=later, item_id="item-000", user_id="u")
    log.append([encode_entry(event)])
    log.close()
    # The shop is older than the requests.
    told = train(data, "--label-days", "3000", "--promote", "--json").stdout.splitlines()
    version = json.loads(told[-1])["version"]
    first, second = (
        read_manifest(version_directory(data / "models", it)).trust for it in ("1", version)
    )
    assert second.known > first.known + 0.1 and second.unknown < first.unknown - 0.1
    with Live(Platform.open(settings, build)) as live:
        after = foreseen(live)
        assert ask(live, 0, known=True)[0]["model_version"] == version
    assert after[True] > before[True] and after[False] < before[False]
