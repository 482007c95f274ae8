"""How often revenue rolls back a rollout without cause, and how often with one.

Few users buy, and the amounts are lognormal or real invoices. Each simulated stage is judged at
every look by `judge_rollout`. Some are also written to a log, from which a `RolloutController` must
come to the same states.
"""

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from benchmarks.experiments.oracle import shared_file
from benchmarks.figures import Figure
from tactful.event_log.impressions import IMPRESSION_ID
from tactful.experiments.controller import RolloutController
from tactful.experiments.definitions import (
    CHANGE,
    CONTROL,
    GuardrailDefinition,
    RolloutDefinition,
    experiment_at,
)
from tactful.experiments.readout import comparable
from tactful.experiments.store import RolloutStore
from tactful.metadata.store import open_metadata
from tactful_bandits.analysis.skewed_means import SkewedMean
from tactful_bandits.assignment.assign import assign
from tactful_bandits.rollouts.lifecycle import (
    Rollout,
    StageObservations,
    judge_rollout,
    start_canary,
    start_shadow,
)
from tactful_streaming.contract.log_entries import Event, encode_entry

FIGURES = [
    ("revenue_aa_false_rollback_max", "1"),
    ("revenue_aa_false_rollback_invoices", "1"),
    ("revenue_drop20_detected_min", "1"),
    ("revenue_drop20_detected_max", "1"),
    ("revenue_controller_mismatches", "stages"),
]
LOOKS = 6
_HOUR = 3_600_000
_BEGIN = 1_700_006_400_000
_ALPHA = 0.05
Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Case:
    """A shop in one stage.

    Attributes:
        buyers: Share of the users that buy.
        sigma: Of the logarithm of an amount; None draws from real invoices.
        control: Users of the control, about.
        change: Users of the change, about.
    """

    buyers: float
    sigma: float | None
    control: int
    change: int

    def __str__(self) -> str:
        """Short text for notes."""
        amounts = "invoices" if self.sigma is None else f"sigma {self.sigma:g}"
        return f"{self.buyers:.0%} buyers, {amounts}, {self.control:,} and {self.change:,} users"

    @property
    def share(self) -> float:
        """Share of the users in the change."""
        return self.change / (self.control + self.change)

    @property
    def definition(self) -> RolloutDefinition:
        """The rollout: one stage with a control, which gets all of alpha."""
        return RolloutDefinition(
            key="sale",
            change={"diversity": {"strength": 1}},
            guardrails=(GuardrailDefinition(metric="revenue"),),
            stages=(self.share, 1.0),
            alpha=_ALPHA,
            proof=False,
            start=True,
        )


_ARMS = ((600, 600), (5_400, 600), (10_000, 1_000), (10_000, 10_000))
_CASES = [
    Case(buyers, sigma, *arms)
    for buyers in (0.02, 0.1, 0.3)
    for sigma in (1.0, 2.0)
    for arms in _ARMS
]
_REAL = [Case(0.02, None, *arms) for arms in _ARMS]


def figures(quick: bool) -> list[Figure]:
    """Everything about revenue as a guardrail."""
    runs = 200 if quick else 1_000
    cases = [_CASES[0], _CASES[5], _CASES[-1]] if quick else _CASES
    real = _REAL[1:2] if quick else _REAL
    invoices = _invoices()
    harmless = {case: false_rollbacks(case, runs, invoices) for case in [*cases, *real]}
    worst = max(harmless, key=harmless.__getitem__)
    worst_real = max(real, key=harmless.__getitem__)
    note = f"{LOOKS} looks at one stage with alpha {_ALPHA}; worst of {len(harmless)}: "
    harmed = {case: false_rollbacks(case, runs // 4, invoices, lift=-0.2) for case in cases}
    least, most = min(harmed, key=harmed.__getitem__), max(harmed, key=harmed.__getitem__)
    lost = "a fifth of the buyers lost; "
    compared = [replace(case, control=600, change=600) for case in cases[:3]]
    different = sum(mismatches(case, 3 if quick else 10, invoices) for case in compared)
    checked = len(compared) * (3 if quick else 10)
    return [
        _share("revenue_aa_false_rollback_max", harmless[worst], runs, f"{note}{worst}"),
        _share(
            "revenue_aa_false_rollback_invoices", harmless[worst_real], runs, f"worst: {worst_real}"
        ),
        _share("revenue_drop20_detected_min", harmed[least], runs // 4, f"{lost}{least}"),
        _share("revenue_drop20_detected_max", harmed[most], runs // 4, f"{lost}{most}"),
        Figure(
            "revenue_controller_mismatches",
            different,
            "stages",
            runs=checked,
            note="stages in which a controller that reads a log comes to another state",
        ),
    ]


def false_rollbacks(
    case: Case, runs: int, invoices: Floats, *, lift: float = 0.0, seed: int = 1
) -> int:
    """Count the rollbacks in simulated stages; `lift` is the relative change of the buyers."""
    rng = np.random.default_rng(seed)
    count = 0
    for _ in range(runs):
        visits = visits_of(rng, case, invoices, lift)
        count += [*states(case.definition, visits)][-1] == "rolled back"
    return count


@dataclass(frozen=True)
class Visits:
    """Users in the order of their visits, each array of shape ``[users]``."""

    changed: NDArray[np.bool_]  # whether the change was served
    spent: Floats

    def at(self, look: int) -> range:
        """Return the numbers of those who come before a look, from 1, and after the one before."""
        return range(*(len(self.spent) * number // LOOKS for number in (look - 1, look)))


def visits_of(
    rng: np.random.Generator,
    case: Case,
    invoices: Floats,
    lift: float = 0.0,
    changed: NDArray[np.bool_] | None = None,
) -> Visits:
    """Simulate the users of a stage, in drawn or given arms."""
    users = case.control + case.change
    if changed is None:
        changed = rng.random(users) < case.share
    bought = rng.random(users) < case.buyers * np.where(changed, 1 + lift, 1.0)
    if case.sigma is None:
        amounts = rng.choice(invoices, users)
    else:
        amounts = rng.lognormal(3.0, case.sigma, users)
    return Visits(changed, np.where(bought, amounts.round(2), 0.0))


def states(definition: RolloutDefinition, visits: Visits) -> Iterator[str]:
    """Judge a stage look by look until it is over; yield the states."""
    rollout = Rollout(definition.plan())
    for step in (start_shadow, start_canary):
        rollout = step(rollout, at=0, by="benchmark")
    for look in range(1, LOOKS + 1):
        end = visits.at(look).stop
        changed, spent = visits.changed[:end], visits.spent[:end]
        arms = [SkewedMean.from_units(spent[part]) for part in (~changed, changed)]
        units = arms[0].units, arms[1].units
        pair = (
            (arms[0], arms[1])
            if comparable("revenue", *({"revenue": arm} for arm in arms))
            else None
        )
        seen = StageObservations(units, {"revenue": pair})
        rollout = judge_rollout(rollout, seen, at=rollout.plan.stage_ms * look // LOOKS).rollout
        yield rollout.state
        if rollout.state != "canary":
            return


def mismatches(case: Case, runs: int, invoices: Floats) -> int:
    """Count the stages in which a controller with a log and a store ends in another state."""
    rng = np.random.default_rng(2)
    names = [f"u{number}" for number in range(case.control + case.change)]
    experiment = experiment_at("sale", case.share)
    changed = np.array([assign(experiment, name).arm == CHANGE for name in names])
    different = 0
    for run in range(runs):
        visits = visits_of(rng, case, invoices, -0.9 * (run % 2), changed)
        different += [*states(case.definition, visits)] != _controlled(case, visits, names)
    return different


def _controlled(case: Case, visits: Visits, names: Sequence[str]) -> list[str]:
    now = _BEGIN
    log = _Records()
    with tempfile.TemporaryDirectory() as name:
        metadata = open_metadata(Path(name) / "metadata.db", clock=lambda: now)
        store = RolloutStore(metadata, clock=lambda: now)
        store.apply(case.definition, by="benchmark", reason="measured")
        controller = RolloutController(store, lambda: [log], every_ms=1, clock=lambda: now)
        found = []
        stage_ms = case.definition.plan().stage_ms
        for look in range(1, LOOKS + 1):
            for number in visits.at(look):
                log.add(_events(names[number], visits, number, now + 10_000))
            now = _BEGIN + stage_ms * look // LOOKS
            (judged,) = controller.run()
            found.append(judged.state)
            if judged.state != "canary":
                break
        metadata.close()
    return found


def _events(name: str, visits: Visits, number: int, at: int) -> list[Event]:
    arm = CHANGE if visits.changed[number] else CONTROL
    shown: dict[str, Any] = {"user_id": name, "recommendation_id": name}
    events = [
        Event(
            event_id=f"{IMPRESSION_ID}{name}",
            type="impression",
            timestamp=at,
            properties={"items": ["i1"], "rollouts": [f"sale:{arm}"]},
            **shown,
        )
    ]
    if (price := float(visits.spent[number])) > 0:
        bought: dict[str, Any] = {"item_id": "i1", "properties": {"price": price}}
        events.append(
            Event(event_id=f"b:{name}", type="purchase", timestamp=at + 1, **bought, **shown)
        )
    return events


class _Records:
    """A log in memory."""

    begin = 0

    def __init__(self) -> None:
        self._payloads: list[bytes] = []

    @property
    def end(self) -> int:
        return len(self._payloads)

    def add(self, events: Sequence[Event]) -> None:
        self._payloads += map(encode_entry, events)

    def append(self, payloads: Sequence[bytes]) -> int:
        self._payloads += payloads
        return self.end

    def read(self, offset: int, limit: int) -> list[tuple[int, bytes]]:
        return [*enumerate(self._payloads[offset : offset + limit], offset)]

    def offset_at(self, timestamp: int) -> int:
        return 0

    def close(self) -> None:
        pass


def _invoices() -> Floats:
    """Total amounts of real invoices."""
    import pandas as pd

    lines = pd.read_parquet(shared_file("online_retail", "online_retail.parquet"))
    lines = lines[(lines["quantity"] > 0) & (lines["unit_price"] > 0)]
    totals = (lines["quantity"] * lines["unit_price"]).groupby(lines["invoice_no"]).sum()
    return np.asarray(totals, np.float64)


def _share(name: str, count: int, runs: int, note: str) -> Figure:
    interval = stats.binomtest(count, runs).proportion_ci(0.95)
    return Figure(name, count / runs, "1", float(interval.low), float(interval.high), runs, note)
