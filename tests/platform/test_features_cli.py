"""``tactful features``: what it says, and that a server can run meanwhile."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import FEATURES, Live, build, view

from tactful.cli import main
from tactful.config import Settings
from tactful.service import Platform

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


def test_a_plan_changes_nothing_and_says_what_a_backfill_reads(
    settings: Settings, new_features: Path
) -> None:
    data = settings.storage.data
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[view(number) for number in range(30)])
    planned = run("features", "plan", "--data", data, "--features", new_features)
    assert planned.exit_code == 0
    assert "views: to be computed from the log" in planned.stdout
    assert "dropped" not in planned.stdout  # changed, under their old names
    assert "reads 30 records, from offset 0 to 30" in planned.stdout
    plan = json.loads(
        run("features", "plan", "--data", data, "--features", new_features, "--json").stdout
    )
    assert ("views" in plan["recomputed"], plan["records"]) == (True, 30)
    with Live(Platform.open(settings, build)) as live:
        assert live.views("u", 30) == 30
        assert live.platform.engine.missing == ()


def test_a_backfill_runs_beside_a_server_and_ends_when_that_has_stopped(
    settings: Settings, new_features: Path
) -> None:
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


def test_without_a_state_there_is_nothing_to_plan(settings: Settings, new_features: Path) -> None:
    elsewhere = replace(settings.storage, data=settings.storage.data / "none")
    for command in ("plan", "backfill"):
        refused = run("features", command, "--data", elsewhere.data, "--features", new_features)
        assert refused.exit_code == 1
        assert "there is no state" in refused.stderr
