"""Life cycles through a server: features, flags, segments, actions, export, consent."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest import mock

import httpx
import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.platform.support import FEATURES, Live, build, small_settings, wait_until
from tests.platform.webhook_receiver import Shop, receiving

from tactful.cli.main import main
from tactful.config.privacy import ConsentSettings
from tactful.config.recommendation import CouponSettings, LifecycleSettings
from tactful.config.server import ActionSettings
from tactful.config.settings import PACKAGED_FEATURES, Settings
from tactful.lifecycle.profile import BY_WORKERS, NOT_COMPUTED, NOT_FITTED
from tactful.schemas.users import PersonExport
from tactful.server.platform import Platform
from tactful.subjects.export import export_person
from tactful.util.clock import now_ms
from tactful_streaming.contract.log_entries import Event
from tactful_streaming.definitions.model import Definitions, dump_definitions
from tactful_streaming.definitions.reader import load_definitions

DAY = 86_400_000
NAMES = ("visit_days", "spent_728d", "stage_last")
PACKAGED = load_definitions(PACKAGED_FEATURES).features
OWN = dump_definitions(Definitions(tuple(it for it in PACKAGED if it.name in NAMES)))
SEQUENCES = """
- {name: won_back, entity: user, sequence: [x.stage_active], within: 1h, emit: welcome_back}
- {name: thanked, entity: user, sequence: [x.stage_active], within: 1h, emit: thanks}
"""
CAMPAIGNS = """
- name: thanks
  action: thanks
  offer: {percent: 10}
  cost: 5
  budget: {amount: 1000, decisions: 100}
  eligible: {lifecycle.stage: active, lifecycle.visits: 16, lifecycle.value: {$gte: 16}}
  holdout: 0.000001
"""
FLAGS = """
flags:
  win-back:
    default: off
    rules:
      - when: {lifecycle.stage: {$in: [lapsing, lost]}}
        serve: on
  keep:
    default: off
    rules:
      - when: {lifecycle.return_probability: {$gt: 0.1}, lifecycle.stage: active}
        experiment: {key: keep-2027, coverage: 1, arms: [off, on]}
  rare:
    default: off
    rules:
      - when: {lifecycle.visits: {$lte: 1000}}
        serve: on
"""


def history(now: int) -> list[dict[str, Any]]:
    """Events of 150 users of a shop of custom events only, 100 days long."""
    rng = np.random.default_rng(4)
    events = []
    for number in range(150):
        first, gap = rng.integers(60, 100), rng.choice([3, 8, 20])
        days = np.arange(first, 0 if number % 2 else first // 2, -gap)
        events += [(int(now - day * DAY), f"u{number}") for day in days]
    events += [(now - day * DAY, name) for day in range(40, 70, 2) for name in ("gone", "silent")]
    events += [(now - day * DAY, name) for day in range(0, 60, 5) for name in ("regular", "李雷")]
    return [
        {"event_id": f"e{n}", "type": "x.play", "timestamp": at, "user_id": user}
        for n, (at, user) in enumerate(sorted(events))
    ]


def run(*words: object, **environ: str) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words], env=environ)


class Served:
    """The server under test, its client and the shop that receives its webhooks."""

    def __init__(self, live: Live, shop: Shop, now: int) -> None:
        self.live, self.shop, self.now = live, shop, now
        self.http = httpx.Client(base_url=live.url, timeout=60)

    def life_cycle(self, user: str) -> dict[str, Any]:
        answer = self.http.get(f"/v1/users/{user}/features").raise_for_status()
        found: dict[str, Any] = answer.json()["lifecycle"]
        return found

    def send(self, *events: dict[str, Any]) -> dict[str, Any]:
        found: dict[str, Any] = self.http.post("/v1/events", json=list(events)).json()
        return found

    def flags(self, user: str, signal: str = "0", **fields: Any) -> dict[str, Any]:
        request = {"user_id": user, "log": False, **fields}
        headers = {"Sec-GPC": signal}
        answer = self.http.post("/v1/assign", json=request, headers=headers).raise_for_status()
        found: dict[str, Any] = answer.json()["flags"]
        return found

    def flag(self, user: str, name: str = "win-back", **fields: Any) -> bool:
        return bool(self.flags(user, **fields)[name]["value"])

    def export(self, user: str) -> dict[str, Any]:
        found: dict[str, Any] = self.http.get(f"/v1/users/{user}/export").raise_for_status().json()
        return found

    def stored(self, user: str, settings: Settings) -> PersonExport:
        """Everything of a user in the data directory, by the settings of another process."""
        metadata = self.live.platform.resources.installation.metadata
        return export_person(settings, metadata, user, clock=now_ms)

    def stages(self, user: str) -> list[str]:
        """Types of the events about the stage of a user in the log."""
        records = (record.get("event", record) for record in self.export(user)["records"])
        return [it["type"] for it in records if it.get("type", "").startswith("x.stage_")]

    def actions(self, user: str) -> list[str]:
        """Types of the actions about a user that the webhook has got."""
        sent = (json.loads(body) for _, body in self.shop.attempts)
        return sorted(it["type"] for it in sent if it["user_id"] == user)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    path = tmp_path_factory.mktemp("lifecycle")
    settings = small_settings(path)
    settings.features.write_text(FEATURES + OWN + SEQUENCES)
    (path / "coupons.yaml").write_text(CAMPAIGNS)
    with receiving() as shop, mock.patch("tactful.server.background._ERASE_S", 0.2):
        settings = replace(
            settings,
            coupons=CouponSettings(definitions=path / "coupons.yaml"),
            lifecycle=LifecycleSettings(every_minutes=0.01),
            engine=replace(settings.engine, watermark_delay_ms=50, idle_s=0.1),
            actions=ActionSettings(webhook_url=f"http://127.0.0.1:{shop.server_port}/"),
        )
        with Live(Platform.open(settings, build)) as live:
            served = Served(live, shop, int(time.time() * 1000))
            step, passing = live.platform.life_cycles.step, threading.Lock()

            def wait_and_step() -> list[Event]:
                with passing:
                    return step()

            live.platform.life_cycles.step = wait_and_step  # type: ignore[method-assign]
            refused = {"purposes": {"personalisation": False}, "source": "test"}
            for key in ("silent", "device:shared"):
                served.http.put(f"/v1/users/{key}/consent", json=refused).raise_for_status()
            flags = {"definitions": FLAGS, "name": "f"}
            served.http.post("/v1/flags", json=flags).raise_for_status()
            events = history(served.now)
            assert served.send(*events[:60])["rejected"] == []
            early = "fewer than 100 users have a visit"
            wait_until(lambda: served.life_cycle(events[0]["user_id"])["reason"] == early)
            with passing:  # no pass announces a stage of the middle of the history
                for start in range(60, len(events), 500):
                    assert served.send(*events[start : start + 500])["rejected"] == []
                wait_until(lambda: served.life_cycle("regular")["visits"] == 12)
            wait_until(lambda: served.life_cycle("regular")["stage"] is not None)
            yield served
            served.http.close()


def test_a_life_cycle_is_a_feature(served: Served) -> None:
    regular, gone = served.life_cycle("regular"), served.life_cycle("gone")
    assert regular["stage"] == "active" and gone["stage"] in ("lapsing", "lost")
    assert regular["return_probability"] > gone["return_probability"]
    assert (gone["visits"], gone["value"], gone["value_unit"]) == (15, 15.0, "visits")
    assert (regular["calibrated"], regular["horizon_days"]) == (True, 30)
    assert 0 < regular["brier"] < 1 and 0 < regular["base_brier"] <= 0.25
    assert served.life_cycle("李雷")["stage"] == "active"
    assert served.life_cycle("nobody")["reason"] == "there is no event"


def test_flags_read_it_and_nobody_can_claim_it(served: Served) -> None:
    assert served.flag("gone")
    assert not served.flag("regular")
    claim = {"lifecycle": "lost", "lifecycle.stage": "lost"}
    assert not served.flag("regular", attributes=claim)
    # A page cannot know it, so the server evaluates such a flag for it.
    assert served.http.get("/v1/flags/win-back").json()["flag"]["remote"]


def test_a_refusal_of_device_or_request_hides_it_from_flags(served: Served) -> None:
    assert served.flag("gone", device_id="own")
    assert not served.flag("gone", device_id="shared")
    assert not served.flag("gone", signal="1")
    assert not served.flag("gone", context={"consent": "measurement"})


def test_without_consent_no_comparison_of_numbers_holds(served: Served) -> None:
    assert served.flag("gone", "rare")
    assert not served.flag("silent", "rare")
    assert not served.flag("gone", "rare", device_id="shared")


def test_experiments_take_part_by_it(served: Served) -> None:
    arms = {user: served.flags(user)["keep"]["experiment"] for user in ("regular", "李雷")}
    assert {*arms.values()} == {"keep-2027"}
    assert [served.flags(user)["keep"]["experiment"] for user in ("gone", "silent")] == [None, None]


@pytest.mark.parametrize(
    ("where", "chosen"),
    [
        ('{"lifecycle.stage": "active"}', ["regular", "李雷"]),
        ('{"lifecycle.value": {"$lt": 1000}}', ["regular", "gone", "李雷"]),
    ],
)
def test_a_segment_chooses_by_it(
    served: Served, tmp_path: Path, where: str, chosen: list[str]
) -> None:
    users = tmp_path / "users"
    users.write_text("regular\ngone\nsilent\n李雷\n")
    with receiving() as shop:
        done = run(
            *(
                "export",
                "segment",
                "stay",
                "--users",
                users,
                "--to",
                f"http://127.0.0.1:{shop.server_port}",
            ),
            *("--where", where, "--url", served.live.url),
            XDG_STATE_HOME=str(tmp_path / "chosen"),
        )
        assert done.exit_code == 0, done.output
        sent = [row for _, body in shop.attempts for row in json.loads(body)["rows"]]
    assert [row["user_id"] for row in sent] == chosen


@pytest.mark.slow
def test_a_change_of_stage_reaches_the_webhook(served: Served) -> None:
    wait_until(lambda: served.stages("gone") == ["x.stage_known"])
    assert not served.actions("gone")
    back = {"event_id": "back", "type": "x.play", "user_id": "gone"}
    served.send({**back, "timestamp": int(time.time() * 1000)})
    wait_until(lambda: served.actions("gone") == ["x.coupon_offer", "x.welcome_back"])
    assert served.stages("gone") == ["x.stage_known", "x.stage_active"]
    assert served.life_cycle("gone")["visits"] == 16, "no event about a stage is a visit"


def test_without_consent_nothing_is_computed(served: Served) -> None:
    known = served.life_cycle("silent")
    assert (known["stage"], known["visits"], known["value"]) == (None, 0, 0.0)
    assert known["reason"] == "consent does not allow to personalise"
    assert served.stages("silent") == []
    features = served.export("silent")["features"]
    assert all("lifecycle" not in values for values in features.values())


@pytest.mark.slow
def test_export_and_erasure_include_it(served: Served) -> None:
    exported = served.export("u1")
    assert exported["features"]["user u1"]["lifecycle"]["stage"] is not None
    wait_until(lambda: bool(served.stages("u1")))
    receipt = served.http.delete("/v1/users/u1").raise_for_status().json()["receipt"]
    path = f"/v1/erasures/{receipt}"
    wait_until(lambda: served.http.get(path).json()["state"] == "done")
    left = served.stored("u1", served.live.platform.settings)
    assert (left.records, left.features) == ([], {})


def test_an_export_beside_a_server_has_it(served: Served) -> None:
    """The options of the command line of the server hold, as in its own export."""
    plain = replace(served.live.platform.settings, consent=ConsentSettings())
    found = served.stored("regular", plain)
    assert found.features["user regular"]["lifecycle"]["stage"] == "active"


@pytest.mark.slow  # three servers, one after the other
def test_a_state_of_an_earlier_version_is_completed(tmp_path: Path) -> None:
    settings = small_settings(tmp_path)
    days = [{"event_id": f"e{n}", "type": "view", "user_id": "ada"} for n in range(40)]
    now = int(time.time() * 1000)
    with Live(Platform.open(settings, build)) as live:
        live.http.post("/v1/events", json=[{**it, "timestamp": now - DAY} for it in days])
        before = live.views("ada", 40)
    settings.features.write_text(FEATURES + OWN)

    def known() -> tuple[float, dict[str, Any]]:
        with Live(Platform.open(settings, build)) as live:
            views = live.views("ada", 40)
            answer = live.http.get("/v1/users/ada/features").json()
            exported = live.http.get("/v1/users/ada/export").json()["features"]["user ada"]
            assert exported["lifecycle"] == answer["lifecycle"]
            return views, answer["lifecycle"]

    views, unknown = known()
    assert (views, unknown["reason"]) == (before, NOT_COMPUTED)
    options = ("--data", settings.storage.data, "--features", settings.features)
    assert run("features", "backfill", *options).exit_code == 0
    views, counted = known()
    assert (views, counted["visits"], counted["reason"]) == (before, 1, NOT_FITTED)


def test_a_server_without_the_features_of_users_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = small_settings(tmp_path)
    settings.features.write_text(FEATURES + OWN)
    with Live(Platform.open(settings, build)) as live:
        event = {"event_id": "e", "type": "view", "user_id": "ada"}
        live.http.post("/v1/events", json=[{**event, "timestamp": int(time.time() * 1000)}])
        live.views("ada", 1)
        elsewhere = replace(live.platform.backend, shared=object())  # type: ignore[arg-type]
        monkeypatch.setattr(live.platform, "backend", elsewhere)
        found = live.http.get("/v1/users/ada/features").json()["lifecycle"]
        assert (found["visits"], found["stage"], found["reason"]) == (1, None, BY_WORKERS)


def test_clients_cannot_write_stages(served: Served) -> None:
    event = {"type": "x.stage_lost", "user_id": "regular", "timestamp": served.now}
    assert served.send({**event, "event_id": "s-1"})["rejected"][0]["code"]
    named = {**event, "type": "view", "event_id": "stage:1"}
    assert served.send(named)["rejected"][0]["code"]
