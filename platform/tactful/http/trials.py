"""Endpoint that tries a recommendation out, for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

from tactful.http.asgi import Call, Endpoint, Reply, json_reply
from tactful.http.items import described_item
from tactful.http.subjects.audit import try_for
from tactful.schemas.items import CatalogueItem
from tactful.schemas.trials import Trial, TrialRequest, TriedVariant

if TYPE_CHECKING:
    from tactful.server.platform import Platform

_decoder = msgspec.json.Decoder(TrialRequest)


async def _post_trial(platform: Platform, call: Call) -> Reply:
    trial = await call.json(_decoder)
    if (person := trial.request.subject) is not None:
        await try_for(platform, call, person)
    at, variants = await platform.recommendations.attempt(trial)
    return json_reply(Trial(at=at, variants=variants, items=_items(platform, variants)))


def _items(platform: Platform, variants: list[TriedVariant]) -> dict[str, CatalogueItem]:
    """Return the descriptions of all items of the answers."""
    shown = [item.item_id for it in variants for item in it.recommendation.items]
    proposed = [
        item_id for it in variants for channel in it.channels for item_id in channel.item_ids
    ]
    with platform.lock:
        items = {
            item_id: platform.backend.source.items.get(item_id) for item_id in shown + proposed
        }
    return {item_id: described_item(item) for item_id, item in items.items() if item is not None}


TRIAL_ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/recommend/try",
        "Try a recommendation out",
        _post_trial,
        details=(
            "For a user, a made-up person or nobody, by several arms or versions of the model side "
            "by side, each explained and with what every recall channel proposes by itself. "
            "Nothing is logged as shown, and no count changes. A look at a real user is personal "
            "data: it needs the scope `admin` and is written to the accesses of the user."
        ),
        scope="admin",
        body=TrialRequest,
        answer=Trial,
        problems=("invalid", "not_found", "not_ready", "not_caught_up"),
    ),
)
