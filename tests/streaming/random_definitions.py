"""Random definitions: aggregates with all their windows, sequences, joins."""

import dataclasses
import random
from typing import Any

from tactful_streaming.definitions.model import (
    CumulativeWindow,
    Definitions,
    Feature,
    ForwardDecay,
    Join,
    Sequence,
    SessionWindow,
    Step,
    Window,
    coarse_slide,
)

SECOND, MINUTE, HOUR = 1000, 60_000, 3_600_000
TYPES = ("view", "click", "add_to_cart", "purchase", "leave", "x.gift")

_NUMBERS = ("properties.price", "properties.quantity", "item.price", "item.weight")
_TEXTS = ("item_id", "category", "session_id", "properties.colour", "item.category", "user_id")
_GROUPED = ("count", "sum", "mean", "min", "max", "last_time")
_WINDOWED = ("count", "sum", "mean", "min", "max", "last", "distinct", "top_k", "quantile")
_DECAYING = ("count", "sum", "mean")
_AGGREGATES = (*_WINDOWED, "count", "sum", "last_n", "last_time")


def random_features(rng: random.Random, count: int) -> tuple[Feature, ...]:
    """Features named f0, f1…; about a third share their panes with another."""
    features: list[Feature] = []
    for number in range(count):
        feature = _feature(rng, f"f{number}")
        if features and isinstance(feature.window, Window) and rng.random() < 0.3:
            # The same events in a window of another length: one store serves both.
            twin = rng.choice(features)
            if isinstance(twin.window, Window) and twin.aggregate in _DECAYING:
                window = _slides(rng, twin.window.slide_ms, twin.aggregate)
                feature = dataclasses.replace(twin, name=feature.name, window=window)
        features.append(feature)
    return tuple(features)


def random_sequences(rng: random.Random, count: int) -> tuple[Sequence, ...]:
    """So many sequences, named s0, s1…"""
    return tuple(_sequence(rng, f"s{number}") for number in range(count))


def random_joins(rng: random.Random, count: int) -> tuple[Join, ...]:
    """So many joins, named j0, j1…"""
    return tuple(
        Join(f"j{number}", "user", _types(rng), rng.choice([SECOND, 10 * SECOND, MINUTE]))
        for number in range(count)
    )


def random_definitions(
    seed: int, features: int = 12, sequences: int = 3, joins: int = 1
) -> Definitions:
    rng = random.Random(seed)
    return Definitions(
        random_features(rng, features), random_sequences(rng, sequences), random_joins(rng, joins)
    )


def _feature(rng: random.Random, name: str) -> Feature:
    aggregate = rng.choice(_AGGREGATES)
    settings: dict[str, Any] = {}
    if aggregate in ("sum", "mean", "min", "max", "last", "quantile"):
        settings["of"] = rng.choice(_NUMBERS)
    elif aggregate in ("last_n", "distinct", "top_k"):
        settings["of"] = rng.choice(_TEXTS)
    if aggregate in ("last_n", "top_k"):
        settings["n"] = rng.randrange(1, 6)
    if aggregate == "quantile":
        settings["q"] = rng.choice([0.0, 0.1, 0.5, 0.9, 1.0])
    if aggregate == "distinct":
        settings["sketch"] = rng.choice(["hll", "exact"])
    if aggregate in _GROUPED and rng.random() < 0.5:
        settings["group_by"] = rng.choice(_TEXTS)
    if aggregate in _WINDOWED:
        settings["window"] = _window(rng, aggregate)
    elif aggregate == "last_n" and rng.random() < 0.5:
        size = rng.choice([MINUTE, 20 * MINUTE])
        settings["window"] = Window(size, size)
    entity = rng.choice(["user", "user", "user", "item", "category", "session"])
    return Feature(name=name, entity=entity, events=_types(rng), aggregate=aggregate, **settings)


def _window(rng: random.Random, aggregate: str) -> Any:
    kind = rng.choice(["hop", "hop", "hop", "tumble", "cumulate", "session", "tail", "forward"])
    if kind == "cumulate":
        step = rng.choice([20 * SECOND, MINUTE, 5 * MINUTE])
        return CumulativeWindow(step * rng.randrange(1, 7), step)
    if kind == "session":
        return SessionWindow(rng.choice([5 * SECOND, 30 * SECOND, 4 * MINUTE]))
    if kind == "tail":
        size = rng.choice([5 * MINUTE, 20 * MINUTE, 2 * HOUR])
        return Window(size, coarse_slide(size), tail="approximate")
    if kind == "forward" and aggregate in ("count", "sum"):
        return ForwardDecay(rng.choice([MINUTE, HOUR]))
    slide = rng.choice([7 * SECOND, 10 * SECOND, MINUTE, 5 * MINUTE])
    if kind == "tumble":
        return Window(slide, slide)
    return _slides(rng, slide, aggregate)


def _slides(rng: random.Random, slide: int, aggregate: str) -> Window:
    decay = rng.choice([1.0, 1.0, 0.8, 0.5, 0.97]) if aggregate in _DECAYING else 1.0
    return Window(slide * rng.choice([2, 3, 5, 12, 60]), slide, decay)


def _types(rng: random.Random) -> tuple[str, ...]:
    return tuple(sorted(rng.sample(TYPES, rng.choice([1, 1, 2, 3]))))


def _sequence(rng: random.Random, name: str) -> Sequence:
    steps: list[Step] = []
    count = rng.randrange(1, 5)
    for number in range(count):
        events = () if rng.random() < 0.05 else tuple(sorted(rng.sample(TYPES, rng.choice([1, 2]))))
        if number and rng.random() < 0.2:
            steps.append(Step(tuple(rng.sample(TYPES, 1)), negated=True))
        settings: dict[str, Any] = {}
        if rng.random() < 0.2:
            least = rng.randrange(1, 4)
            settings = {"least": least, "most": rng.choice([least, least + 1, least + 2])}
            if number < count - 1 and rng.random() < 0.3:
                settings["most"] = None
        steps.append(Step(events, optional=rng.random() < 0.15, **settings))
    if all(step.negated or step.optional for step in steps) or steps[-1].optional:
        steps[-1] = Step(steps[-1].events)
    if rng.random() < 0.25:
        silence = rng.choice([None, 20 * SECOND, 2 * MINUTE])
        steps.append(Step(tuple(rng.sample(TYPES, 1)), negated=True, for_ms=silence))
    return Sequence(
        name=name,
        entity=rng.choice(["user", "user", "session", "item"]),
        steps=tuple(steps),
        within_ms=rng.choice([20 * SECOND, 2 * MINUTE, 10 * MINUTE]),
        contiguity=rng.choice(["strict", "relaxed"]),
        skip=rng.choice(["past_last", "to_next"]),
        same=rng.choice([None, None, "item_id", "properties.colour"]),
    )
