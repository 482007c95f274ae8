"""Stores of flags for tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from tests.platform.databases import Location

from tactful.flags.store import FlagStore
from tactful.metadata.store import MetadataStore, open_metadata


class Clock:
    """Time that a test sets, epoch milliseconds."""

    def __init__(self) -> None:
        self.now = 1_796_000_000_000

    def __call__(self) -> int:
        return self.now

    def pass_days(self, days: float) -> None:
        self.now += round(days * 86_400_000)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def location(tmp_path: Path) -> Location:
    return tmp_path / "metadata.db"


@pytest.fixture
def metadata(location: Location, clock: Clock) -> Iterator[MetadataStore]:
    with closing(open_metadata(location, clock=clock)) as opened:
        yield opened


@pytest.fixture
def store(metadata: MetadataStore, clock: Clock) -> FlagStore:
    return FlagStore(metadata, clock=clock)
