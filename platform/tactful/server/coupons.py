"""Decisions about coupons, assembled from a platform."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any

from tactful.coupons.decisions import CouponIssuer
from tactful.coupons.gain_model import InstalledGains
from tactful.event_log.recipients import RecommendationIds
from tactful_streaming.contract.log_entries import DEVICE_PREFIX, Event, named_keys

if TYPE_CHECKING:
    from tactful.server.platform import Platform


def make_coupons(platform: Platform, ids: RecommendationIds) -> CouponIssuer | None:
    """Make the issuer of coupons; None without campaigns."""
    resources, engine, lock = platform.resources, platform.engine, platform.lock
    installation, backend = resources.installation, resources.backend
    if not resources.coupons:
        return None

    def features(user: str, at: int) -> Mapping[str, Any]:
        with lock:
            stored = dict(backend.source.read("user", user, at))
        return platform.life_cycles.added(user, stored, at)

    def keys_of(event: Event) -> Collection[str]:
        """Return the keys of an event's user: as named, and by device links."""
        keys = {*named_keys(event)}
        with lock:
            keys.update([engine.resolve(key, event.timestamp) for key in keys])
            if event.user_id is not None:
                keys.update(DEVICE_PREFIX + device for device in engine.devices_of(event.user_id))
        return keys

    return CouponIssuer(
        resources.coupons,
        installation.metadata,
        backend.partitions(),
        features=features,
        clock=installation.clock,
        keyring=ids.keyring,
        keys_of=keys_of,
        gain_of=InstalledGains(installation.data, installation.clock),
        # Made after the coupons, and asked for the first time when the server runs.
        values=lambda key, event, known: platform.bandits.choose(key, event, known),
    )
