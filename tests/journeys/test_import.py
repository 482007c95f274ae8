"""A file of one's own, as docs/how-to/import.md says: odd names, a kill, any order of files."""

from __future__ import annotations

import json
import re
import signal
import subprocess
from collections import Counter
from datetime import datetime
from functools import partial
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.journeys.installation import ROOT, Terminal, wait_until
from tests.journeys.visits import category, items, taste, visits, write_csv

from tactful_streaming.contract.log_entries import Event, decode_entry
from tactful_streaming.log.embedded_log import EmbeddedLog

pytestmark = pytest.mark.slow

_ROWS = 200_000


def blocks(kind: str) -> list[str]:
    """Return the fenced blocks of the document in one language."""
    text = (ROOT / "docs/how-to/import.md").read_text("utf-8")
    return re.findall(rf"```{kind}\n(.*?)```", text, re.DOTALL)


def events(folder: Path) -> list[Event]:
    """Return the events in the log below a data directory, whose server has ended."""
    found = []
    with EmbeddedLog(folder / "log", durability="process", read_only=True) as log:
        offset = log.begin
        while records := log.read(offset, 50_000):
            offset = records[-1][0] + 1
            found += [
                it for _, payload in records if isinstance(it := decode_entry(payload), Event)
            ]
    return found


def test_the_odd_table_of_the_document_is_understood_as_it_says(terminal: Terminal) -> None:
    table = blocks("csv")[0]
    shown, sent = blocks("text")[:2]
    (terminal.folder / "orders.csv").write_text(table, "utf-8")
    first, second = blocks("sh")[:2]
    assert terminal.run(first).out == shown
    with terminal.serving() as shop:
        printed = [shop.run(line).out for line in second.splitlines()]
        assert "".join(printed) == sent
        again = shop.run(second.splitlines()[-1])
        assert again.out.startswith("nothing new: all of it was sent before, up to row 5;")
        shop.applied()
        catalogue = shop.http.get("/v1/items").json()["items"]
        assert {it["item_id"]: it["title"] for it in catalogue} == {
            "A-7": "Assam, 100 g",
            "A-9": "Teesieb",
        }
        assert set(shop.items(user_id="new")) == {"A-7", "A-9"}
    stored = [it for it in events(terminal.folder / "tactful-data") if it.type != "impression"]
    assert [(it.user_id, it.device_id, it.item_id, it.type) for it in stored] == [
        ("1001", None, "A-7", "purchase"),
        ("1001", None, "A-9", "purchase"),
        (None, "B-502", "A-7", "purchase"),
        ("1002", None, "A-7", "return"),
    ]
    berlin = ZoneInfo("Europe/Berlin")
    assert stored[0].timestamp == datetime(2024, 7, 30, 23, 15, tzinfo=berlin).timestamp() * 1000
    assert stored[1].properties["price"] == 1003


def write_parquet(path: Path) -> None:
    """Write views with the number of the row as the item, one a second."""
    number = np.arange(_ROWS)
    begin = int(datetime.now().timestamp()) - _ROWS
    columns = {
        "customer_no": pa.array(number % 5_000),
        "product": pa.array(number),
        "action": pa.array(["pageview"] * _ROWS),
        "happened": pa.array((begin + number) * 1000, pa.timestamp("ms", tz="UTC")),
    }
    pq.write_table(pa.table(columns), path)


def test_a_killed_import_of_parquet_resumes_and_doubles_nothing(terminal: Terminal) -> None:
    write_parquet(terminal.folder / "views.parquet")
    progress = terminal.folder / ".local/state/tactful/imports"
    with terminal.serving() as shop:
        rows = 0

        def further(process: subprocess.Popen[str]) -> bool:
            """Whether more rows were sent than at the last look, or none will be."""
            records = [json.loads(path.read_bytes()) for path in progress.glob("*.json")]
            more = any(record["place"]["rows"] > rows for record in records)
            return more or process.poll() is not None

        for _ in range(3):
            process = shop.terminal.start(
                "tactful import views.parquet", stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            wait_until(partial(further, process))
            process.send_signal(signal.SIGKILL)
            _, error = process.communicate()
            assert process.returncode == -signal.SIGKILL, error
            resumed = re.search(r"resumes behind row ([\d,]+) of an earlier run", error)
            assert (resumed is not None) == (rows > 0)
            (record,) = (json.loads(path.read_bytes()) for path in progress.glob("*.json"))
            assert rows < record["place"]["rows"] < _ROWS, "killed in the middle"
            rows = record["place"]["rows"]
        end = shop.run("tactful import views.parquet")
        assert f"resumes behind row {rows:,} of an earlier run" in end.err
        counted = re.match(r"([\d,]+) accepted, ([\d,]+) known before, 0 rejected", end.out)
        assert counted is not None, end.out
        accepted, known = (int(it.replace(",", "")) for it in counted.groups())
        assert accepted + known == _ROWS - rows
        again = shop.run("tactful import views.parquet").out
        assert again.startswith(f"nothing new: all of it was sent before, up to row {_ROWS:,};")
    stored = Counter(it.item_id for it in events(terminal.folder / "tactful-data"))
    assert len(stored) == _ROWS and set(stored.values()) == {1}


def test_items_after_all_events_and_users_after_both(terminal: Terminal) -> None:
    rows = visits()
    orders = ((f"c{r.visitor}", r.visit, r.item, 3.5, 1, r.at.isoformat()) for r in rows)
    write_csv(terminal.folder / "orders.csv", "customer,order,product,price,quantity,date", orders)
    described = ((item, f"One of the {category(item)}", category(item)) for item in items())
    write_csv(terminal.folder / "items.csv", "sku,name,category", described)
    people = ((f"c{n}", "GB") for n in range(60))
    write_csv(terminal.folder / "people.csv", "customer,country", people)
    with terminal.serving() as shop:
        sent = shop.run("tactful import orders.csv").out
        assert sent == f"{len(rows)} accepted, 0 known before, 0 rejected (from row 1)\n"
        empty = shop.recommend(user_id="c1")
        assert empty["items"] == []
        assert empty["fallback"] == "the catalogue is empty: send items with PUT /v1/items"
        early = shop.run("tactful train --promote", code=1).err
        assert "tactful: nothing to learn from: the log holds no event about a known item" in early
        assert "40 accepted, 0 rejected" in shop.run("tactful import items.csv").out
        assert "60 accepted, 0 rejected" in shop.run("tactful import people.csv").out
        shop.trained()
        for visitor in range(8):
            answer = shop.recommend(user_id=f"c{visitor}", count=8)
            assert answer["fallback"] is None
            chosen = [category(item["item_id"]) for item in answer["items"]]
            assert chosen.count(taste(visitor)) >= 7, (visitor, chosen)
