"""Ingestion and application of the log, assembled from a platform."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING

from tactful.coupons.definitions import WITHHELD
from tactful.errors import StorageError
from tactful.event_log.impressions import DECISION, DECISION_ID, IMPRESSION_ID, OFFER, OFFER_ID
from tactful.event_log.recipients import RecommendationIds
from tactful.flags.exposures import EXPOSURE_ID
from tactful.lifecycle.changes import STAGE_ID
from tactful.pipeline.applier import ApplierOptions, LogApplier
from tactful.pipeline.ingest import EventIngest, IngestOptions
from tactful.schemas.problems import ProblemError
from tactful.subjects.consent import record_described
from tactful.understanding.picture_intake import Numbered, PictureIntake
from tactful.understanding.picture_store import picture_path
from tactful_privacy.people.consent import Purpose
from tactful_streaming.contract.decode_requests import Limits, Rejection
from tactful_streaming.definitions.model import STAGE_EVENTS, emitted_types

if TYPE_CHECKING:
    from tactful.server.platform import Platform

logger = logging.getLogger(__name__)


def make_applier(platform: Platform) -> LogApplier:
    """Make the thread that applies the log; it may start once the platform is assembled."""
    backend, statistics = platform.backend, platform.statistics

    def written_until() -> int:
        """Return the time before which all accepted records are in the log; 0 while unknown."""
        now = platform.resources.installation.clock()
        if backend.problem() is not None or backend.spooled():
            return 0  # some may wait for the broker
        return platform.ingest.unwritten_since or now

    applier = LogApplier(
        backend.followed,
        platform.engine,
        platform.lock.inner,
        platform.metrics,
        ApplierOptions(
            settings=platform.settings.engine,
            permits=lambda key: Purpose.MARKETING in platform.permissions.of_key(key),
            commit_idle=statistics is not None,
            sends_ticks=platform.settings.statistics.clock == "wall",
            written_until=written_until,
            reads=lambda: platform.lock.uses,
        ),
        progressed=lambda: platform.visibility.progressed(),
        append=backend.append,
        letters=backend.letters,
    )
    if statistics is not None:
        statistics.counter.applied_until = lambda: applier.applied_until
    return applier


def make_ingest(platform: Platform, ids: RecommendationIds) -> EventIngest:
    """Make the ingestion, with the limits and the events that the settings reserve."""
    limits, definitions = platform.settings.limits, platform.engine.definitions
    clock = platform.resources.installation.clock
    pictures = PictureIntake(
        picture_path(platform.settings.storage.data),
        fetches=platform.settings.understanding.fetch_pictures,
        clock=clock,
    )
    platform.resources.closing.callback(pictures.close)
    options = IngestOptions(
        limits=Limits(
            max_bytes=limits.body_bytes, max_batch=limits.batch, future_ms=limits.future_ms
        ),
        engine_lag=limits.engine_lag,
        reserved=frozenset(
            (*emitted_types(definitions).values(), OFFER, WITHHELD, DECISION, *STAGE_EVENTS)
        ),
        reserved_ids=(IMPRESSION_ID, OFFER_ID, EXPOSURE_ID, DECISION_ID, STAGE_ID),
        ids=ids,
        proven=lambda event: platform.flags.proven(event),
        minimise=platform.minimise,
        permit=platform.permissions.restricted,
        repeats=platform.backend.rules is not None,
        describe=partial(record_described, platform.consents, platform.permissions),
        pictures=partial(_with_pictures, pictures),
    )
    return EventIngest(
        platform.backend,
        platform.applier,
        platform.metrics,
        options,
        clock=clock,
    )


async def _with_pictures(
    pictures: PictureIntake, items: Sequence[Numbered]
) -> tuple[Sequence[Numbered], list[Rejection]]:
    """Take the pictures of a request; refuse the request while they cannot be kept."""
    try:
        return await pictures.take(items)
    except StorageError as error:
        logger.error("pictures of items cannot be kept: %s", error)
        message = "pictures of items cannot be kept: the server's log names the file and the cure"
        raise ProblemError("not_ready", message, retry_after=30) from None
