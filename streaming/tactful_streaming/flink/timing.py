"""Times of a job that follow from its definitions: lateness, and lifetimes of state.

Flink removes the state of windows, patterns and interval joins by itself, once the watermark has
passed. It keeps the state of OVER aggregations, unless this has a lifetime since its last change,
by the clock of the cluster. In Flink SQL a job has one lifetime for all of them,
``table.exec.state.ttl``. Our runner gives each aggregation its own, by the function in it:
``tactful.state.ttl.<function>``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from tactful_streaming.definitions.model import Definitions, Feature, Window
from tactful_streaming.flink.options import FlinkOptions
from tactful_streaming.flink.sequences import longest_wait_ms
from tactful_streaming.flink.sources import describing

ALL_STATE: Final = "table.exec.state.ttl"
"""Flink's setting for the lifetime of all state."""

EVENT_IDS: Final = "count"
"""Function that recognises event ids seen before."""

WAITING: Final = "silences"
"""Function with the matches that wait for silence."""

RECENT: Final = "last_values"
"""Function with the newest values of ``last_n``."""

SPARE_DAYS: Final = 7
"""Days that a job may stand still without loss of state that event time still needs."""

_DAY_MS: Final = 86_400_000
_UNWINDOWED: Final = ("last_n", "last_time")


def windowed(definitions: Definitions) -> list[Feature]:
    """Return the features whose values are those of windows that end."""
    return [feature for feature in definitions.features if feature.aggregate not in _UNWINDOWED]


def watermark_delay_ms(definitions: Definitions, options: FlinkOptions) -> int:
    """Return the distance of the job's watermark from the newest event.

    The engine emits a window again for events within the allowed lateness. Flink SQL emits it once
    and the log has one watermark, so that of a job with windows waits for the lateness, too.
    """
    lateness = options.allowed_lateness_ms if windowed(definitions) else 0
    return options.watermark_delay_ms + lateness


def lifetimes(definitions: Definitions, options: FlinkOptions) -> dict[str, int]:
    """Return the days for which functions keep state; others keep it for ever.

    State that event time ends stays some days longer, see :data:`SPARE_DAYS`.
    """
    found = {}
    if options.dedupe_days:
        found[EVENT_IDS] = options.dedupe_days
    late = watermark_delay_ms(definitions, options)
    if waits := [wait for s in definitions.sequences if (wait := longest_wait_ms(s))]:
        found[WAITING] = _days(max(waits) + late)
    spans = [span_ms(f) for f in definitions.features if f.aggregate == "last_n"]
    if spans and all(spans):
        found[RECENT] = _days(max(spans) + late)
    return found


def span_ms(feature: Feature) -> int:
    """Return the greatest age of a value of ``last_n``; 0 without a limit."""
    return feature.window.size_ms if isinstance(feature.window, Window) else 0


def ttl_settings(definitions: Definitions, options: FlinkOptions) -> Iterator[tuple[str, str]]:
    """Yield the settings for lifetimes.

    Flink's own setting is for jobs started without our runner, and then the longest lifetime holds
    for all; it is left out if some state has none.
    """
    days = lifetimes(definitions, options)
    lasting = any(f.aggregate == "last_time" for f in definitions.features)
    lasting |= RECENT not in days and any(f.aggregate == "last_n" for f in definitions.features)
    if days and not lasting and not describing(definitions, options):
        yield ALL_STATE, f"{max(days.values())} d"
    for function, kept in days.items():
        yield f"tactful.state.ttl.{function}", f"{kept} d"


def _days(milliseconds: int) -> int:
    return 1 + milliseconds // _DAY_MS + SPARE_DAYS
