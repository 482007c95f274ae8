"""Fixtures of the platform's tests: servers, and the databases of the metadata."""

from __future__ import annotations

import contextlib
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest
import sqlalchemy as sa
from tests.platform.databases import BACKENDS, Location, empty_database
from tests.platform.support import Live, build, small_settings

from tactful.alerts import rules
from tactful.alerts.rules import AlertFile, read_alerts
from tactful.config.settings import PACKAGED_MAPPING, Settings
from tactful.metadata import store as metadata
from tactful.metadata.store import MetadataStore, open_metadata
from tactful.server import sources
from tactful.server.platform import Platform
from tactful.sources.mapping import Mappings
from tactful.sources.read_mapping import read_mappings


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a server in --dev on a free port."""
    return small_settings(tmp_path)


@pytest.fixture
def workers() -> int:
    """Number of worker processes of `live` and `locked`; the tests of HTTP have more."""
    return 0


@pytest.fixture
def live(settings: Settings, workers: int) -> Iterator[Live]:
    """A running server in --dev."""
    with Live(Platform.open(settings, build), workers=workers) as server:
        yield server


@pytest.fixture
def locked(settings: Settings, workers: int) -> Iterator[Live]:
    """A running server that checks API keys."""
    closed = replace(settings, server=replace(settings.server, dev=False))
    with Live(Platform.open(closed, build), workers=workers) as server:
        yield server


@pytest.fixture(params=BACKENDS)
def location(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Location]:
    """An empty database of each backend."""
    yield from empty_database(request, tmp_path)


@pytest.fixture
def database(location: Location) -> Iterator[MetadataStore]:
    """The metadata in a database of each backend."""
    opened = open_metadata(location)
    yield opened
    opened.close()


@pytest.fixture
def sqlite(tmp_path: Path) -> Iterator[MetadataStore]:
    """The metadata in a file, for tests that do not depend on the backend."""
    opened = open_metadata(tmp_path / "metadata.db")
    yield opened
    opened.close()


@pytest.fixture(scope="session")
def empty_registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database with nothing in it, made once: its migrations take seconds."""
    from mlflow import MlflowClient

    path = tmp_path_factory.mktemp("registry") / "mlflow.db"
    MlflowClient(tracking_uri=f"sqlite:///{path}").search_registered_models()
    return path


@pytest.fixture
def tracking_uri(empty_registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """MLflow store of the test, in the environment, with its files in `tmp_path`."""
    uri = f"sqlite:///{shutil.copy(empty_registry, tmp_path / 'mlflow.db')}"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", uri)
    return uri


@pytest.fixture(scope="session", autouse=True)
def packaged_files_read_once() -> Iterator[None]:
    """Keep what the packaged files of sources and alerts say: most tests open several servers."""
    mappings, alerts = cache(read_mappings), cache(read_alerts)

    def kept_mappings(source: Path | str) -> Mappings:
        return (mappings if source == PACKAGED_MAPPING else read_mappings)(source)

    def kept_alerts(path: Path) -> AlertFile:
        return (alerts if path == rules.PACKAGED else read_alerts)(path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sources, "read_mappings", kept_mappings)
        patch.setattr(rules, "read_alerts", kept_alerts)
        yield


@pytest.fixture(scope="session")
def upgraded_metadata(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the tables of the metadata and nothing in them."""
    path = tmp_path_factory.mktemp("metadata") / "metadata.db"
    open_metadata(path).close()
    return path


@pytest.fixture(autouse=True)
def prepared_metadata(upgraded_metadata: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Make new SQLite files of this process as copies of one that was upgraded.

    All migrations take longer than most tests. `test_metadata.py` runs them every time, and so do
    the processes that tests start.
    """
    upgrade = metadata._upgrade

    def upgrade_copy(engine: sa.Engine) -> None:
        if engine.dialect.name == "sqlite" and engine.url.database:
            path = Path(engine.url.database)
            draft = path.with_name(f"{uuid.uuid4().hex}.new")
            # If it cannot be written, the upgrade reports why. Of several threads one wins.
            with contextlib.suppress(OSError):
                if not path.exists():
                    shutil.copyfile(upgraded_metadata, draft)
                    path.hardlink_to(draft)
            draft.unlink(missing_ok=True)
        upgrade(engine)

    monkeypatch.setattr(metadata, "_upgrade", upgrade_copy)
