"""Foresight on a replay: what devices foresee after each visit, against two simple baselines.

Two data sets. On `online_retail` a visit is an invoice, and asked is whether a family of items
comes within 14 days. On `clickstream` a visit is a page, and asked is whether a page comes within
three steps; its data look generated. The model is trained across devices on earlier visits
(`online_retail`) or on other people (`clickstream`). All three probabilities are calibrated by
isotonic regression on the same people, who are not those asked, and the same triggers fire.

Baselines: a Markov chain on the latest category, for as many steps ahead and with the same pace of
visits; and the frequencies of the hour of the day. A plot of each data set is in
`reports/foresight-*.png`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.federated.families import EMBEDDING, HIDDEN, Families
from benchmarks.federated.foresight_data import THRESHOLD, Replayed, clickstream, online_retail
from benchmarks.figures import Figure
from tactful_federated.device.calibration import Calibration, fit_isotonic
from tactful_federated.device.event_store import StoredVisit
from tactful_federated.device.firing import Moment, TriggerState, decide
from tactful_federated.device.pace import DAY_S, MOST_STEPS, steps_within
from tactful_federated.device.triggers import Likely, Trigger, TriggerLimits
from tactful_federated.model.lstm_numpy import IntentPredictor
from tactful_federated.model.tokens import FIRST_CATEGORY
from tactful_federated.model.vectors import Vector
from tactful_federated.simulation.foresights import (
    Answer,
    History,
    Prophet,
    model_prophet,
    replay,
    with_pace,
)

WHO = ("model", "markov", "hours")
_DATA = ("online_retail", "clickstream")
_MEASURES = {
    "precision": "1",
    "recall": "1",
    "lead_steps": "steps",
    "lead_h": "h",
    "brier": "1",
    "ece": "1",
}
FIGURES = [
    *(
        (f"foresight_{data}_{who}_{name}", unit)
        for data in _DATA
        for who in WHO
        for name, unit in _MEASURES.items()
    ),
    *((f"foresight_{data}_brier_gain_on_{who}", "1") for data in _DATA for who in WHO[1:]),
    *((f"foresight_{data}_model_ece_raw", "1") for data in _DATA),
]
"""Names and units."""

_BINS = 10
_DRAWS = 1_000
_NO_LIMITS = TriggerLimits(most_per_day=1_000_000, gap_minutes=0, quiet=None)

Floats = NDArray[np.float64]
Train = Callable[[Families], Vector]


@dataclass(frozen=True)
class _Row:
    person: int
    index: int  # of the visit
    trigger: int
    raw: float
    answer: Answer | None


def measure(path: Path, quick: bool, train: Train, reports: Path) -> list[Figure]:
    """Measure both data sets, and draw a calibration plot of each.

    Args:
        path: File of `online_retail`.
        quick: Fewer people.
        train: Trains weights on what devices hold.
        reports: Folder of the plots.
    """
    figures = []
    for data in (online_retail(path, quick), clickstream(quick)):
        figures += _compare(data, train, reports / f"foresight-{data.name}.png")
    return figures


def _compare(data: Replayed, train: Train, plot: Path) -> list[Figure]:
    triggers = with_pace(data.triggers, data.training)
    weights = train(
        Families(
            {
                number: data.vocabulary.sequence(visit.categories for visit in each.visits)
                for number, each in enumerate(data.training)
                if each.visits
            },
            {},
            data.vocabulary.size,
        )
    )
    model = IntentPredictor(weights, data.vocabulary.size, embedding=EMBEDDING, hidden=HIDDEN)
    prophets = {
        "model": model_prophet(model, data.vocabulary, triggers, continuations=100),
        "markov": _markov(data, triggers),
        "hours": _hours(data, triggers),
    }
    rows, calibrations = {}, {}
    for who, prophet in prophets.items():
        calibrations[who] = _fitted(_ask(data, data.calibrating, prophet, triggers))
        rows[who] = _ask(data, data.asked, prophet, triggers)
    figures, briers = [], {}
    draws = np.random.default_rng(1).multinomial(
        len(data.asked), [1 / len(data.asked)] * len(data.asked), _DRAWS
    )
    draws = np.concatenate([np.ones((1, len(data.asked)), dtype=draws.dtype), draws])
    lines = {}
    for who in WHO:
        found, briers[who] = _figures(data, who, rows[who], calibrations[who], triggers, draws)
        figures += found
        lines[who] = _reliability(rows[who], calibrations[who])
    for who in WHO[1:]:
        note = f"Brier score of {who} less that of the model; 95 % interval over people, paired"
        gain = briers[who] - briers["model"]
        figures.append(_figure(f"foresight_{data.name}_brier_gain_on_{who}", gain, "1", note))
    raw = _binned(rows["model"], None, len(data.asked))
    figures.append(
        _figure(
            f"foresight_{data.name}_model_ece_raw",
            _ece(raw, draws),
            "1",
            "without calibration; 95 % interval over people",
        )
    )
    _draw(lines, plot, f"{data.name}: foreseen and came, calibrated")
    return figures


def _ask(
    data: Replayed, histories: Sequence[History], prophet: Prophet, triggers: Sequence[Trigger]
) -> list[_Row]:
    return [
        _Row(person, index, number, probability, answer)
        for person, history in enumerate(histories)
        for index, rows in replay(history, prophet, triggers, data.vocabulary)
        for number, (probability, answer) in enumerate(rows)
    ]


def _fitted(rows: Sequence[_Row]) -> Calibration:
    known = [(row.raw, row.answer.came) for row in rows if row.answer is not None]
    raw, came = zip(*known, strict=True)
    return fit_isotonic(raw, came, "public")


def _markov(data: Replayed, triggers: Sequence[Trigger]) -> Prophet:
    """A first-order chain over categories, smoothed by their frequencies as by five visits."""
    size = data.vocabulary.size - FIRST_CATEGORY
    counts = np.zeros((size, size))
    for history in data.training:
        tokens = data.vocabulary.sequence(visit.categories for visit in history.visits)
        tokens = tokens[tokens >= FIRST_CATEGORY] - FIRST_CATEGORY
        np.add.at(counts, (tokens[:-1], tokens[1:]), 1)
    counts += 5 * counts.sum(axis=0) / counts.sum()
    chain = counts / counts.sum(axis=1, keepdims=True)
    steps = max(MOST_STEPS if each.days is not None else each.steps for each in triggers)
    within = np.empty((len(triggers), steps, size))  # by the latest category
    for number, trigger in enumerate(triggers):
        wanted = [data.vocabulary.token(name) - FIRST_CATEGORY for name in trigger.categories]
        missed = np.ones(size)
        for step in range(steps):
            missed = missed.copy()
            missed[wanted] = 0
            missed = chain @ missed
            within[number, step] = 1 - missed

    def foretell(visits: Sequence[StoredVisit], now: float) -> list[float]:
        latest = int(data.vocabulary.sequence([visits[-1].categories])[-1]) - FIRST_CATEGORY
        found = []
        for number, trigger in enumerate(triggers):
            if trigger.days is None:
                found.append(float(within[number, trigger.steps - 1, latest]))
                continue
            shares = steps_within(
                [visit.at for visit in visits],
                [len({*visit.categories}) for visit in visits],
                now,
                trigger.days * DAY_S,
                trigger.pace,
            )
            found.append(float(shares[1:] @ within[number, :MOST_STEPS, latest]))
        return [min(1.0, max(0.0, value)) for value in found]

    return foretell


def _hours(data: Replayed, triggers: Sequence[Trigger]) -> Prophet:
    """Shares of earlier moments of the same hour after which it came, smoothed as by 20 moments."""
    came, asked = np.zeros((2, len(triggers), 24))

    def nothing(visits: Sequence[StoredVisit], now: float) -> list[float]:
        return [0.0] * len(triggers)

    for row in _ask(data, data.training, nothing, triggers):
        if row.answer is not None:
            hour = int(data.training[row.person].visits[row.index].at % DAY_S // 3_600)
            came[row.trigger, hour] += row.answer.came
            asked[row.trigger, hour] += 1
    whole = came.sum(axis=1) / asked.sum(axis=1).clip(1)
    shares = (came + 20 * whole[:, None]) / (asked + 20)

    def foretell(visits: Sequence[StoredVisit], now: float) -> list[float]:
        chances: list[float] = shares[:, int(now % DAY_S // 3_600)].tolist()
        return chances

    return foretell


@dataclass(frozen=True)
class _Fired:
    """Foresights of each person, those that came, and events of the triggers."""

    fired: Floats
    came: Floats
    events: Floats
    leads: list[tuple[int, int, float]]  # person, steps, seconds


def _fire(
    data: Replayed, rows: Sequence[_Row], calibration: Calibration, triggers: Sequence[Trigger]
) -> _Fired:
    """Let the triggers of every person fire, as on a device without limits."""
    people = len(data.asked)
    fired, came, events = np.zeros((3, people))
    leads, states = list[tuple[int, int, float]](), [TriggerState() for _ in range(people)]
    for row in rows:
        visits, trigger = data.asked[row.person].visits, triggers[row.trigger]
        likely = Likely(calibration(row.raw), trigger.name)
        at = visits[row.index].at
        # Only visits since the opening matter: no more than the latest hundred.
        moment = Moment(at, 0, 12.0, visits[max(0, row.index - 99) : row.index + 1], row.index + 1)
        states[row.person], fires = decide(states[row.person], trigger, likely, moment, _NO_LIMITS)
        if fires and row.answer is not None:
            fired[row.person] += 1
            if row.answer.came:
                came[row.person] += 1
                leads.append((row.person, row.answer.steps, row.answer.seconds))
    for person, history in enumerate(data.asked):
        later = history.visits[history.start :]
        events[person] = sum(
            not {*trigger.categories}.isdisjoint(visit.categories)
            for visit in later
            for trigger in triggers
        )
    return _Fired(fired, came, events, leads)


def _figures(
    data: Replayed,
    who: str,
    rows: Sequence[_Row],
    calibration: Calibration,
    triggers: Sequence[Trigger],
    draws: NDArray[np.int64],
) -> tuple[list[Figure], Floats]:
    """Return the figures of one, and its Brier score on all people and on each draw of people."""
    fires = _fire(data, rows, calibration, triggers)
    people = len(data.asked)
    squares, counts = np.zeros(people), np.zeros(people)
    for row in rows:
        if row.answer is not None:
            squares[row.person] += (calibration(row.raw) - row.answer.came) ** 2
            counts[row.person] += 1
    brier = _share(draws @ squares, draws @ counts)
    about = (
        f"{int(counts.sum()):,} questions of {people} people, {fires.fired.sum():,.0f} foresights"
        f" at {THRESHOLD:g}; 95 % interval over people"
    )
    values = {
        "precision": _share(draws @ fires.came, draws @ fires.fired),
        "recall": _share(draws @ fires.came, draws @ fires.events),
        "lead_steps": _median([(who, steps) for who, steps, _ in fires.leads], draws),
        "lead_h": _median([(who, seconds / 3_600) for who, _, seconds in fires.leads], draws),
        "brier": brier,
        "ece": _ece(_binned(rows, calibration, people), draws),
    }
    figures = [
        _figure(f"foresight_{data.name}_{who}_{name}", value, _MEASURES[name], about)
        for name, value in values.items()
    ]
    return figures, brier


def _share(part: Floats, whole: Floats) -> Floats:
    shares: Floats = np.divide(part, whole, out=np.full(part.shape, np.nan), where=whole > 0)
    return shares


def _median(leads: Sequence[tuple[int, float]], draws: NDArray[np.int64]) -> Floats:
    """Weighted median over the leads of the people of each draw."""
    if not leads:
        return np.full(len(draws), np.nan)
    person, value = (np.array(column) for column in zip(*leads, strict=True))
    order = np.argsort(value, kind="stable")
    weights = draws[:, person[order]].cumsum(axis=1)
    half = weights[:, -1:] / 2
    middle: Floats = value[order][(weights < half).sum(axis=1).clip(0, len(value) - 1)]
    return middle.astype(np.float64)


def _binned(rows: Sequence[_Row], calibration: Calibration | None, people: int) -> Floats:
    """Sums by measure (probability, came, one), person and bin of probability."""
    sums = np.zeros((3, people, _BINS))
    for row in rows:
        if row.answer is not None:
            chance = row.raw if calibration is None else calibration(row.raw)
            place = min(int(chance * _BINS), _BINS - 1)
            sums[:, row.person, place] += (chance, row.answer.came, 1)
    return sums


def _ece(sums: Floats, draws: NDArray[np.int64]) -> Floats:
    likely, came, counts = (draws @ each for each in sums)
    return _share(np.abs(likely - came).sum(axis=1), counts.sum(axis=1))


def _reliability(rows: Sequence[_Row], calibration: Calibration) -> Floats:
    """Mean probability, share that came and number of each bin with questions."""
    people = 1 + max(row.person for row in rows)
    likely, came, counts = _binned(rows, calibration, people).sum(axis=1)
    some = counts > 0
    return np.stack([likely[some] / counts[some], came[some] / counts[some], counts[some]])


def _figure(name: str, values: Floats, unit: str, note: str) -> Figure:
    """The first value is that of all people, the others are of draws."""
    value, drawn = float(values[0]), values[1:][~np.isnan(values[1:])]
    if np.isnan(value) or not drawn.size:
        return Figure(name, None, unit, note=f"there was none; {note}")
    low, high = np.quantile(drawn, (0.025, 0.975))
    return Figure(name, value, unit, min(float(low), value), max(float(high), value), 1, note)


def _draw(lines: dict[str, Floats], path: Path, title: str) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure as Picture

    picture = Picture(figsize=(5.5, 5.5), layout="constrained")
    FigureCanvasAgg(picture)
    axes = picture.subplots()
    axes.plot([0, 1], [0, 1], color="#7F7F7F", linewidth=1, linestyle=":")
    for (who, (likely, came, counts)), colour in zip(
        lines.items(), ("#0072B2", "#D55E00", "#009E73"), strict=True
    ):
        axes.plot(likely, came, color=colour, label=f"{who}, {int(counts.sum()):,} questions")
        axes.scatter(likely, came, s=8 + 120 * counts / counts.sum(), color=colour)
    axes.set(xlabel="calibrated probability", ylabel="share that came", title=title)
    axes.set(xlim=(0, 1), ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.savefig(path, dpi=130)
