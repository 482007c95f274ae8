"""Quality of a file, in any format that an import reads, without a server."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from functools import partial
from typing import Any

import msgspec

from tactful.imports.batches import Count, Source, batches_of
from tactful.imports.formats.rows import Place, readable
from tactful.imports.run import Job
from tactful.quality.profile import Profile
from tactful.schemas.data.quality import Quality
from tactful_streaming.contract import decode_requests as wire
from tactful_streaming.errors import PayloadError

_BATCH = 1_000
_LIMITS = wire.Limits(max_bytes=1 << 30, max_batch=_BATCH)


def check(job: Job, *, now: int, advanced: Callable[[int], object] = lambda units: None) -> Quality:
    """Profile a file; its first half, by size, is compared with the second.

    Args:
        job: the file, and how it is understood.
        now: time, epoch milliseconds, for times in the future.
        advanced: called with units of progress.

    Raises:
        DatasetError: if the file cannot be read.
    """
    profile, counts, done = Profile(), Count(), 0
    plan = msgspec.structs.replace(job.guess.plan, by_time=False)
    total = job.reader.total or 0
    source = Source(job.reader, plan, job.folder)
    with (
        readable(job.reader.path),
        closing(batches_of(source, Place(), _BATCH, counts, advanced)) as batches,
    ):
        for batch in batches:
            rows = max(len(batch.lines), 1)
            # Index of the first element of the second half, maybe of another batch.
            half = (total / 2 - done) * rows / max(batch.advanced, 1)
            done += batch.advanced
            for rejection in batch.rejected:
                profile.refuse(rejection.code)
            if batch.lines:
                _judge(profile, plan.kind, batch.lines, now, half)
            advanced(batch.advanced)
    return profile.quality()


def _judge(profile: Profile, kind: str, lines: list[bytes], now: int, half: float) -> None:
    """Decode elements as the server does, and add them; from index `half` on, they are late."""
    decoders: dict[str, Callable[..., Any]] = {
        "events": partial(wire.decode_events, sender="file"),
        "items": wire.decode_items,
        "users": wire.decode_users,
    }
    body = b"\n".join(line.strip() for line in lines)
    try:
        decoded, rejected = decoders[kind](
            body, now=now, limits=_LIMITS, content_type="application/x-ndjson"
        )
    except PayloadError as error:
        profile.refuse(error.code, len(lines))
        return
    for rejection in rejected:
        profile.refuse(rejection.code)
    for index, element in decoded:
        profile.add(element, late=index >= half)
