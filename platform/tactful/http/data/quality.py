"""Endpoint of the quality of data of the running shop."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import stored
from tactful.quality.log_check import check_latest
from tactful.schemas.data.quality import Quality

if TYPE_CHECKING:
    from tactful.server.platform import Platform


class QualityQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Number of the latest records of the log to look at."""

    latest: Annotated[int, Meta(ge=1, le=200_000)] = 20_000


async def _get_data_quality(platform: Platform, call: Call) -> Reply:
    query = call.query(QualityQuery)

    def check() -> Quality:
        with platform.lock:
            items = [*platform.engine.items.values()]
        with platform.backend.searched() as partitions:
            return check_latest(partitions, items, query.latest)

    async with platform.checking:  # each takes seconds of one processor
        return json_reply(await stored(check, "the log cannot be read now"))


QUALITY_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/data/quality",
        "Check the quality of the latest events and of the items",
        _get_data_quality,
        details=(
            "Every field by type of event: share without a value, types, range, new values; "
            "repeated events and volume by source. The older half is compared with the newer one. "
            "The numbers are exact, so it needs the scope `admin`."
        ),
        scope="admin",
        query=QualityQuery,
        answer=Quality,
        problems=("not_ready",),
    ),
)
