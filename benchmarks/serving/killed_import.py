"""``tactful import`` of a large Parquet file, killed again and again: is anything lost or doubled?

The command is killed with SIGKILL at random moments and started again, as a user would. Afterwards
the log of the server is read: every row has to be in it once.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from benchmarks.figures import Figure
from benchmarks.serving.importing import server
from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

_ROWS, _QUICK_ROWS = 5_000_000, 200_000
_KILLS = 20
_GROUP = 200_000  # rows written at once
_READ = 20_000  # records

NAMES = {
    "import_kills": "kills",
    "import_lost_rows": "rows",
    "import_doubled_rows": "rows",
    "import_killed_rows_per_s": "rows/s",
}


def killed_import_figures(quick: bool) -> list[Figure]:
    """Import a file in spite of kills, and count its rows in the log."""
    rows = _QUICK_ROWS if quick else _ROWS
    with tempfile.TemporaryDirectory(prefix="tactful-bench-") as name:
        folder = Path(name)
        _write(folder / "events.parquet", rows)
        began = time.perf_counter()
        with server(folder / "data") as (_, url):
            kills = _import(folder, url, rows)
        seconds = time.perf_counter() - began
        seen = _count(folder / "data", rows)
    lost, doubled = int((seen == 0).sum()), int((seen > 1).sum())
    note = f"Parquet of {rows:,} rows, SIGKILL at random moments"
    values = {
        "import_kills": float(kills),
        "import_lost_rows": float(lost),
        "import_doubled_rows": float(doubled),
        "import_killed_rows_per_s": rows / seconds,
    }
    return [Figure(name, value, NAMES[name], note=note) for name, value in values.items()]


def _write(path: Path, rows: int) -> None:
    """Write views with the number of the row as the item, one a second, by 50,000 people."""
    schema = pa.schema(
        {
            "user_id": pa.int64(),
            "product_id": pa.int64(),
            "event": pa.string(),
            "event_time": pa.timestamp("ms"),
        }
    )
    begin = time.time_ns() // 1_000_000 - rows * 1000
    with pa.parquet.ParquetWriter(path, schema) as writer:
        for start in range(0, rows, _GROUP):
            number = np.arange(start, min(start + _GROUP, rows))
            columns = [number % 50_000, number, ["view"] * len(number), begin + number * 1000]
            arrays = [pa.array(c, f.type) for c, f in zip(columns, schema, strict=True)]
            writer.write_table(pa.Table.from_arrays(arrays, schema=schema))


def _import(folder: Path, url: str, rows: int) -> int:
    """Run the command until it ends by itself; return how often it was killed."""
    command = [sys.executable, "-m", "tactful", "import", str(folder / "events.parquet")]
    environment = {**os.environ, "XDG_STATE_HOME": str(folder / "state")}
    chance, kills = random.Random(1), 0
    # The kills fall into the time that an import without kills would take, and its starts.
    span = 2.0 + rows / 40_000 / _KILLS
    while True:
        process = subprocess.Popen(
            [*command, "--url", url, "--json"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            env=environment,
        )
        if kills < _KILLS:
            try:
                process.wait(chance.uniform(0.5, span))
            except subprocess.TimeoutExpired:
                process.send_signal(signal.SIGKILL)
                kills += 1
        _, error = process.communicate()
        if process.returncode == 0:
            return kills
        if process.returncode != -signal.SIGKILL:
            raise RuntimeError(f"the import ended with {process.returncode}: {error.decode()}")


def _count(data: Path, rows: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Return how often each row is in the log."""
    seen = np.zeros(rows, np.int64)
    with EmbeddedLog(data / "log", durability="process", read_only=True) as log:
        offset = log.begin
        while records := log.read(offset, _READ):
            for last, payload in records:
                entry = decode_entry(payload)
                if isinstance(entry, Event) and entry.item_id is not None:
                    seen[int(entry.item_id)] += 1
                offset = last + 1
    return seen
