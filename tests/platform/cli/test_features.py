"""``tactful features``: what it says, and that a server can run meanwhile."""

from __future__ import annotations

import contextlib
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import FEATURES, Live, build, now_ms, view, wait_until

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.maintenance.backfill import Backfill
from tactful.maintenance.backfill_targets import opened_parts
from tactful.metadata.connections import open_installation
from tactful.server.platform import Platform
from tactful.subjects.suppression import open_suppression
from tactful_streaming.contract.log_entries import Event, encode_entry
from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.engine.engine import Engine
from tactful_streaming.engine.erasure import user_keys_in
from tactful_streaming.engine.options import EngineOptions
from tactful_streaming.errors import LogError
from tactful_streaming.log.embedded_log import EmbeddedLog
from tactful_streaming.state.store import RocksState

CHANGED = FEATURES.replace("364d, slide: 28d", "90d, slide: 9d")


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments], **options)


@pytest.fixture
def new_features(settings: Settings, tmp_path: Path) -> Path:
    file = tmp_path / "new.yaml"
    file.write_text(CHANGED)
    return file


def serve(settings: Settings, views: range) -> None:
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in views])


def test_definitions_are_checked_with_the_line_of_what_is_wrong(tmp_path: Path) -> None:
    file = tmp_path / "features.yaml"
    file.write_text(FEATURES)
    checked = run("features", "check", file)
    assert checked.exit_code == 0
    assert "name: views" in checked.stdout
    described = json.loads(run("features", "check", file, "--json").stdout)
    assert [it["name"] for it in described["definitions"]][:2] == ["views", "spend"]
    file.write_text(FEATURES + "- {name: x, entity: user, event: view, aggregate: total}\n")
    refused = run("features", "check", file)
    assert refused.exit_code == 2
    assert f"{file}:{FEATURES.count(chr(10)) + 1}" in refused.stderr
    file.write_text("- {name: x, entity: user, sequence: [any, view], within: 5m, emit: x}\n")
    endless = run("features", "check", file)
    assert endless.exit_code == 2
    assert f"{file}:1: emit: the action x.x of x leads to x again" in endless.stderr


def test_a_plan_says_what_a_backfill_reads(settings: Settings, new_features: Path) -> None:
    data = settings.storage.data
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(30)])
    planned = run("features", "plan", "--data", data, "--features", new_features)
    assert planned.exit_code == 0
    assert "views: to be computed from the log" in planned.stdout
    assert "dropped" not in planned.stdout  # changed, under their old names
    assert "reads 30 records, from offset 0 to 30" in planned.stdout
    printed = run("features", "plan", "--data", data, "--features", new_features, "--json")
    plan = json.loads(printed.stdout)
    assert ("views" in plan["recomputed"], plan["records"]) == (True, 30)
    with Live(Platform.open(settings, build)) as live:
        assert live.views("u", 30) == 30
        assert live.platform.engine.missing == ()


def test_a_backfill_ends_without_a_server(settings: Settings, new_features: Path) -> None:
    data = settings.storage.data
    arguments = ("features", "backfill", "--data", data, "--features", new_features)
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(30)])
        live.views("u", 30)
        beside = run(*arguments)
        assert beside.exit_code == 1
        assert "Stop the server and run this again" in beside.stderr
        live.http.post("/v1/events", json=[view(number) for number in range(30, 50)])
        assert live.views("u", 50) == 50
    settings.features.write_text(CHANGED)
    serve(settings, range(50, 60))  # the new features may be missing for a while
    done = run(*arguments, "--json")
    assert done.exit_code == 0, done.output
    assert "views" in json.loads(done.stdout)["computed"]
    assert not (data / "backfill").exists()
    with Live(Platform.open(settings, build)) as live:
        assert live.platform.engine.missing == ()
        assert live.views("u", 60) == 60
    assert json.loads(run(*arguments, "--json").stdout) == {"computed": []}


def test_a_backfill_counts_as_the_engine_does(settings: Settings, tmp_path: Path) -> None:
    """Rules apply, and what came too late stays out."""
    rules = tmp_path / "rules.yaml"
    rules.write_text("- {name: robots, when: {user_agent: crawler}, action: drop}\n")
    late: dict[str, Any] = {"allowed_lateness_ms": 0, "watermark_delay_ms": 3_600_000}
    settings = replace(settings, engine=replace(settings.engine, rules=rules, **late))
    base = "- {name: views, entity: user, event: view, aggregate: count, window: {size: 1d}}\n"
    added = base.replace("views", "hourly").replace("1d", "1h")
    settings.features.write_text(base + added)
    day = now_ms() // 86_400_000 * 86_400_000 - 86_400_000
    robot: dict[str, Any] = {"context": {"user_agent": "Googlebot/2.1"}}
    hours = (20, 18, 19.5, 1)  # one not later than the watermark's delay, two too late
    sent = [
        *(view(n, timestamp=day + round(h * 3_600_000)) for n, h in enumerate(hours)),
        *(view(10 + n, timestamp=day + 71_000_000, **robot) for n in range(5)),
    ]
    at = day + 71_999_999

    def features(settings: Settings, missing: int) -> Any:
        with Live(Platform.open(settings, build)) as live:
            if not live.platform.engine.offset:
                live.http.post("/v1/events", json=sent)
            wait_until(lambda: live.platform.engine.offset == len(sent))
            assert len(live.platform.engine.missing) == missing
            return live.platform.features("u", at).features

    expected = features(
        replace(settings, storage=replace(settings.storage, data=tmp_path / "other")), 0
    )
    settings.features.write_text(base)
    features(settings, 0)
    settings.features.write_text(base + added)
    assert features(settings, 1)["hourly"] == 0
    config = tmp_path / "tactful.toml"
    config.write_text(
        "[engine]\nallowed_lateness_ms = 0\nwatermark_delay_ms = 3600000\n"
        'rules = "rules.yaml"\nfeatures = "features.yaml"\n'
    )
    arguments = ("features", "backfill", "--data", settings.storage.data, "--config", config)
    done = run(*arguments)
    assert done.exit_code == 0, done.output
    assert features(settings, 0) == expected
    assert expected["hourly"] == 1


def test_the_metadata_keep_account_of_backfills(
    settings: Settings, new_features: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve(settings, range(40))
    data = settings.storage.data
    arguments = ("--data", data, "--features", new_features)

    def broken(*_: object, **__: object) -> None:
        raise LogError("the disk is on fire")

    with monkeypatch.context() as patch:
        patch.setattr("tactful.maintenance.backfill.compute_to_end", broken)
        assert run("features", "backfill", *arguments).exit_code == 1
    planned = run("features", "plan", *arguments)
    assert "has come to offset 0 of 40 and failed: the disk is on fire" in planned.stderr
    (job,) = json.loads(run("features", "plan", *arguments, "--json").stdout)["backfills"]
    assert (job["state"], job["features"]) == ("failed", ["by_category", "spend", "views"])
    assert run("features", "backfill", *arguments).exit_code == 0
    assert json.loads(run("features", "plan", *arguments, "--json").stdout)["backfills"] == []
    with contextlib.closing(open_installation(settings)) as metadata:
        (done,) = metadata.backfills()
        assert (done.id, done.state, done.position, done.end) == (job["id"], "done", 40, 40)
        applied = metadata.definitions_history()
        assert applied[0].fingerprint == done.fingerprint != applied[1].fingerprint
        assert [it.applied_by for it in applied] == ["tactful features backfill", "tactful serve"]


@pytest.mark.parametrize("meanwhile", [False, True])
def test_nothing_is_merged_of_who_was_erased(settings: Settings, meanwhile: bool) -> None:
    """A log in Kafka holds them for ever, one in files for a moment."""
    data = settings.storage.data
    records = [
        encode_entry(Event(event_id=f"{n}", type="view", timestamp=now_ms(), user_id=f"u{n % 2}"))
        for n in range(8)
    ]
    with contextlib.closing(EmbeddedLog(data / "log")) as log:
        log.append(records)
    state = RocksState(data / "state")
    engine = Engine(load_definitions(FEATURES), state, EngineOptions(suppressed={"u1"}))
    engine.apply([*enumerate(records)])
    engine.commit()
    engine.close()
    changed = load_definitions(CHANGED)
    with contextlib.ExitStack() as stack:
        metadata = stack.enter_context(contextlib.closing(open_installation(settings)))
        ours, server = (open_suppression(settings, metadata, clock=now_ms) for _ in range(2))
        if not meanwhile:
            server.suppress(["u1"])
            ours.refresh()
        parts = stack.enter_context(opened_parts(settings, changed, ours.suppressed))
        work = Backfill(parts, changed, metadata, ours, lambda *_: server.suppress(["u1"]))
        stack.callback(work.close)
        assert "views" in work.complete(work.hold(stack))
    with contextlib.closing(RocksState(data / "state")) as left:
        assert {*user_keys_in(left)} == {"u0"}


def test_without_a_state_there_is_nothing_to_plan(settings: Settings, new_features: Path) -> None:
    elsewhere = replace(settings.storage, data=settings.storage.data / "none")
    for command in ("plan", "backfill"):
        refused = run("features", command, "--data", elsewhere.data, "--features", new_features)
        assert refused.exit_code == 1
        assert "there is no state" in refused.stderr
