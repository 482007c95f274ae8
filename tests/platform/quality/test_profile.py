"""Profiles: what they count, and what they find odd."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.platform.support import Live, build, small_settings, view, wait_until

from tactful.cli.main import main
from tactful.quality.profile import Profile
from tactful.schemas.data.quality import Quality
from tactful.server.platform import Platform
from tactful_streaming.contract.log_entries import Event, Item, Restricted

Values = st.one_of(st.none(), st.integers(-5, 5), st.text("ab", max_size=2), st.booleans())


@given(
    st.lists(
        st.tuples(st.sampled_from(["view", "purchase"]), st.booleans(), Values, st.integers(0, 9)),
        max_size=60,
    )
)
@settings(max_examples=60, deadline=None)
def test_counts_are_those_of_the_elements(rows: list[tuple[str, bool, Any, int]]) -> None:
    profile = Profile()
    for kind, late, value, number in rows:
        event = Event(
            event_id=str(number), type=kind, timestamp=number, properties={"value": value}
        )
        profile.add(event, late=late)
    told = profile.quality()
    assert told.elements == len(rows)
    assert told.duplicates == len(rows) - len({number for *_, number in rows})
    for kind in ("view", "purchase"):
        of = [(late, value) for type_, late, value, _ in rows if type_ == kind]
        present = [value for _, value in of if value is not None]
        found = next((f for f in told.fields if f.of == kind), None)
        assert (found is None) == (not present)
        if found is None:
            continue
        assert found.missing == pytest.approx(1 - len(present) / len(of))
        after = [value for late, value in of if late]
        if after:
            missing = after.count(None) / len(after)
            assert found.missing_after == pytest.approx(missing)
        numbers = [v for v in present if isinstance(v, int) and not isinstance(v, bool)]
        assert found.lowest == min(numbers, default=None)
        assert found.types.get("number", 0) == len(numbers)
        assert found.types.get("boolean", 0) == sum(isinstance(v, bool) for v in present)


def quality(change: Callable[[int], dict[str, Any]]) -> Quality:
    profile = Profile()
    for number in range(400):
        fields: dict[str, Any] = {
            "event_id": f"e{number}",
            "timestamp": number,
            "user_id": "ada",
            "properties": {"price": 1.5 + number, "shop": "zurich"},
        } | change(number)
        profile.add(Event(type="purchase", **fields), late=number >= 200)
    return profile.quality()


def late(number: int, **properties: Any) -> dict[str, Any]:
    return {"properties": properties} if number >= 300 else {}


@pytest.mark.parametrize(
    ("change", "code", "passed"),
    [
        (lambda n: {}, None, True),
        (lambda n: late(n, shop="zurich"), "missing", False),
        (lambda n: late(n, price="1.5", shop="zurich"), "type", False),
        (lambda n: late(n, price=n, shop="bern"), "new_values", True),
        (lambda n: late(n, price=-n, shop="zurich"), "range", True),
        (lambda n: {"event_id": f"e{n % 300}"}, "duplicates", True),
        (lambda n: {"timestamp": 1, "properties": {"price": n % 9}}, "look_alikes", True),
    ],
)
def test_what_is_odd_is_found(change: Any, code: str | None, passed: bool) -> None:
    told = quality(change)
    assert [finding.code for finding in told.findings] == ([] if code is None else [code])
    assert told.passed is passed


def test_memory_is_bounded_by_values() -> None:
    profile = Profile()
    for number in range(1_000):
        event = Event(
            event_id=f"e{number}", type="view", timestamp=1, context={"page": f"p{number}"}
        )
        profile.add(Restricted(timestamp=1, purposes=(), event=event), late=number % 2 == 0)
    (field,) = profile.quality().fields
    assert (field.field, field.distinct, field.new_share) == ("context.page", None, None)


def test_an_item_has_fields_too() -> None:
    profile = Profile()
    profile.add(Item(item_id="a", timestamp=1, price=-3.0, properties={"tags": ["x"]}), late=False)
    told = profile.quality()
    assert {(f.of, f.field): f.types for f in told.fields} == {
        ("item", "price"): {"number": 1},
        ("item", "properties.tags"): {"list": 1},
    }
    assert [finding.code for finding in told.findings] == ["range"]


def written(path: Path, prices: list[Any]) -> Path:
    with path.open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["event_id", "type", "timestamp", "user_id", "item_id", "price"])
        for number, price in enumerate(prices):
            rows.writerow(
                [number, "purchase", f"2026-01-01T00:00:{number % 60:02}Z", "u1", "i1", price]
            )
    return path


def test_a_file_passes_or_fails(tmp_path: Path) -> None:
    good = written(tmp_path / "good.csv", [number + 0.5 for number in range(400)])
    done = CliRunner().invoke(main, ["check-data", str(good), "--json"])
    assert (done.exit_code, json.loads(done.stdout)["passed"]) == (0, True)
    bad = written(tmp_path / "<bad>.csv", [n + 0.5 if n < 200 else "" for n in range(400)])
    page = tmp_path / "report.html"
    done = CliRunner().invoke(main, ["check-data", str(bad), "--html", str(page)])
    assert done.exit_code == 7
    assert "fail: purchase properties.price is missing in 100% of the second half" in done.stdout
    shown = page.read_text("utf-8")
    assert "&lt;bad&gt;.csv: <span class=fail>failed</span>" in shown
    assert "<script" not in shown
    empty = tmp_path / "empty.ndjson"
    empty.write_text("")
    assert CliRunner().invoke(main, ["check-data", str(empty)]).exit_code != 0


def test_the_latest_events_of_a_shop_are_checked(tmp_path: Path) -> None:
    with Live(Platform.open(small_settings(tmp_path), build)) as live:
        events = [view(n, properties={"price": 2.5} if n < 60 else {}) for n in range(120)]
        live.http.post("/v1/events", json=events)
        live.http.put("/v1/items", json=[{"item_id": "a", "price": 3}])
        # The item is applied behind its answer.
        wait_until(lambda: live.http.get("/v1/data/quality").json()["elements"] == 121)
        told = live.http.get("/v1/data/quality").json()
        assert not told["passed"]
        assert [f["field"] for f in told["findings"] if f["level"] == "fail"] == [
            "properties.price"
        ]
        assert {it["source"] for it in told["sources"]} == {"server"}
        part = live.http.get("/v1/data/quality", params={"latest": 21}).json()
        assert (part["elements"], part["passed"]) == (21, True)
