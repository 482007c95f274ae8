"""Notes for people who compile a job: what it will do differently from the engine, and for whom."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from typing import Final

from tactful_streaming.contract.log_entries import DEVICE_PREFIX
from tactful_streaming.definitions.model import (
    Definitions,
    Feature,
    Window,
    emitted_types,
    format_duration,
)
from tactful_streaming.flink.entities import entity_kinds
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.sources import describing
from tactful_streaming.flink.timing import (
    ALL_STATE,
    EVENT_IDS,
    RECENT,
    WAITING,
    lifetimes,
    span_ms,
    ttl_settings,
    watermark_delay_ms,
    windowed,
)

_SHOWN: Final = 4  # names in one line


@dataclass(frozen=True)
class Note:
    """A difference of a job from the engine, or a limit of it."""

    definitions: tuple[str, ...]  # names of those concerned
    text: str

    @property
    def line(self) -> str:
        """The note as one line, with the first names."""
        more = len(self.definitions) - _SHOWN
        names = ", ".join(self.definitions[:_SHOWN]) + (f" and {more} more" if more > 0 else "")
        return f"{names}: {self.text}"


def compile_notes(
    definitions: Definitions, options: FlinkOptions, *, runner: bool = True
) -> tuple[Note, ...]:
    """Return the notes that apply to a job of `definitions`.

    Without our `runner`, as by a SQL Gateway, all state of a job has one lifetime.
    """
    if options.output == "entities":
        return tuple(_of_entities(definitions))
    found = [
        *_of_features(definitions, options),
        *_of_matches(definitions, options),
        *(_of_state if runner else _of_all_state)(definitions, options),
    ]
    return tuple(Note(tuple(names), text) for names, text in found if names)


_Found = tuple[Collection[str], str]
"""Names of definitions and the text about them; without a name there is no note."""


def _of_entities(definitions: Definitions) -> Iterator[Note]:
    kinds = entity_kinds(definitions)
    others = tuple(it.name for it in definitions.features if it.entity not in kinds)
    others += tuple(_of_patterns(definitions))
    if others:
        yield Note(others, "not part of the job: the server computes it")


def _of_features(definitions: Definitions, options: FlinkOptions) -> Iterator[_Found]:
    def named(condition: Callable[[Feature], object]) -> list[str]:
        return [feature.name for feature in definitions.features if condition(feature)]

    late = watermark_delay_ms(definitions, options)
    yield (
        [feature.name for feature in windowed(definitions)],
        f"a window is written once, {format_duration(late)} of event time after its end (--delay "
        "and --lateness), and later events are dropped; the engine writes it after --delay, and "
        "again for every event within --lateness",
    )
    if options.decay == "panes":
        yield (
            named(lambda f: isinstance(f.window, Window) and f.window.decay != 1),
            "with --decay panes an event that is late for its own pane is dropped, though the "
            "window has not ended",
        )
    yield (
        named(lambda f: f.bounds_groups),
        "max_groups has no effect: every group is counted",
    )
    yield (
        named(lambda f: f.sketch in ("hll", "kll")),
        "the sketch has the same kind and error as the engine's, but not the same bits",
    )
    yield (
        named(lambda f: f.aggregate == "last_n" and span_ms(f)),
        "window has no effect on the rows: they have the n newest values, whatever their age",
    )
    yield (
        [it.name for it in definitions.all if it.entity == "user"],
        f"an event belongs to the user whom it names, or else to {DEVICE_PREFIX}<id>; the engine "
        "also links devices to users",
    )


def _of_matches(definitions: Definitions, options: FlinkOptions) -> Iterator[_Found]:
    yield (
        emitted_types(definitions),
        "emit has no effect: the match is published, and no action is written",
    )
    yield (
        [
            it.name
            for it in definitions.sequences
            if it.steps[-1].negated and it.steps[-1].for_ms is None
        ],
        "published later than by the engine: once within has passed since the last event of the "
        "match, not since its first",
    )
    if windowed(definitions) and options.allowed_lateness_ms:
        later = format_duration(options.allowed_lateness_ms)
        yield (
            _of_patterns(definitions),
            f"found {later} later than by the engine, and also with events that are late there, "
            "since the windows of this job wait for --lateness: a job without windows does not",
        )


def _of_patterns(definitions: Definitions) -> list[str]:
    sequences = [sequence.name for sequence in definitions.sequences]
    return sequences + [join.name for join in definitions.joins]


def _of_state(definitions: Definitions, options: FlinkOptions) -> Iterator[_Found]:
    days = lifetimes(definitions, options)
    every = [it.name for it in definitions.all]
    if EVENT_IDS in days:
        yield (
            every,
            f"an event id is stored for {days[EVENT_IDS]} days after it last came, by the "
            "cluster's clock (--dedupe-days); after that it counts again",
        )
    else:
        yield every, "an event counts as often as it is in the log (--dedupe-days 0)"
    if WAITING in days:
        yield (
            [it.name for it in definitions.sequences if it.steps[-1].negated],
            f"a match that waits for silence is stored for {days[WAITING]} days at most, by the "
            "cluster's clock: it is lost if the job stands still for longer",
        )
    lasting = {"last_time"} if RECENT in days else {"last_time", "last_n"}
    yield (
        [it.name for it in definitions.features if it.aggregate in lasting],
        "the newest values of every entity and group are stored for ever",
    )
    if RECENT in days:
        yield (
            [it.name for it in definitions.features if it.aggregate == "last_n"],
            f"the newest values of an entity are stored for {days[RECENT]} days after its last "
            "event, by the cluster's clock",
        )
    yield describing(definitions, options), "the last 8 versions of every item are stored for ever"


def _of_all_state(definitions: Definitions, options: FlinkOptions) -> Iterator[_Found]:
    common = dict(ttl_settings(definitions, options)).get(ALL_STATE)
    yield (
        [it.name for it in definitions.all],
        "without our runner all state has one lifetime, event ids too: "
        + ("for ever" if common is None else f"{common} after its last change"),
    )
