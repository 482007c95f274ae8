"""The server keeps the contract of its OpenAPI document, as schemathesis judges it.

It tries longer with
`TACTFUL_CONTRACT_EXAMPLES=400 scripts/test --slow tests/platform/http/test_contract.py`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from tests.platform.support import Live, build, now_ms, small_settings, view, wait_until

from tactful.config.privacy import StatisticsSettings
from tactful.metadata.connections import open_keys
from tactful.server.platform import Platform
from tactful.statistics.counter import CLOCK_EVENT
from tactful.statistics.service import open_statistics

ROOT = Path(__file__).resolve().parents[3]
EXAMPLES = os.environ.get("TACTFUL_CONTRACT_EXAMPLES")  # without it a minute is the limit
CONFIGURATION = Path(__file__).with_name("contract.toml")
HOUR = 3_600_000
LINKED = (
    *("post_events", "put_items", "put_users", "post_recommend", "get_explanation"),
    *("find_items", "get_item", "get_similar", "get_together", "get_next"),
    *("get_features", "get_consent", "put_consent", "get_export", "delete_user", "get_erasure"),
)


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Live, str]]:
    """A server that checks API keys, with a report and a published statistic; an admin key."""
    tmp_path = tmp_path_factory.mktemp("shop")
    small = small_settings(tmp_path)
    statistic = {"name": "views", "event": "view", "by": "properties.category", "pane": "1h"}
    definitions = tmp_path / "statistics.yaml"
    definitions.write_bytes(
        msgspec.json.encode(
            {
                "daily_epsilon": "1",
                "statistics": [{**statistic, "keys": ["kitchen"], "cap": 5, "epsilon": "1"}],
            }
        )
    )
    settings = replace(
        small,
        server=replace(small.server, dev=False),
        statistics=StatisticsSettings(definitions=definitions, clock="replay"),
    )
    settings.storage.reports.mkdir()
    (settings.storage.reports / "demo.json").write_text('{"name": "demo", "stage": "done"}')
    with open_keys(settings) as (_, keys):
        key, _ = keys.create(["admin"], note="contract")
    statistics = open_statistics(settings)
    assert statistics is not None
    platform = Platform.open(
        settings, build, consumers={"statistics": statistics.counter}, statistics=statistics
    )
    with Live(platform) as server:
        server.http.headers["Authorization"] = f"Bearer {key}"
        hours = [now_ms() - ago * HOUR for ago in range(9, -1, -1)]
        past = [
            view(n, type=kind, timestamp=at, event_id=f"{kind}-{n}")
            for n, at in enumerate(hours)
            for kind in (CLOCK_EVENT, "view")
        ]
        assert server.http.post("/v1/events", json=past).json()["accepted"] == len(past)
        wait_until(lambda: bool(server.http.get("/v1/statistics/views").json().get("cells")))
        yield server, key
    statistics.close()


def run_schemathesis(shop: tuple[Live, str], seconds: int, *options: str) -> None:
    """Let schemathesis judge the server; fail with its report."""
    server, key = shop
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(CONFIGURATION), "run"]
    command += [f"{server.url}/openapi.json", "--max-examples", EXAMPLES or "10", "--no-color"]
    command += [*([] if EXAMPLES else [f"--max-time={seconds}"]), *options]
    run = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, "TACTFUL_API_KEY": key, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stdout[-20_000:] + run.stderr[-2_000:]
    assert server.platform.health().status == "ok"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("phases", "seconds"), [("examples,coverage,stateful", 35), ("fuzzing", 12)]
)
def test_every_operation_is_as_documented(
    shop: tuple[Live, str], phases: str, seconds: int
) -> None:
    """No request to any operation is answered in another way than its description says."""
    run_schemathesis(shop, seconds, "--phases", phases)


@pytest.mark.slow
def test_links_are_as_documented(shop: tuple[Live, str]) -> None:
    """Requests that follow from answers keep the contract, too: a list, its feedback; an erasure.

    Alone, since schemathesis would begin with other operations only.
    """
    chosen = [f"--include-operation-id={operation}" for operation in LINKED]
    run_schemathesis(shop, 12, "--phases", "stateful", *chosen)
