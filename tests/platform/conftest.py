"""Fixtures of the HTTP service's tests."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.platform.support import Live, build, small_settings

from tactful.config import Settings
from tactful.service import Platform


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server in --dev on a free port."""
    return small_settings(tmp_path)


@pytest.fixture
def live(settings: Settings) -> Iterator[Live]:
    """A running server in --dev."""
    with Live(Platform.open(settings, build)) as server:
        yield server


@pytest.fixture
def locked(settings: Settings) -> Iterator[Live]:
    """A running server that asks for API keys."""
    closed = replace(settings, server=replace(settings.server, dev=False))
    with Live(Platform.open(closed, build)) as server:
        yield server
