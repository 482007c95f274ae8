"""Sticky arms of two servers that share one database."""

from __future__ import annotations

import asyncio

from tactful.flags.sticky import StickyArms
from tactful.metadata.flag_arms import StickyArm
from tactful.metadata.store import MetadataStore

DOCUMENT = "id||读者-1"


def arm(experiment: str, arm: str) -> StickyArm:
    return StickyArm(DOCUMENT, experiment, "读者-1", arm, 1, 5)


def test_arms_of_another_server_are_seen_after_a_while(metadata: MetadataStore) -> None:
    now = 0.0
    first, second = (StickyArms(metadata, clock=lambda: now) for _ in range(2))

    async def serve() -> None:
        nonlocal now
        assert await second.read([DOCUMENT]) == {DOCUMENT: {}}
        await first.save([arm("a__0", "on")])
        assert await second.read([DOCUMENT]) == {DOCUMENT: {}}
        now += 11
        assert second.known([DOCUMENT]) is None
        assert await second.read([DOCUMENT]) == {DOCUMENT: {"a__0": "on"}}
        await first.save([arm("b__0", "off")])
        # The arm that is stored first holds, whatever a server has in memory.
        assert (await second.save([arm("b__0", "on")]))[DOCUMENT]["b__0"] == "off"

    async def erase() -> None:
        nonlocal now
        assert first.erase(["读者-1"]) == 2
        assert first.known([DOCUMENT]) is None
        assert second.known([DOCUMENT]) == {DOCUMENT: {"a__0": "on", "b__0": "off"}}
        now += 601
        assert await second.read([DOCUMENT]) == {DOCUMENT: {}}

    asyncio.run(serve())
    asyncio.run(erase())
