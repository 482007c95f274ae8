"""The first day of a user: from the wheel to a personal list, from a table to a served model.

Every step is a command that the documentation gives, in a process of its own.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import venv
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from tqdm import tqdm

from benchmarks.figures import Figure
from tactful.client import Client
from tactful.errors import Busy

_ROOT = Path(__file__).resolve().parents[2]
_ROWS = 1_000_000
_QUICK_ROWS = 50_000
_FEW_ROWS = 2_000
_CATEGORIES, _PER_CATEGORY = 50, 100
_DAYS_S = 28 * 86_400
_PATIENCE_S = 300.0

LIST_STAGES = ("install", "start", "import", "list")
MODEL_STAGES = ("items", "events", "train", "serve")


@dataclass
class _Stages:
    """Seconds of consecutive stages, shown as a bar."""

    bar: tqdm[Any]
    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def of(self, name: str) -> Iterator[None]:
        """Measure one stage."""
        self.bar.set_postfix_str(name)
        started = time.perf_counter()
        yield
        self.seconds[name] = time.perf_counter() - started
        self.bar.update()

    def figures(self, name: str, note: str) -> list[Figure]:
        """Return the figure of the whole, and one for each stage."""
        total = Figure(f"{name}_s", round(sum(self.seconds.values()), 2), "s", runs=1, note=note)
        parts = [
            Figure(f"{name}_{stage}_s", round(value, 2), "s", runs=1, note=f"part of {name}_s")
            for stage, value in self.seconds.items()
        ]
        return [total, *parts]


def first_list(scratch: Path) -> list[Figure]:
    """Install the wheel into an empty environment, import a small shop, wait for a list.

    The list counts once it is that of a user: not empty, and other than the one for everybody.
    """
    pip = [sys.executable, "-m", "pip"]
    wheels, environment = scratch / "wheels", scratch / "venv"
    build = ["wheel", "--quiet", "--no-deps", "--wheel-dir", str(wheels), str(_ROOT)]
    _run([*pip, *build], scratch)
    (wheel,) = wheels.glob("*.whl")
    write_orders(scratch / "orders.csv", _FEW_ROWS)
    venv.create(environment)
    # As on a machine that has never run it: no machine code from earlier runs.
    outside = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    outside |= {"HOME": str(scratch), "XDG_CACHE_HOME": str(scratch / "cache")}
    tactful = [str(environment / "bin" / "tactful")]
    with tqdm(total=len(LIST_STAGES), desc="first list") as bar:
        stages = _Stages(bar)
        with stages.of("install"):
            _run([*pip, "--python", str(environment), "install", "--quiet", str(wheel)], scratch)
        with _serving(tactful, scratch / "data", outside, stages) as (client, url):
            with stages.of("import"):
                for options in (["--kind", "items"], []):
                    _import(tactful, scratch / "orders.csv", url, outside, *options)
            with stages.of("list"):
                _await(lambda: _is_personal(client))
    note = "pip install of the wheel, serve --dev, import of 2,000 rows; pip's index and cache"
    return stages.figures("first_list", f"{note} as they are")


def csv_to_model(scratch: Path, *, quick: bool) -> list[Figure]:
    """Import a generated table of purchases and views, train, promote; wait until it is served."""
    rows = _QUICK_ROWS if quick else _ROWS
    write_orders(scratch / "orders.csv", rows)
    tactful, data = [sys.executable, "-m", "tactful"], scratch / "data"
    environment = {**os.environ, "XDG_STATE_HOME": str(scratch / "state")}
    environment["MLFLOW_TRACKING_URI"] = f"sqlite:///{scratch}/mlflow.db"
    with (
        tqdm(total=len(MODEL_STAGES), desc="CSV to model") as bar,
        _serving(tactful, data, environment) as (client, url),
    ):
        stages = _Stages(bar)
        with stages.of("items"):
            _import(tactful, scratch / "orders.csv", url, environment, "--kind", "items")
        with stages.of("events"):
            _import(tactful, scratch / "orders.csv", url, environment)
        with stages.of("train"):
            train = [*tactful, "train", "--promote", "--json", "--data", str(data)]
            trained = json.loads(_run(train, scratch, environment).splitlines()[-1])
        with stages.of("serve"):
            held_back = not trained["alias"]
            if held_back:
                promote = ["models", "promote", trained["version"], "--data", str(data)]
                _run([*tactful, *promote], scratch, environment)
            _await(lambda: (client.models()["champion"] or {}).get("version") == trained["version"])
    note = f"{rows:,} rows of {rows // 40:,} people; {os.cpu_count()} cores with the server"
    if held_back:
        note += "; --promote held the version back, models promote took it"
    return stages.figures("csv_to_model", note)


def write_orders(path: Path, rows: int, *, seed: int = 1) -> None:
    """Write visits of six rows, by time, of people who stay within two of fifty categories.

    Items are popular by Zipf's law; of six rows four are views, one a cart and one a purchase.
    """
    chance = np.random.default_rng(seed)
    visits, people = -(-rows // 6), max(rows // 40, 1)
    visit = np.repeat(np.arange(visits), 6)[:rows]
    person = chance.integers(0, people, visits)[visit]
    own = np.stack([np.arange(people) * step % _CATEGORIES for step in (7, 11)])
    category = own[chance.integers(0, 2, rows), person]
    item = (chance.zipf(1.3, rows) - 1) % _PER_CATEGORY
    begin = int(time.time()) - _DAYS_S - 3_600
    at = begin + (visit * (_DAYS_S / visits)).astype(np.int64) + np.arange(rows) % 6
    types = np.array(["view", "view", "addtocart", "view", "transaction", "view"])
    columns = {
        "customer_no": person,
        "order_no": visit,
        "product": category * _PER_CATEGORY + item,
        "category": np.char.add("c", category.astype(str)),
        "action": types[np.arange(rows) % 6],
        "when": at,
    }
    pyarrow.csv.write_csv(pa.table(columns), path)


@contextmanager
def _serving(
    tactful: list[str], data: Path, environment: Mapping[str, str], stages: _Stages | None = None
) -> Iterator[tuple[Client, str]]:
    command = [*tactful, "serve", "--dev", "--json", "--port", "0", "--data", str(data)]
    started = time.perf_counter()
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, cwd=data.parent, env=dict(environment)
    )
    try:
        assert process.stdout is not None
        url = json.loads(process.stdout.readline())["url"]
        with Client(url, timeout=60.0, retries=0) as client:
            _await(lambda: client.health() is not None)
            if stages is not None:
                stages.seconds["start"] = time.perf_counter() - started
                stages.bar.update()
            yield client, url
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


def _import(
    tactful: list[str], file: Path, url: str, environment: Mapping[str, str], *options: str
) -> None:
    _run([*tactful, "import", str(file), "--url", url, *options], file.parent, environment)


def _is_personal(client: Client) -> bool:
    everybody = [item.item_id for item in client.recommend(count=10).items]
    own = [item.item_id for item in client.recommend(user_id="1", count=10).items]
    return bool(own) and own != everybody


def _run(command: list[str], folder: Path, environment: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        command,
        cwd=folder,
        env=None if environment is None else dict(environment),
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}: {done.stderr}")
    return done.stdout


def _await(condition: Any) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while time.monotonic() < deadline:
        try:
            if condition():
                return
        except Busy:
            pass
        time.sleep(0.02)
    raise TimeoutError(f"not reached in {_PATIENCE_S:g} s")
