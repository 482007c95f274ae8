"""One browser for all tests of pages against servers that they play."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.sdk.device.page_shop import Shop, open_shop


@pytest.fixture(scope="session")
def shop(
    web_client: Path, chromium_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shop]:
    with open_shop(web_client, chromium_path, tmp_path_factory.mktemp("profile")) as opened:
        yield opened
