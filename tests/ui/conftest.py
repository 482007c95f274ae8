"""The dashboard's pages run by AppTest against a small platform over real HTTP."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest
from tests.ui.server import FakePlatform, running

ROOT = Path(__file__).resolve().parents[2]
PAGES = ("demo", "released")

Open = Callable[..., AppTest]


def _page(name: str) -> None:
    import importlib

    importlib.import_module(f"tactful_ui.views.{name}").page()


def open_at(name: str, **query: str) -> AppTest:
    """One page of the dashboard, with the server that the environment names.

    `query` are the parameters of its address; `language` chooses the language of the session.
    """
    page = AppTest.from_function(_page, args=(name,), default_timeout=30)
    if (language := query.pop("language", None)) is not None:
        page.session_state["language"] = language
    for key, value in query.items():
        page.query_params[key] = value
    return page.run()


@pytest.fixture
def fake() -> Iterator[FakePlatform]:
    """A running server without a report."""
    with running(FakePlatform()) as platform:
        yield platform


@pytest.fixture
def open_page(fake: FakePlatform, monkeypatch: pytest.MonkeyPatch) -> Open:
    """Opens one page of the dashboard, pointed at `fake`."""
    monkeypatch.delenv("TACTFUL_API_KEY", raising=False)

    def open_(name: str, **query: str) -> AppTest:
        monkeypatch.setenv("TACTFUL_URL", fake.url)
        return open_at(name, **query)

    return open_
