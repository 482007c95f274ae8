"""One contract of the stored flags for SQLite and MariaDB/MySQL."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
from tests.platform.databases import BACKENDS, Location, empty_database
from tests.platform.flags.conftest import Clock
from tests.platform.flags.flag_files import FLAGS

from tactful.flags.service import FlagService
from tactful.flags.sticky import StickyArms
from tactful.flags.store import FlagStore, FlagUse
from tactful.metadata.flag_arms import StickyArm, arms_of
from tactful.metadata.store import open_metadata
from tactful.schemas.experiments.flags import FlagsFile


@pytest.fixture(params=BACKENDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    yield from empty_database(request, tmp_path)


def arm(person: str, name: str, experiment: str = "checkout__0") -> StickyArm:
    return StickyArm(f"id||{person}", experiment, person, name, 1, 5)


def test_stored_flags(location: Location, clock: Clock) -> None:
    with (
        closing(open_metadata(location, clock=clock)) as one,
        closing(open_metadata(location)) as other,
    ):
        # Servers that start and apply at once.
        services = [FlagService(FlagStore(it, clock=clock), clock=clock) for it in (one, other)]
        assert services[0].secrets == services[1].secrets
        texts = [FLAGS.replace("share: 0.5", f"share: 0.{number}") for number in (6, 7, 8, 9)]
        with ThreadPoolExecutor(4) as pool:
            jobs = [
                pool.submit(services[n % 2].apply, FlagsFile(definitions=text), by="ann")
                for n, text in enumerate(texts)
            ]
        assert sorted(job.result().version for job in jobs) == [1, 2, 3, 4]
        changes = services[0].store.changes()
        assert [it.version for it in changes] == [4, 3, 2, 1]
        assert [len(it.differences) for it in changes] == [1, 1, 1, 6]
        store = services[0].store
        assert store.uses() == {}
        store.note_uses({"a": FlagUse(1, 2, 1, "v")})
        services[1].store.note_uses({"a": FlagUse(3, 9, 3, "v"), "b": FlagUse(3, 3, 3, "w")})
        assert store.uses() == {"a": FlagUse(1, 9, 3, "v"), "b": FlagUse(3, 3, 3, "w")}

        async def keep() -> None:
            arms, others = StickyArms(one), StickyArms(other)
            assert await arms.read(["id||Ada"]) == {"id||Ada": {}}
            # Names are compared byte by byte.
            saved = await asyncio.gather(
                arms.save([arm("Ada", "short"), arm("ada", "long")]),
                arms.save([arm("Ada", "long"), arm("Ada", "b", "cart__1")]),
                others.save([arm("ada", "long")]),
            )
            assert saved[1] == {"id||Ada": {"checkout__0": "short", "cart__1": "b"}}
            assert await others.save([arm("Ada", "long")]) == saved[1], "the first one stays"
            assert arms.known(["id||Ada", "id||ada"]) is not None
            assert arms.known(["id||Ada", "id||bob"]) is None
            assert await asyncio.to_thread(arms.erase, ["Ada"]) == 2
            assert arms.known(["id||Ada"]) is None
            assert arms_of(one, ["Ada"]) == []
            assert [it.arm for it in arms_of(one, ["ada"])] == ["long"]

        asyncio.run(keep())
