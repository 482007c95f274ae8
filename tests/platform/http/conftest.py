"""Every test of the HTTP API runs against one process and against worker processes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
from tests.platform.support import SHOP, Live, build, small_settings

from tactful.server.platform import Platform


@pytest.fixture(params=[0, 1], ids=["process", "worker"])
def workers(request: pytest.FixtureRequest) -> int:
    """Number of worker processes of `live` and `locked`."""
    count: int = request.param
    return count


@pytest.fixture(scope="session", params=[0, 2], ids=["process", "workers"])
def shared(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Server in --dev, of tests that change nothing but data of their own user."""
    settings = small_settings(tmp_path_factory.mktemp("shared"))
    with Live(Platform.open(settings, build), workers=request.param) as server:
        yield server


@pytest.fixture(scope="session", params=[0, 2], ids=["process", "workers"])
def shop(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Live]:
    """Server with keys, for the pages of one shop."""
    settings = small_settings(tmp_path_factory.mktemp("shop"))
    server = replace(settings.server, dev=False, cors_origins=f"{SHOP}, http://localhost:3000")
    limits = replace(settings.limits, body_bytes=2**20)
    platform = Platform.open(replace(settings, server=server, limits=limits), build)
    with Live(platform, workers=request.param) as live:
        yield live
