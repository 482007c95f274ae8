"""The sets to measure on, each read where it is: nothing of them is kept in the repository."""

from __future__ import annotations

import csv
import gzip
import io
import os
import subprocess
import sys
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.quality.dataset import Dataset, from_events
from benchmarks.quality.funnel import make_funnel
from benchmarks.shared import retail_path
from tactful.demo.datasets import Replay, completejourney
from tactful.demo.datasets import online_retail as read_invoices

_QUICK_HOUSEHOLDS = 220
_HOUSEHOLDS = 1_000
"""Of 2,469: all of them are in another part of the benchmark, and six variants take an hour."""
_ML_100K = "recbole/dataset_example/ml-100k/ml-100k"
_CLICKSTREAM = "retentioneering/datasets/ecom.csv.gz"


def fetch_wheel(requirement: str) -> Path:
    """Return the wheel of a package, downloaded once into the cache of the user.

    Raises:
        OSError: if it is not there and cannot be downloaded.
    """
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tactful-benchmarks"
    name = requirement.replace("==", "-")
    if not (held := sorted(cache.glob(f"{name}-*.whl"))):
        cache.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(cache)]
        command += ["--only-binary=:all:", "--disable-pip-version-check", requirement]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            raise OSError(f"pip cannot download {requirement}: {done.stderr.strip()[-200:]}")
        held = sorted(cache.glob(f"{name}-*.whl"))
    return held[0]


def online_retail(quick: bool) -> Dataset:
    """Read the invoices of a wholesaler; quick takes the last three months."""
    replay = read_invoices(retail_path(), quick=quick)
    return from_replay("online_retail", replay, task="next")


def completejourney_receipts(quick: bool) -> Dataset:
    """Read the receipts of a thousand households; quick takes 220 of them."""
    replay = completejourney(households=_QUICK_HOUSEHOLDS if quick else _HOUSEHOLDS)
    return from_replay("completejourney", replay, task="basket")


def from_replay(name: str, replay: Replay, **rest: Any) -> Dataset:
    """Convert a replay of the demo; its lines are what is predicted, its guests are not asked."""
    properties = [
        {"price": price, **({"quantity": quantity} if quantity else {})} if price == price else None
        for price, quantity in zip(replay.price.tolist(), replay.quantity.tolist(), strict=True)
    ]
    return Dataset(
        name=name,
        items=replay.items,
        users=replay.users,
        timestamp=replay.timestamp,
        type=[replay.kinds[kind] for kind in replay.kind.tolist()],
        person=replay.person,
        session=replay.session,
        item=replay.item,
        properties=properties,
        cut=replay.cut,
        answers=frozenset({"add_to_cart"}),
        asks_guests=False,
        note=replay.title,
        **rest,
    )


def ml_100k(quick: bool) -> Dataset:
    """Read the ratings of films of MovieLens 100K from the wheel of recbole, as `rating`."""
    with zipfile.ZipFile(fetch_wheel("recbole==1.2.1")) as wheel:
        films, people, ratings = (
            _table(wheel.read(f"{_ML_100K}.{kind}").decode()) for kind in ("item", "user", "inter")
        )
    items = [
        {"item_id": number, "title": title, **({"category": kinds.split(" ")[0]} if kinds else {})}
        for number, title, _, kinds in films
    ]
    users = [
        {"user_id": number, "properties": {"age": int(age), "gender": sex, "occupation": job}}
        for number, age, sex, job, _ in people
    ]
    events = [
        {
            "type": "rating",
            "timestamp": int(float(at)) * 1000,
            "user_id": person,
            "item_id": item,
            "properties": {"rating": float(rating)},
        }
        for person, item, rating, at in ratings
    ]
    # Within a second, which is the clock of the data, the file has no order.
    order = np.lexsort(
        (
            np.random.default_rng(0).permutation(len(events)),
            np.array([event["timestamp"] for event in events]),
        )
    )
    # Dates are from 1997 and 1998; the server takes events from the year 2000 on.
    later = int(datetime(2024, 1, 1, tzinfo=UTC).timestamp() * 1000)
    moved = later - min(int(str(event["timestamp"])) for event in events)
    events = [{**events[row], "timestamp": events[row]["timestamp"] + moved} for row in order]
    return from_events("ml_100k", events, items=items, users=users, note="MovieLens 100K, ratings")


def clickstream(quick: bool) -> Dataset:
    """Read the event log inside retentioneering; its pages are the items. It is generated data."""
    with zipfile.ZipFile(fetch_wheel("retentioneering==5.2.4")) as wheel:
        text = gzip.decompress(wheel.read(_CLICKSTREAM)).decode()
    rows = sorted(csv.DictReader(io.StringIO(text)), key=lambda row: row["timestamp"])
    events = [
        {
            "type": "view",
            "timestamp": int(
                datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp() * 1000
            ),
            "user_id": row["user_id"],
            "session_id": row["session_id"],
            "item_id": row["event"],
        }
        for row in rows
    ]
    return from_events("clickstream", events, note="looks synthetic; 19 pages: HR@20 says nothing")


def funnel(quick: bool) -> Dataset:
    """Generate the shop with a full funnel."""
    scale = 1 if quick else 3
    return make_funnel(
        1, people=300 * scale, groups=20, size=50, days=90, visits=2_500 * scale
    ).dataset


def _table(text: str) -> list[list[str]]:
    return list(csv.reader(text.splitlines()[1:], delimiter="\t", quoting=csv.QUOTE_NONE))


SOURCES: Mapping[str, Callable[[bool], Dataset]] = {
    "ml_100k": ml_100k,
    "funnel": funnel,
    "online_retail": online_retail,
    "completejourney": completejourney_receipts,
    "clickstream": clickstream,
}
"""How to read each set, quick or not; those that are read fast come first."""
