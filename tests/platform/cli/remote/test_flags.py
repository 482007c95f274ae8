"""``tactful flags`` against a server: apply, list, show, kill, revive, why."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.platform.flags.flag_files import FLAGS
from tests.platform.support import Live, build, small_settings

from tactful.cli.main import main
from tactful.server.platform import Platform

Run = Callable[..., Result]


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        yield lambda *words: CliRunner().invoke(main, ["flags", *words, "--url", live.url])


def test_flags_of_a_server(run: Run, tmp_path: Path) -> None:
    file = tmp_path / "flags.yaml"
    assert "No flag was applied yet." in run("list").stderr
    file.write_bytes(b"\xff")
    assert "cannot be read as UTF-8" in run("apply", str(file)).stderr
    file.write_text(FLAGS.replace("share: 0.5", "share: 5"), "utf-8")
    wrong = run("apply", str(file))
    assert wrong.exit_code == 4, "the server refused it"
    assert f"{file}:" in wrong.stderr
    file.write_text(FLAGS, "utf-8")
    checked = run("apply", str(file), "--check")
    assert "结账 is added" in checked.stdout
    assert "Nothing was applied" in checked.stderr
    applied = run("apply", str(file), "--reason", "首次")
    assert (applied.exit_code, applied.stderr) == (0, "Version 1 is served.\n")
    assert "Nothing changes: version 1" in run("apply", str(file)).stderr
    file.write_text(FLAGS.replace("share: 0.5", "share: 0.7"), "utf-8")
    assert run("apply", str(file)).stdout == "结账 is changed\n  rules[0].share: 0.5 → 0.7\n"
    assert "[killed]" in run("kill", "结账", "--reason", "故障").stdout
    shown = run("show", "结账").stdout
    assert "else: false" in shown
    assert "killed: 故障" in shown
    assert "rules[0].share: 0.5 → 0.7" in shown
    why = run("why", "结账", "--unit", "小明").stdout
    assert why.startswith("结账 is false: the flag is killed")
    assert "[on]" in run("revive", "结账", "--reason", "好了").stdout
    why = run("why", "new-cart", "--unit", "ada", "--set", "country=CH").stdout
    assert why == "new-cart is true: rule-1 applies\n  rule-1: applies\n"
    assert "is not NAME=VALUE" in run("why", "new-cart", "--unit", "a", "--set", "x").stderr
    listed = json.loads(run("list", "--json").stdout)
    assert [flag["key"] for flag in listed] == ["banner", "checkout", "new-cart", "结账"]
    assert "No flag is stale." in run("list", "--stale").stderr
    assert "GET /v1/flags lists all flags" in run("kill", "no", "--reason", "x").stderr
