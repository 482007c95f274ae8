"""Own metrics as guardrails: judged at every look from new records, checked before they start."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec
import pytest
from tests.platform.shop import BEGIN, HOUR, Clock, write_log

from tactful.errors import ConfigError
from tactful.event_log.impressions import DECISION, DECISION_ID, OFFER, OFFER_ID
from tactful.experiment_metrics.columns import LogColumns
from tactful.experiment_metrics.definitions import load_metrics
from tactful.experiment_metrics.own_guardrails import (
    check_own,
    own_outcomes,
    with_own_guardrails,
)
from tactful.experiment_metrics.readout import MetricReadOuts
from tactful.experiment_metrics.registrations import MetricRegistrations
from tactful.experiments.baseline import ExactOutcomes
from tactful.experiments.controller import RolloutController, apply_file
from tactful.experiments.definitions import (
    CHANGE,
    CONTROL,
    GuardrailDefinition,
    RolloutDefinition,
    experiment_at,
    read_rollout,
)
from tactful.experiments.planning import Planner
from tactful.experiments.stage_readout import ReadOuts
from tactful.experiments.store import RolloutStore
from tactful.metadata.store import MetadataStore
from tactful_bandits.assignment.assign import assign
from tactful_streaming.contract.log_entries import Entry, Event, encode_entry
from tactful_streaming.contract.subject_ids import SubjectIds

METRICS = load_metrics("""
metrics:
  - {name: returns, kind: binary, event: refund, window: 30m, direction: lower}
  - {name: spend, kind: sum, event: purchase, value: properties.price, window: 30m, cap: 50}
  - {name: orders, kind: count, event: purchase, window: 30m, cap: 3}
  - {name: spend_per_order, kind: ratio, numerator: spend, denominator: orders}
  - {name: slow, kind: quantile, event: view, value: properties.ms, level: 0.9, window: 30m}
  - {name: back, kind: retention, event: view, delay: 7d, window: 7d}
""")


def definition(*guards: GuardrailDefinition, **changes: Any) -> RolloutDefinition:
    settings: dict[str, Any] = {
        "key": "cheaper",
        "change": {"objective": {"relevance": 1, "price": 0.3}},
        "guardrails": guards,
        "stages": (0.5, 1.0),
        "stage_hours": 2.0,
        "start": True,
    }
    return RolloutDefinition(**{**settings, **changes})


def history(metric: str, control: float, change: float, *, first: int = 0) -> list[Entry]:
    """Return lists of 4,000 people, after which some return, or spend."""
    rng, experiment = random.Random(1), experiment_at("cheaper", 0.5)
    made: list[Entry] = []
    for number in range(first, first + 4_000):
        person = f"p{number}"
        arm = assign(experiment, person).arm or CONTROL
        at = BEGIN + 10_000
        about: dict[str, Any] = {"user_id": person}
        properties: dict[str, Any] = {"items": ["i1"], "rollouts": [f"cheaper:{arm}"]}
        shown: dict[str, Any] = {"event_id": f"impression:{person}", "type": "impression"}
        shown |= {"recommendation_id": person, "properties": properties}
        made.append(Event(timestamp=at, **shown, **about))
        if rng.random() < (change if arm == CHANGE else control):
            kind = "refund" if metric == "returns" else "purchase"
            done: dict[str, Any] = {"event_id": f"o-{person}", "type": kind, "item_id": "i9"}
            done["properties"] = {"price": rng.choice([5.0, 20.0, 80.0])}
            made.append(Event(timestamp=at + 60_000, **done, **about))
    return made


class Shop:
    """A store of rollouts, a growing log and a controller."""

    def __init__(self, metadata: MetadataStore, path: Path, made: list[Entry]) -> None:
        self.clock = Clock()
        self.store = RolloutStore(metadata, clock=self.clock)
        self.log = write_log(path, made)
        self.controller = RolloutController(
            self.store,
            lambda: [self.log],
            every_ms=60_000,
            clock=self.clock,
            own=lambda stored: own_outcomes(stored, METRICS, lambda event: True),
        )

    def look(self, hours: float) -> dict[str, str]:
        self.clock.at += int(hours * HOUR)
        (look,) = self.controller.run()
        return dict(look.guardrails)

    def state(self) -> str:
        stored = self.store.find("cheaper")
        assert stored is not None
        return stored.rollout.state


@pytest.mark.parametrize(
    ("metric", "better", "control", "change"),
    [("returns", "lower", 0.05, 0.2), ("spend", None, 0.4, 0.2), ("orders", None, 0.4, 0.2)],
)
def test_harm_in_an_own_metric_rolls_back(
    sqlite: MetadataStore, tmp_path: Path, metric: str, better: Any, control: float, change: float
) -> None:
    shop = Shop(sqlite, tmp_path / "log", history(metric, control, change))
    guard = GuardrailDefinition(metric=f"own.{metric}", better=better, minimum_units=100)
    shop.store.apply(definition(guard), by="ann", reason="cheaper things")
    assert shop.look(0.25) == {f"own.{metric}": "too few data"}  # no window is over
    assert shop.look(1) == {f"own.{metric}": "harm"}
    assert shop.state() == "rolled back"
    assert shop.store.changes("cheaper")[-1].reason == f"harm: own.{metric}"


def test_no_harm_and_a_margin_leave_it_in_its_stage(sqlite: MetadataStore, tmp_path: Path) -> None:
    shop = Shop(sqlite, tmp_path / "log", history("spend", 0.4, 0.4))
    guards = [
        GuardrailDefinition(metric=f"own.{name}", margin=0.1, minimum_units=100)
        for name in ("spend", "spend_per_order")
    ]
    shop.store.apply(definition(*guards), by="ann", reason="r")
    assert set(shop.look(1).values()) <= {"undecided", "no harm"}
    assert shop.state() == "canary"


def test_the_read_out_has_the_course_of_own_guardrails(
    sqlite: MetadataStore, tmp_path: Path
) -> None:
    shop = Shop(sqlite, tmp_path / "log", history("spend", 0.4, 0.2))
    guards = GuardrailDefinition(metric="own.spend"), GuardrailDefinition(metric="takers")
    shop.store.apply(definition(*guards), by="ann", reason="r")
    look = shop.look(1.5)
    stored = shop.store.find("cheaper")
    assert stored is not None
    outcomes = ExactOutcomes(lambda: [shop.log])
    found = ReadOuts(shop.store, outcomes, clock=shop.clock).of_rollout(stored, exact=True)
    assert "own.spend" not in {point.metric for point in found.guardrails}
    registrations = MetricRegistrations(sqlite, clock=shop.clock)
    read_outs = MetricReadOuts(lambda: METRICS, registrations, outcomes, clock=shop.clock)
    whole = with_own_guardrails(read_outs, stored, found)
    verdicts = {point.metric: point.verdict for point in whole.guardrails}
    assert verdicts["own.spend"] == look["own.spend"] == "harm" and "takers" in verdicts


def test_looks_read_new_records_only_and_equal_a_reading_at_once(
    sqlite: MetadataStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = history("spend", 0.4, 0.3)
    half = len(made) // 2
    shop = Shop(sqlite, tmp_path / "log", made[:half])
    shop.store.apply(definition(GuardrailDefinition(metric="own.spend")), by="ann", reason="r")
    counted: list[int] = []
    read = LogColumns.read

    def watched(self: LogColumns, records: Any, *, early: bool = False) -> None:
        records = list(records)
        counted.append(len(records))
        read(self, records, early=early)

    monkeypatch.setattr(LogColumns, "read", watched)
    shop.look(0.75)
    shop.log.append([encode_entry(entry) for entry in made[half:]])
    shop.look(0.1)
    assert sum(counted) == len(made)
    stored = shop.store.find("cheaper")
    assert stored is not None
    once = own_outcomes(stored, METRICS, lambda event: True)
    assert once is not None
    once.read(enumerate(encode_entry(entry) for entry in made))
    watched_own = shop.controller._watched["cheaper"].own
    assert watched_own is not None
    now = shop.clock.at
    assert watched_own.pairs(now) == once.pairs(now)


@pytest.mark.parametrize(("kind", "prefix"), [(DECISION, DECISION_ID), (OFFER, OFFER_ID)])
def test_decisions_of_a_bandit_are_exposures(
    sqlite: MetadataStore, tmp_path: Path, kind: str, prefix: str
) -> None:
    made = [
        msgspec.structs.replace(
            entry, type=kind, event_id=f"{prefix}{entry.user_id}",
            properties={"rollouts": entry.properties["rollouts"], "bandit": "b"},
        )
        if isinstance(entry, Event) and entry.type == "impression"
        else entry
        for entry in history("spend", 0.4, 0.1)
    ]  # fmt: skip
    shop = Shop(sqlite, tmp_path / "log", made)
    shop.store.apply(definition(GuardrailDefinition(metric="own.spend")), by="ann", reason="r")
    assert shop.look(1) == {"own.spend": "harm"}


def test_an_erased_person_leaves_the_counts(sqlite: MetadataStore, tmp_path: Path) -> None:
    made = history("spend", 1.0, 1.0)
    shop = Shop(sqlite, tmp_path / "log", made)
    shop.store.apply(definition(GuardrailDefinition(metric="own.spend")), by="ann", reason="r")
    shop.look(0.75)
    own = shop.controller._watched["cheaper"].own
    assert own is not None
    before, traces = own.pairs(shop.clock.at), SubjectIds(users=frozenset({"p1", "p2"}))
    shop.controller.forget(traces)
    after = own.pairs(shop.clock.at)
    pair, left = before["own.spend"], after["own.spend"]
    assert pair is not None and left is not None
    assert sum(it.units for it in pair) - sum(it.units for it in left) == 2
    stored = shop.store.find("cheaper")
    assert stored is not None
    once = own_outcomes(stored, METRICS, lambda event: event.user_id not in ("p1", "p2"))
    assert once is not None
    once.read(enumerate(encode_entry(entry) for entry in made))
    assert once.pairs(shop.clock.at) == after


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"metric": "own.spent"}, r"no metric 'spent'; is it own.spend\?"),
        ({"metric": "own.returns"}, "write better: lower"),
        ({"metric": "own.spend", "better": "lower"}, "write better: higher"),
        ({"metric": "own.slow"}, "a quantile has no interval"),
        ({"metric": "own.back"}, "lengthen stage_hours"),
    ],
)
def test_a_wrong_own_metric_is_refused_where_a_rollout_is_applied(
    sqlite: MetadataStore, tmp_path: Path, guard: dict[str, Any], message: str
) -> None:
    made = definition(GuardrailDefinition(**guard), accept_low_power="a test")
    with pytest.raises(ConfigError, match=message):
        check_own(made, METRICS)
    store = RolloutStore(sqlite, clock=Clock())

    def check(definition: RolloutDefinition) -> None:
        check_own(definition, METRICS)

    planner = Planner(store, ExactOutcomes(list), clock=Clock(), check=check)
    for apply in _appliers(planner, store, check, tmp_path):
        apply(made)
        assert store.all() == []


def _appliers(
    planner: Planner, store: RolloutStore, check: Any, path: Path
) -> list[Callable[[RolloutDefinition], None]]:
    import msgspec
    import yaml

    def over_http(made: RolloutDefinition) -> None:
        with pytest.raises(ConfigError):
            planner.apply(made, by="ann", reason="r")

    def by_file(made: RolloutDefinition) -> None:
        file = path / "rollouts.yaml"
        file.write_text(yaml.safe_dump([msgspec.to_builtins(made)]))
        apply_file(store, file, check)  # a warning: the server starts nevertheless

    return [over_http, by_file]


@pytest.mark.parametrize(
    ("guard", "message"),
    [
        ({"metric": "takers", "better": "higher"}, "has its direction already"),
        ({"metric": "unknown"}, "or own.NAME of metrics.yaml"),
        ({"metric": "own.spend", "better": "up"}, "Invalid enum"),
    ],
)
def test_a_wrong_guardrail_is_refused_when_it_is_read(guard: dict[str, Any], message: str) -> None:
    plain = {"key": "k", "change": {"objective": {"relevance": 1}}, "guardrails": [guard]}
    with pytest.raises(ConfigError, match=message):
        read_rollout(plain, where="rollouts.yaml")


def test_private_rollouts_release_no_own_metric() -> None:
    plain = {
        "key": "k",
        "change": {"objective": {"relevance": 1}},
        "guardrails": [{"metric": "own.spend"}],
        "epsilon": 1,
    }
    with pytest.raises(ConfigError, match="counts of takers are released and nothing else"):
        read_rollout(plain, where="rollouts.yaml")
