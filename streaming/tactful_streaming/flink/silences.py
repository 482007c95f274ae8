"""A last ``not`` in Flink SQL: selects the matches that no forbidden event followed.

MATCH_RECOGNIZE cannot match an absence, and an outer interval join emits rows without a partner
after the watermark, when later operators drop them as late. Here a match enters a stream twice,
when it is found and when its wait is over; between the two, the stream has all events that could
end the wait. One function reads it in the order of event time. The second row of a match comes from
a session window of its own: no other row joins it, so it ends exactly one gap later, and the
watermark waits for it.
"""

from __future__ import annotations

from tactful_streaming.definitions.model import Sequence
from tactful_streaming.flink.sql_text import interval, name

_NOTHING = "CAST(NULL AS BIGINT)"


def longest_wait_ms(sequence: Sequence) -> int:
    """Return the longest wait after the last event, ms; 0 without a last ``not``."""
    last = sequence.steps[-1]
    if not last.negated:
        return 0
    return sequence.within_ms if last.for_ms is None else last.for_ms


def silence_views(
    sequence: Sequence, begun: str, rows: str, final: str, forbidden: str
) -> list[str]:
    """Compile views from the matches that wait to the final ones.

    Args:
        sequence: a sequence that ends with a ``not``.
        begun: view of its matches without that step: ``start``, ``end``, ``start_offset``,
            ``end_offset``, ``first_id``, ``events`` and the time attribute ``found_at``.
        rows: view of its events.
        final: name of the view of the final matches.
        forbidden: the condition that an event, ``n``, ends the wait.

    Raises:
        CannotCompile: if it waits over 999 days.
    """
    noise, waiting = name(f"noise_{sequence.name}"), name(f"waiting_{sequence.name}")
    settled = name(f"settled_{sequence.name}")
    for_ms, wait = sequence.steps[-1].for_ms, longest_wait_ms(sequence)
    due = f"`start` + {sequence.within_ms}" if for_ms is None else f"`end` + {for_ms}"
    past_last = "TRUE" if sequence.skip == "past_last" else "FALSE"
    no_match = f"{_NOTHING}, {_NOTHING}, CAST(NULL AS ARRAY<STRING>), {_NOTHING}"
    return [
        # A pattern of one event, since patterns drop late events.
        f"CREATE TEMPORARY VIEW {noise} AS\n"
        f"SELECT * FROM {rows} MATCH_RECOGNIZE (\n"
        "  PARTITION BY entity_key, same_key ORDER BY et\n"
        "  MEASURES n.`timestamp` AS noise_time, n.`offset` AS noise_offset,\n"
        "    MATCH_ROWTIME() AS heard_at\n"
        "  ONE ROW PER MATCH AFTER MATCH SKIP PAST LAST ROW\n"
        f"  PATTERN (n) DEFINE n AS {forbidden})",
        f"CREATE TEMPORARY VIEW {waiting} AS\n"
        "SELECT entity_key, same_key, found_at AS happened_at, `end` AS `now`,\n"
        "  end_offset AS `offset`, `start`, start_offset, `events`,\n"
        f"  {due} AS due FROM {begun}\n"
        "UNION ALL\n"
        f"SELECT entity_key, same_key, heard_at, noise_time, noise_offset, {no_match}\n"
        f"FROM {noise}\n"
        "UNION ALL\n"
        f"SELECT MAX(entity_key), MAX(same_key), window_time, MAX(`end`) + {wait}, {_NOTHING},\n"
        f"  {no_match}\n"
        # A session's own time is the millisecond before its end.
        f"FROM TABLE(SESSION(TABLE {begun} PARTITION BY (first_id), DESCRIPTOR(found_at),\n"
        f"  {interval(wait + 1)}))\n"
        "GROUP BY first_id, window_start, window_end, window_time",
        f"CREATE TEMPORARY VIEW {settled} AS\n"
        "SELECT entity_key, same_key,\n"
        "  silences(`now`, `offset`, `start`, start_offset, `events`, due, "
        f"{past_last}) OVER (\n"
        "    PARTITION BY entity_key, same_key ORDER BY happened_at\n"
        f"    ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS stayed FROM {waiting}",
        f"CREATE TEMPORARY VIEW {final} AS\n"
        "SELECT entity_key, same_key, `start`, `end`, `events`\n"
        f"FROM {settled} CROSS JOIN UNNEST(stayed) AS m(`start`, `end`, `events`)",
    ]
