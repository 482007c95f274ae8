"""Endpoints of coupon campaigns: ``/v1/coupons``."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Annotated

import msgspec
from msgspec import Meta

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.common import PageQuery, stored
from tactful.schemas.experiments.coupons import CampaignIndex, CampaignReport, Deliveries
from tactful.schemas.problems import ProblemError

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_UNAVAILABLE = "coupons cannot be read now"


class CampaignQuery(msgspec.Struct, forbid_unknown_fields=True):
    """Choices of a campaign's report.

    Attributes:
        margin: profit of a unit of revenue.
        hours: of purchases after a decision that count.
    """

    margin: Annotated[float, Meta(gt=0, le=1)] = 0.3
    hours: Annotated[float, Meta(gt=0, le=10_000)] = 168.0


async def _list_campaigns(platform: Platform, call: Call) -> Reply:
    query, reports = call.query(PageQuery), platform.campaigns
    found = [] if reports is None else await stored(reports.all, _UNAVAILABLE)
    page = [campaign for campaign in found if campaign.name > query.cursor]
    more = len(page) > query.limit
    page = page[: query.limit]
    return json_reply(
        CampaignIndex(
            campaigns=page,
            webhook=_deliveries(platform),
            next_cursor=page[-1].name if more else None,
        )
    )


async def _get_campaign(platform: Platform, call: Call) -> Reply:
    query, reports, name = call.query(CampaignQuery), platform.campaigns, call.path["name"]
    try:
        if reports is None:
            raise KeyError(name)
        read = partial(reports.of, name, margin=query.margin, hours=query.hours)
        return json_reply(await stored(read, _UNAVAILABLE))
    except KeyError:
        raise ProblemError("not_found", "GET /v1/coupons lists all campaigns") from None


def _deliveries(platform: Platform) -> Deliveries | None:
    webhooks = platform.resources.webhooks
    if webhooks is None:
        return None
    return Deliveries(
        delivered=webhooks.delivered, failed=webhooks.failed, given_up=webhooks.buried
    )


COUPON_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "GET",
        "/v1/coupons",
        "List the coupon campaigns",
        _list_campaigns,
        details="Decisions and budget of each campaign, exactly, and deliveries to the webhook.",
        scope="admin",
        query=PageQuery,
        answer=CampaignIndex,
        problems=("not_ready",),
    ),
    Endpoint(
        "GET",
        "/v1/coupons/{name}",
        "Report a coupon campaign",
        _get_campaign,
        details=(
            "The funnel in the log, and the effect on revenue and margin of a user against the "
            "holdout, with intervals for any number of looks. It reads the log, at most once a "
            "minute."
        ),
        scope="admin",
        query=CampaignQuery,
        answer=CampaignReport,
        problems=("not_found", "not_ready"),
    ),
)
