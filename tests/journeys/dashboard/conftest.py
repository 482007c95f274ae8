"""A shop with a history and a model behind keys, its dashboard, and a browser for each reader."""

from __future__ import annotations

import csv
import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from tests.journeys import visits
from tests.journeys.dashboard.reader import Reader
from tests.journeys.installation import Shop, Terminal
from tests.ui.dashboard_process import dashboard

from benchmarks.browser import browser

_SETTINGS = """
[statistics]
definitions = "statistics.yaml"
clock = "replay"

[consent]
default = "assume"

[alerts]
every_s = 5
"""
_STATISTICS = """
daily_epsilon: "1"
statistics:
  - name: carts.daily
    title: Carts by category
    event: add_to_cart
    by: category
    keys: [tea, cups, books, lamps]
    pane: 1d
    cap: 3
    epsilon: "1"
"""


@dataclass(frozen=True)
class House:
    """A shop, its dashboard, and a key for each kind of reader.

    Attributes:
        shop: running server; its commands have the key of an administrator.
        address: address of the dashboard.
        admin: key with the scope `admin`.
        analyst: key with the scopes `analyst` and `monitor`.
    """

    shop: Shop
    address: str
    admin: str
    analyst: str


@pytest.fixture(scope="module")
def house(programs: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    """A shop whose model was trained twice."""
    folder = tmp_path_factory.mktemp("house")
    write_history(folder)
    (folder / "tactful.toml").write_text(_SETTINGS)
    (folder / "statistics.yaml").write_text(_STATISTICS)
    terminal = Terminal(programs, folder)
    admin = _key(terminal, "admin")
    analyst = _key(terminal, "analyst", "monitor")
    keyed = Terminal(programs, folder, (), {"TACTFUL_API_KEY": admin})
    with keyed.serving("--config tactful.toml") as shop:
        shop.http.headers["authorization"] = f"Bearer {admin}"
        shop.run("tactful import items.csv")
        shop.run("tactful import events.csv")
        shop.applied()
        shop.trained()
        shop.run("tactful train")
        for number in range(20):
            shop.recommend(user_id=f"visitor-{number}", count=5)
        with dashboard(shop.url, terminal.folder, environment=terminal.environment()) as address:
            yield House(shop, address, admin, analyst)


def _key(terminal: Terminal, *scopes: str) -> str:
    options = " ".join(f"--scope {scope}" for scope in scopes)
    printed = terminal.run(f"tactful keys create {options}").out
    found = re.search(r"tactful_[0-9a-f]{8}_[\w-]{43}", printed)
    assert found is not None, printed
    return found[0]


@pytest.fixture
def read_as(house: House, chromium_path: Path, tmp_path: Path) -> Iterator[Callable[[str], Reader]]:
    """Sign in with a key and return the reader."""
    with browser(chromium_path, tmp_path / "profile") as page:

        def sign_in(key: str) -> Reader:
            reader = Reader(page, house.address)
            page.open(house.address, height=1400)
            reader.wait_for("does not accept the key")
            reader.sign_in(key)
            return reader

        yield sign_in


@pytest.fixture
def pictures() -> Path:
    """Folder for pictures of pages, which CI keeps."""
    root = Path(__file__).resolve().parents[3]
    return Path(os.environ.get("TACTFUL_TEST_PICTURES", root / "reports" / "pictures"))


def write_history(folder: Path) -> None:
    """Write the items and the visits of the last four weeks as CSV files."""
    with (folder / "items.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["item_id", "title", "category", "price"])
        for number, item in enumerate(visits.items()):
            rows.writerow([item, item.title(), visits.category(item), 5 + number])
    with (folder / "events.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["type", "timestamp", "user_id", "item_id", "session_id"])
        for row in visits.visits():
            visit = f"{row.visitor}-{row.visit}"
            time = row.at.isoformat()
            rows.writerow(["add_to_cart", time, f"visitor-{row.visitor}", row.item, visit])
