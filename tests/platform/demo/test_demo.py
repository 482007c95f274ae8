"""The demo end to end on a made-up shop, what it says when it fails, and its quick run."""

from __future__ import annotations

import json
import socket
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner
from tests.platform.shop import make_shop

from tactful.cli.main import main
from tactful.demo import demo
from tactful.demo.datasets import completejourney
from tactful.demo.demo import DemoOptions, category_histories, run, summary
from tactful.demo.replay import Outcomes
from tactful.demo.server_process import clear
from tactful.errors import DatasetError, TactfulError
from tactful.metadata.directory_lock import exclusive
from tactful.training.evaluation import Scorecard
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

SHOP = make_shop(51, people=24, items=50, days=48)

SECTIONS: dict[type, str] = {
    str: "name data stage protocol verdict",
    bool: "quick",
    int: "started_at finished_at questions",
    float: "progress",
    list: "quality real_and_simulated",
    dict: "latency_ms freshness_ms experiment statistics federated model timings_s environment",
}
MEASURES = ("hr20", "ndcg20", "mrr20", "coverage20")


def options(directory: Path, **changes: Any) -> DemoOptions:
    places = {"directory": directory / "data", "reports": directory / "reports"}
    return DemoOptions(**{"quick": True, "port": 0, **places, **changes})


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """The demo on the made-up shop, and as if torch were not installed."""
    monkeypatch.setattr(demo, "_load", lambda options: SHOP)
    monkeypatch.setitem(sys.modules, "tactful_federated", None)


def check_report(report: dict[str, Any]) -> None:
    """What the dashboard and the documentation rely on."""
    for kind, sections in SECTIONS.items():
        assert all(isinstance(report[section], kind) for section in sections.split())
    assert (report["stage"], report["progress"]) == ("finished", 1.0)
    assert report["started_at"] < report["finished_at"]
    rows = {row["name"]: row for row in report["quality"]}
    baselines = ["popularity", "own_frequency", "co_visitation", "co_visitation_live"]
    assert list(rows) == ["served", *baselines]
    for row in rows.values():
        for measure in MEASURES:
            assert 0 <= row[measure]["low"] <= row[measure]["value"] <= row[measure]["high"] <= 1
        assert row["mrr20"]["value"] <= row["hr20"]["value"]
    served = rows.pop("served")["hr20"]["value"]
    beats = all(served > row["hr20"]["value"] for row in rows.values())
    assert served > rows["popularity"]["hr20"]["value"]
    assert beats or not report["beats_every_baseline"]
    assert ("beats every baseline" in report["verdict"]) == report["beats_every_baseline"]
    for name, count in (("latency_ms", "requests"), ("freshness_ms", "samples")):
        assert 0 < report[name]["p50"] <= report[name]["p99"]
        assert report[name][count] > 0
    assert report["latency_ms"]["requests"] == report["questions"]
    arms = {row["arm"]: row for row in report["experiment"]["arms"]}
    assert set(arms) == {"learned", "heuristic"}
    assert sum(row["questions"] for row in arms.values()) == report["questions"]
    for row in arms.values():
        assert row["rate"] == pytest.approx(row["hits"] / row["questions"])
    found = report["experiment"]["difference"]
    assert found["low"] < found["value"] < found["high"]
    published = report["statistics"]
    assert published["released_panes"] > 24
    assert published["epsilon"] > 0
    assert {"pane_start", "key", "value", "low", "high"} == published["sample"][0].keys()
    starts = sorted({cell["pane_start"] for cell in published["sample"]})
    assert starts == list(range(starts[0], starts[0] + 24 * 3_600_000, 3_600_000))
    model = report["model"]
    assert (model["name"], model["alias"]) == ("ranker", "champion")
    assert model["run_id"]
    assert model["features"][0]["gain"] > 0
    stages = ["starting", "upserting", "replaying the past", "training", "asking", "scoring"]
    assert list(report["timings_s"]) == stages


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_run_ends_with_a_whole_report_and_no_server(tracking_uri: str, tmp_path: Path) -> None:
    asked = options(tmp_path)
    report = run(asked)
    check_report(report)
    assert json.loads((tmp_path / "reports" / "demo.json").read_bytes()) == report
    assert (tmp_path / "reports" / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert report["questions"] == len(SHOP.asks)
    assert report["model"]["version"] == "1"
    assert report["short_lists"] == 0
    hits = round(report["quality"][0]["hr20"]["value"] * len(SHOP.asks))
    assert sum(report["channels"].values()) == hits, "each question has one answer"
    assert "skipped" in report["federated"], "without torch the rest goes on"
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{report['server']}/healthz")
    with EmbeddedLog(asked.directory / "log", read_only=True) as log:
        entries = [decode_entry(payload) for _, payload in log.read(0, 10**7)]
    events = [it for it in entries if isinstance(it, Event)]
    lists = [it for it in events if it.type == "impression" and not it.properties["forced"]]
    assert len(lists) == report["questions"]
    arms = {row["arm"]: row["questions"] for row in report["experiment"]["arms"]}
    for arm, count in arms.items():
        assert sum(it.properties["arm"] == arm for it in lists) == count
    text = summary(report, asked)
    assert report["verdict"] in text
    for row in report["quality"]:
        assert row["label"] in text
    for note in SHOP.notes:
        assert note in text
    assert "tactful dashboard" in text
    assert str(asked.directory / "tactful.toml") in text


@pytest.mark.slow
@pytest.mark.usefixtures("small")
def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(TactfulError, match=r"the server did not start: .*in use"):
            run(options(tmp_path, port=port))


@pytest.mark.slow
def test_a_failed_training_ends_the_server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = make_shop(1, people=1, items=10, days=8)
    monkeypatch.setattr(demo, "_load", lambda options: tiny)
    monkeypatch.setitem(sys.modules, "tactful_federated", None)
    with pytest.raises(TactfulError, match=r"training failed: tactful: only \d+ questions"):
        run(options(tmp_path))
    report = json.loads((tmp_path / "reports" / "demo.json").read_bytes())
    assert (report["stage"], report["finished_at"]) == ("training", None)
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{report['server']}/healthz")


def test_data_that_is_not_there_is_said_before_anything_is_touched(tmp_path: Path) -> None:
    for changes, said in (
        ({"data": "moon"}, "unknown data set 'moon': completejourney or online-retail"),
        ({"data": "online-retail"}, "give it with --path FILE"),
        ({"data": "online-retail", "path": tmp_path / "x.csv"}, "no such file"),
    ):
        with pytest.raises(DatasetError, match=said):
            run(options(tmp_path, **changes))
    assert list(tmp_path.iterdir()) == []
    result = CliRunner().invoke(main, ["demo", "--data", "online-retail"])
    assert (result.exit_code, result.stderr.splitlines()[-1][:9]) == (1, "tactful: ")


def test_a_device_holds_its_own_visits_of_the_past() -> None:
    shop = make_shop(52, people=10, items=30, days=20, guests=True)
    category = {item["item_id"]: item["category"] for item in shop.items}
    wanted: dict[str, dict[str, list[str]]] = {}
    for number in range(shop.cut):
        item, person = shop.item[number], shop.person[number]
        if shop.kinds[shop.kind[number]] == "add_to_cart" and person.startswith("person-"):
            visits = wanted.setdefault(person, {})
            visits.setdefault(shop.session[number], []).append(category[item])
    found = category_histories(shop)
    assert found == {person: list(visits.values()) for person, visits in wanted.items()}
    # What comes after the cut is not there.
    later = replace(shop, item=[*shop.item[: shop.cut], *["item-000"] * (len(shop) - shop.cut)])
    assert category_histories(later) == found


def outcomes(served: float, popular: float, arms: dict[str, dict[str, list[int]]]) -> Outcomes:
    """Outcomes of a hundred questions with these hit rates."""
    cards, labels = {"popularity": Scorecard()}, {"popularity": "Popularity"}
    found = Outcomes(baselines=cards, labels=labels, arms=arms)
    for card, rate in ((found.served, served), (found.baselines["popularity"], popular)):
        for number in range(100):
            card.add(f"p{number % 10}", ["x" if number < 100 * rate else "y"], {"x"})
    return found


@pytest.mark.parametrize(
    ("served", "popular", "said"),
    [
        (0.5, 0.4, "beats every baseline on HR@20: 0.500 against 0.400 of Popularity"),
        (0.4, 0.5, "does NOT beat every baseline on HR@20: 0.400 against 0.500 of Popularity"),
        (0.4, 0.4, "with the best baseline on HR@20 is inconclusive: 0.400 against 0.400"),
    ],
)
def test_the_verdict_is_what_the_figures_say(served: float, popular: float, said: str) -> None:
    found = demo._score(outcomes(served, popular, {}), SHOP)
    assert said in found["verdict"]
    assert found["beats_every_baseline"] == (served > popular)
    assert found["latency_ms"] == {"p50": None, "p99": None, "requests": 0}


def test_an_experiment_that_shows_nothing_says_so() -> None:
    few = {"learned": {f"l{n}": [n % 2, 1] for n in range(18)}}
    alone = demo._experiment(outcomes(0.5, 0.4, few), {"heuristic": 0.1, "learned": 0.9})
    assert alone["words"] == "one arm had fewer than two people: no comparison."
    assert "difference" not in alone
    both = {**few, "heuristic": {f"h{n}": [n % 2, 1] for n in range(2)}}
    unsure = demo._experiment(outcomes(0.5, 0.4, both), {"heuristic": 0.1, "learned": 0.9})
    assert "inconclusive; " in unsure["words"]
    assert "18 and 2 people" in unsure["words"]
    assert unsure["difference"]["value"] == 0.0
    assert not unsure["sample_ratio_mismatch"]
    uneven = {arm: {f"{arm}{n}": [n % 2, 1] for n in range(100)} for arm in both}
    wrong = demo._experiment(outcomes(0.5, 0.4, uneven), {"heuristic": 0.1, "learned": 0.9})
    assert wrong["sample_ratio_mismatch"]
    assert "the arms' sizes do NOT fit the split" in wrong["words"]


def test_what_a_demo_left_is_removed(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    clear(directory)
    directory.mkdir()
    (directory / "tactful.toml").write_text("# Written by `tactful demo`.\n[storage]\n")
    (directory / "log").mkdir()
    clear(directory)
    assert not directory.exists()


def test_a_directory_that_a_server_uses_is_not_removed(tmp_path: Path) -> None:
    directory = tmp_path / "demo"
    directory.mkdir()
    (directory / "tactful.toml").write_text("# Written by `tactful demo`.\n[storage]\n")
    with (
        exclusive(directory),
        pytest.raises(TactfulError, match=r"a server of an earlier run still uses it.*--directory"),
    ):
        clear(directory)
    assert (directory / "tactful.toml").exists()
    clear(directory)
    assert not directory.exists()


def test_an_empty_directory_will_do(tmp_path: Path) -> None:
    clear(tmp_path)
    assert not tmp_path.exists()


@pytest.mark.slow
@pytest.mark.parametrize("settings", [None, "", "[storage]\ndata = '.'\n"])
def test_files_of_others_are_not_removed(tmp_path: Path, settings: str | None) -> None:
    (tmp_path / "keys.db").write_text("precious")
    if settings is not None:
        (tmp_path / "tactful.toml").write_text(settings)
    with pytest.raises(TactfulError, match=r"holds something that no demo left there.*--directory"):
        run(replace(options(tmp_path), directory=tmp_path))
    assert (tmp_path / "keys.db").read_text() == "precious"


def test_a_file_in_its_place_is_not_removed(tmp_path: Path) -> None:
    (tmp_path / "demo").write_text("precious")
    with pytest.raises(TactfulError, match=r"holds something.*--directory"):
        clear(tmp_path / "demo")
    assert (tmp_path / "demo").read_text() == "precious"


@pytest.mark.slow
def test_the_intent_model_of_a_quick_run() -> None:
    """The rounds that `tactful demo --quick` runs; the rest of it is tested without torch."""
    report = demo._run_intent(completejourney(households=220), quick=True)
    assert report["households"] > 20
    rounds = report["rounds"]
    assert [it["round"] for it in rounds] == list(
        range(rounds[0]["round"], rounds[0]["round"] + 30)
    )
    assert rounds[-1]["loss"] < rounds[0]["loss"]
    for key in ("markov_top1", "markov_top5", "privacy"):
        assert key in report
