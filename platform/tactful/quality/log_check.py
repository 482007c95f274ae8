"""Quality of the latest events of a shop, from its log, and of its catalogue."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from tactful.quality.profile import Profile
from tactful.schemas.data.quality import Quality
from tactful.subjects.trace_search import decoded
from tactful_streaming.contract.log_entries import Event, Item, Restricted
from tactful_streaming.log.event_log import EventLog

_BATCH = 2_000


def check_latest(partitions: Sequence[EventLog], items: Iterable[Item], latest: int) -> Quality:
    """Profile the `latest` records of a log, and all items.

    The older half is compared with the newer one; items by the time of their description.

    Raises:
        LogError: if the log cannot be read.
    """
    profile = Profile()
    of_each = max(latest // max(len(partitions), 1), 1)
    for log in partitions:
        start = max(log.begin, log.end - of_each)
        half, position = (start + log.end) // 2, start
        while position < log.end and (records := log.read(position, _BATCH)):
            for offset, payload in records:
                entry = decoded(payload)
                if isinstance(entry, Event | Restricted):
                    profile.add(entry, late=offset >= half)
            position = records[-1][0] + 1
    described = sorted(items, key=lambda item: item.timestamp)
    for number, item in enumerate(described):
        profile.add(item, late=number * 2 >= len(described))
    return profile.quality()
