"""Read-outs of own metrics: registered parts, course by day, odd shops, server and commands."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner, Result
from tests.platform.experiment_metrics.naive import BEGIN, DAY, HOUR
from tests.platform.memory_log import log_of
from tests.platform.shop import write_log
from tests.platform.support import Live, build, small_settings, wait_until

from tactful.cli.main import main
from tactful.config.recommendation import RecommendSettings
from tactful.errors import ConfigError
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiments.baseline import ExactOutcomes
from tactful.metadata.store import MetadataStore
from tactful.schemas.experiments.readouts import ReadOutMessage
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event

TEXT = """
metrics:
  - {name: buyers, kind: binary, event: purchase, window: 1d, minimum_outcomes: 10}
  - {name: spend, kind: sum, event: purchase, minus: refund, value: properties.price, window: 1d,
     cap: 100, words: 消费金额}
  - {name: taps, kind: count, event: x.tap, window: 1d}
  - {name: later, kind: retention, event: x.tap, delay: 7d, window: 7d}
experiments:
  - experiment: 结账
    goals: [buyers, spend]
    guardrails: [taps]
    secondary: [later]
    cuped: 1d
    segments: [{name: 手机, condition: {context.device: phone}}]
    arms: {旧: 0.5, 新: 0.5}
"""


def exposure(number: int, at: int, arm: str, **about: Any) -> Event:
    properties: dict[str, Any] = {"experiment": "结账", "arm": arm, "flag": "f", "version": 1}
    return Event(
        event_id=f"exposure:{number}", type="exposure", timestamp=at, user_id=f"u{number}",
        properties=properties, **about,
    )  # fmt: skip


def acted(number: int, at: int, kind: str, **properties: Any) -> Event:
    identity = f"{kind}{number}-{at}"
    return Event(
        event_id=identity, type=kind, timestamp=at, user_id=f"u{number}", properties=properties
    )


def shop(
    units: int, *, days: int = 6, lift: float = 0.0, arms: Sequence[str] = "旧新"
) -> list[Event]:
    rng = random.Random(5)
    made = []
    for number in range(units):
        at, arm = BEGIN + rng.randrange(days * DAY), rng.choice(arms)
        made.append(exposure(number, at, arm, context={"device": rng.choice(["phone", "desk"])}))
        for _ in range(rng.randrange(4)):
            made.append(acted(number, at + rng.randrange(-DAY, DAY), "x.tap"))
        if rng.random() < 0.3 + (lift if arm == "新" else 0.0):
            bought = at + rng.randrange(DAY)
            made.append(acted(number, bought, "purchase", price=rng.lognormvariate(3, 1)))
            if rng.random() < 0.1:
                made.append(acted(number, bought + HOUR, "refund", price=200.0))
    return sorted(made, key=lambda event: event.timestamp)


def read(
    metadata: MetadataStore,
    made: Sequence[Event],
    *,
    now: int = BEGIN + 9 * DAY,
    registered: int | None = BEGIN - 1,
    text: str = TEXT,
) -> ReadOutMessage:
    registrations = MetricRegistrations(metadata, clock=lambda: registered or 0)
    if registered is not None:
        registrations.register(load_metrics(TEXT), by="ann")
    outcomes = ExactOutcomes(lambda: [log_of(made)])
    reader = MetricReadOuts(lambda: load_metrics(text), registrations, outcomes, clock=lambda: now)
    return reader.of_key("结账", days=28)


def test_a_read_out_has_the_confidence_of_its_analysis(sqlite: MetadataStore) -> None:
    wide = TEXT.replace("    cuped: 1d\n", "    cuped: 1d\n    alpha: 0.2\n")
    found, usual = read(sqlite, shop(200), text=wide), read(sqlite, shop(200))
    assert (found.confidence, usual.confidence) == (0.8, 0.95)


def test_a_read_out_has_effects_course_guardrails_and_segments(sqlite: MetadataStore) -> None:
    found = read(sqlite, shop(1_500, lift=0.3))
    effects = {effect.metric: effect for effect in found.effects}
    assert found.sample_ratio.verdict == "ok"
    assert [*effects] == ["buyers", "spend", "taps"]
    assert effects["buyers"].verdict == "higher" and effects["buyers"].adjusted
    assert effects["spend"].words == "消费金额" and effects["spend"].cap == 100
    assert not any(effect.exploratory for effect in found.effects)
    course = [point for point in found.series if point.metric == "buyers"]
    counts = [point.people for point in course]
    assert counts == sorted(counts) and len(counts) >= 6
    assert course[-1].difference == pytest.approx(effects["buyers"].difference)
    assert all(point.at % DAY == 0 for point in course)
    (segment,) = found.segments
    assert segment.segment == "手机" and not segment.exploratory
    assert [effect.metric for effect in segment.effects] == ["buyers", "spend"]
    assert found.guardrails[-1].metric == "taps"
    assert any("later" in note and "no unit" in note for note in found.notes)


def test_what_comes_after_the_first_exposure_is_exploratory(sqlite: MetadataStore) -> None:
    made = shop(300)
    found = read(sqlite, made, registered=None)
    assert all(effect.exploratory and not effect.adjusted for effect in found.effects)
    late = read(sqlite, made, registered=BEGIN + 5 * DAY)
    assert all(effect.exploratory for effect in late.effects)


def test_a_change_makes_the_changed_part_exploratory(sqlite: MetadataStore) -> None:
    changed = TEXT.replace("cap: 100", "cap: 90").replace("phone", "tablet")
    found = read(sqlite, shop(300), text=changed)
    assert {it.metric: it.exploratory for it in found.effects} == {
        "buyers": False, "spend": True, "taps": False,
    }  # fmt: skip
    assert found.segments[0].exploratory
    words = TEXT.replace("消费金额", "其他文字")
    assert not any(it.exploratory for it in read(sqlite, shop(300), text=words).effects)


@pytest.mark.parametrize(
    ("old", "new", "exploratory"),
    [
        ("goals: [buyers, spend]", "goals: [buyers]", {"buyers"}),  # an easier correction
        ("goals: [buyers, spend]", "goals: [buyers]\n    correction: none", {"buyers", "taps"}),
        ("cuped: 1d", "cuped: 1d\n    alpha: 0.2", {"buyers", "spend", "taps"}),
        ("cuped: 1d", "cuped: 1d\n    start: 2023-11-15", {"buyers", "spend", "taps"}),
        ("[taps]", "[{metric: taps, margin: 0.1}]", {"taps"}),
        ("secondary: [later]", "secondary: [later, taps]\n", None),
        ("goals: [buyers, spend]", "goals: [buyers, spend, often]", {"often"}),
    ],
)
def test_easier_rules_after_the_start_confirm_nothing(
    old: str, new: str, exploratory: set[str] | None, sqlite: MetadataStore
) -> None:
    assert old in TEXT
    often = "  - {name: often, kind: binary, event: x.tap, window: 2d}\nexperiments:"
    text = TEXT.replace(old, new).replace("experiments:", often)
    if exploratory is None:  # a guardrail becomes a secondary metric
        text = text.replace("    guardrails: [taps]\n", "")
        exploratory = {"taps"}
    found = read(sqlite, shop(300), text=text)
    assert {it.metric for it in found.effects if it.exploratory} == exploratory


def test_a_dropped_segment_makes_the_others_exploratory(sqlite: MetadataStore) -> None:
    segments = "[{name: 手机, condition: {context.device: phone}}"
    both = load_metrics(TEXT.replace(segments, segments + ", {name: 其他, condition: {}}"))
    registrations = MetricRegistrations(sqlite, clock=lambda: 7)
    registrations.register(both, by="ann")
    for text, planned in ((both, {"手机", "其他"}), (load_metrics(TEXT), set())):
        plan = text.plans["结账"]
        found = registrations.planned(plan, text.of_plan(plan), 8)
        assert found.segments == planned and "buyers" in found.metrics


def test_registrations_are_stored_once_with_their_author(database: MetadataStore) -> None:
    registrations = MetricRegistrations(database, clock=lambda: 7)
    assert registrations.register(load_metrics(TEXT), by="ann") == ["结账"]
    assert registrations.register(load_metrics(TEXT), by="eve") == []
    assert registrations.latest() == {"结账": (7, "ann")}


def odd_shops() -> dict[str, list[Event]]:
    one_arm = shop(60, arms="新")
    no_outcomes = [event for event in shop(60) if event.type == "exposure"]
    before = [
        msgspec.structs.replace(event, timestamp=event.timestamp - 20 * DAY)
        if event.type != "exposure"
        else event
        for event in shop(60)
    ]
    negative = [exposure(n, BEGIN + n, "旧新"[n % 2]) for n in range(200)]
    negative += [acted(n, BEGIN + HOUR, "refund", price=30.0 + n) for n in range(200)]
    others = [acted(n, BEGIN + n, "click") for n in range(50)]
    unknown = [exposure(n, BEGIN + n, "third") for n in range(20)]
    wild = [exposure(n, BEGIN + n, "旧新"[n % 2]) for n in range(20)]
    amounts = [1e300, float("inf"), float("nan"), 2**63, "x", None, True, -5]
    wild += [acted(n, BEGIN + HOUR, "purchase", price=it) for n, it in enumerate(amounts)]
    return {
        "one arm is empty": one_arm, "nobody did anything": no_outcomes,
        "outcomes came before": sorted(before, key=lambda it: it.timestamp),
        "only refunds": negative, "no exposures": others, "an unknown arm": unknown,
        "wild amounts": wild, "nothing": [], "three days old": shop(200, days=2),
    }  # fmt: skip


@pytest.mark.parametrize("name", odd_shops())
def test_odd_shops_are_read_without_a_false_claim(name: str, sqlite: MetadataStore) -> None:
    now = BEGIN + 3 * DAY if name == "three days old" else BEGIN + 9 * DAY
    found = read(sqlite, odd_shops()[name], now=now)
    assert found.effects or found.reason
    assert all(effect.verdict in ("inconclusive", "too few data") for effect in found.effects)
    msgspec.json.encode(found)
    if name == "only refunds":
        (spend,) = (effect for effect in found.effects if effect.metric == "spend")
        assert -100 <= spend.control.value < 0


def test_unknown_experiments_and_arms_are_named(sqlite: MetadataStore) -> None:
    with pytest.raises(ConfigError, match="no analysis names it"):
        read(sqlite, [], text="metrics: []")
    with pytest.raises(ConfigError, match="give their shares as arms"):
        read(sqlite, [], text=TEXT.replace("    arms: {旧: 0.5, 新: 0.5}\n", ""))


def test_commands_read_the_same(tmp_path: Path) -> None:
    data, file = tmp_path / "data", tmp_path / "metrics.yaml"
    data.mkdir()
    file.write_text(TEXT.replace("cuped: 1d", "start: 2023-11-01"), "utf-8")
    write_log(data / "log", shop(200)).close()
    environment = {
        "TACTFUL_STORAGE__DATA": str(data),
        "TACTFUL_CONSENT__DEFAULT": "assume",
        "TACTFUL_RECOMMEND__METRICS": str(file),
    }

    def run(*arguments: str) -> Result:
        return CliRunner().invoke(main, arguments, env=environment)

    assert "registered: 结账" in run("metrics", "register").stdout
    assert "nothing has changed" in run("metrics", "register").stdout
    assert "registered 20" in run("metrics", "list").stdout
    told = run("experiment", "readout", "结账")
    assert told.exit_code == 0, told.output
    for expected in ("sample ratio: ok", "spend: 消费金额", "[goal, exploratory]", "segment 手机"):
        assert expected in told.stdout
    wrong = run("experiment", "readout", "nothing")
    assert wrong.exit_code == 2 and "ranking, 结账" in wrong.stderr


def test_a_server_registers_and_serves_metrics(tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(TEXT, "utf-8")
    settings = replace(small_settings(tmp_path), recommend=RecommendSettings(metrics=file))
    with Live(Platform.open(settings, build)) as live:
        index = live.http.get("/v1/experiments/metrics").json()
        assert [it["definition"]["name"] for it in index["metrics"]][:2] == ["buyers", "spend"]
        assert index["metrics"][0]["used"] == [{"experiment": "结账", "role": "goal"}]
        assert index["experiments"][0]["registered_by"] == "tactful serve"
        entries = live.http.get("/v1/audit?action=metrics").json()["entries"]
        assert [(it["action"], it["target"]) for it in entries] == [("metrics.register", "结账")]
        found = live.http.get("/v1/experiments/结账/readout").json()
        assert found["reason"] == "no unit was exposed in this time"
        file.write_text("metrics: 3\n", "utf-8")
        broken = live.http.get("/v1/experiments/metrics")
        assert (broken.status_code, broken.json()["code"]) == (422, "invalid")
    with pytest.raises(ConfigError, match=r"metrics\.yaml:1"):
        Platform.open(settings, build)


FLAGS = """
flags:
  checkout:
    kind: text
    variants: {long: three pages, short: one page}
    default: long
    rules:
      - experiment: {key: checkout-2027, arms: [long, short]}
"""


def test_an_experiment_of_a_flag_is_read_out_without_its_arms(tmp_path: Path) -> None:
    file = tmp_path / "metrics.yaml"
    file.write_text(
        "metrics:\n  - {name: taps, kind: count, event: x.tap, window: 1s}\n"
        "experiments:\n  - {experiment: checkout-2027, goals: [taps]}\n"
    )
    settings = replace(small_settings(tmp_path), recommend=RecommendSettings(metrics=file))
    with Live(Platform.open(settings, build)) as live:
        applied = {"name": "flags.yaml", "reason": "a test", "definitions": FLAGS}
        assert live.http.post("/v1/flags", json=applied).status_code == 200
        arms: dict[str, int] = {}
        for number in range(30):
            body = {"user_id": f"u{number}", "flags": ["checkout"]}
            answer = live.http.post("/v1/assign", json=body).json()
            arm = answer["flags"]["checkout"]["arm"]
            arms[arm] = arms.get(arm, 0) + 1

        def people() -> dict[str, int]:
            live.platform.metric_read_outs._fresh._values.clear()
            found = live.http.get("/v1/experiments/checkout-2027/readout").json()
            assert found["sample_ratio"]["expected"] == {"long": 0.5, "short": 0.5}
            return dict(found["sample_ratio"]["people"])

        wait_until(lambda: people() == arms)
