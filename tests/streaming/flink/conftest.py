"""Fixtures of the tests of Flink."""

from collections.abc import Iterator

import pytest
from tests.streaming.flink_rest import Fake


@pytest.fixture
def fake() -> Iterator[Fake]:
    server = Fake()
    yield server
    server.close()
