"""The benchmark harness: what it writes, and what it refuses to write."""

import json
import math
from itertools import accumulate
from pathlib import Path

import pytest

from benchmarks.figures import (
    Figure,
    Part,
    Timing,
    environment,
    interleave,
    main,
    measure,
    share_figure,
    table,
    write,
)


def test_file_has_the_agreed_shape(tmp_path: Path) -> None:
    path = tmp_path / "reports" / "figures.json"
    write("pipeline", [Figure("setup_cold_s", 94.0, "s", 90.0, 99.0, 3, "two cores")], path)
    record = json.loads(path.read_text(encoding="utf-8"))
    assert list(record) == ["benchmark", "commit", "environment", "figures"]
    assert record["benchmark"] == "pipeline"
    (figure,) = record["figures"]
    assert list(figure) == ["name", "value", "unit", "low", "high", "runs", "note"]
    assert list(figure.values()) == ["setup_cold_s", 94.0, "s", 90.0, 99.0, 3, "two cores"]
    write("serving", [Figure("worker_private_mb", None, "MB", note="no /proc here")], path)
    (figure,) = json.loads(path.read_text(encoding="utf-8"))["figures"]
    assert (figure["value"], figure["note"]) == (None, "no /proc here")


def test_a_share_has_the_interval_of_wilson() -> None:
    """For 81 of 263 it is published: .2553 to .3662 (Newcombe, 1998, method 3)."""
    figure = share_figure("share", 81, 263, "")
    assert (figure.low, figure.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    none = share_figure("share", 0, 20, "")
    assert (none.value, none.low) == (0, 0)
    assert none.high == pytest.approx(0.1611, abs=5e-5)
    assert share_figure("share", 20, 20, "").high == 1


def test_environment_names_machine_and_versions() -> None:
    record = environment()
    assert record["cores"] >= 1
    assert record["memory_gb"] > 0
    assert len(record["load_average"]) == 3
    assert record["libraries"]["numpy"].count(".") == 2
    json.dumps(record, allow_nan=False)


def test_contradictions_are_refused(tmp_path: Path) -> None:
    for value, low, high, note in (
        (None, None, None, ""),
        (math.nan, None, None, "not a number"),
        (1.0, None, math.inf, "unbounded"),
        (3.0, 1.0, 2.0, "outside its interval"),
        (1.0, 2.0, None, "below its low end"),
        (None, 2.0, 1.0, "ends exchanged"),
    ):
        with pytest.raises(ValueError, match="figure broken"):
            Figure("broken", value, "s", low, high, note=note)
    with pytest.raises(ValueError, match="given twice: freshness"):
        write("pipeline", [Figure("freshness", 1.0, "ms")] * 2, tmp_path / "figures.json")
    assert not list(tmp_path.iterdir())


def test_table_aligns_and_keeps_every_figure() -> None:
    lines = table(
        [
            Figure("ingest_events_per_s", 123456.0, "events/s", runs=5),
            Figure("delta_max", 1.25e-19, "1", note="exact"),
            Figure("absent", None, "s", note="no peer"),
        ]
    ).splitlines()
    names = [line.split()[0] for line in lines]
    assert names == ["figure", "ingest_events_per_s", "delta_max", "absent"]
    assert "123,456" in lines[1]
    assert "1.25e-19" in lines[2]
    start = lines[0].index("unit")
    assert [line[start:].split()[0] for line in lines[1:]] == ["events/s", "1", "s"]


def test_rounds_are_interleaved_and_each_starts_with_another() -> None:
    calls: list[str] = []
    ticks = accumulate([0.0] + [1.0, 0.0] * 6)
    both = {"a": lambda: calls.append("a"), "b": lambda: calls.append("b")}
    timings = interleave(both, rounds=3, clock=lambda: next(ticks))
    assert "".join(calls) == "ab" + "ab" + "ba" + "ab"
    assert timings == {"a": Timing((1.0,) * 3), "b": Timing((1.0,) * 3)}
    with pytest.raises(ValueError, match="rounds"):
        interleave({"a": lambda: None}, rounds=0)


def test_ratio_pairs_the_rounds() -> None:
    # The second round ran on a machine twice as slow: every ratio is still 3.
    ratio = Timing((1.0, 2.0, 1.0)).ratio(Timing((3.0, 6.0, 3.0)))
    assert (ratio.low, ratio.median, ratio.high) == (3.0, 3.0, 3.0)
    with pytest.raises(ValueError, match="shorter"):
        Timing((1.0, 2.0)).ratio(Timing((1.0,)))


def test_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(quick: bool) -> list[Figure]:
        return [Figure("was_quick", float(quick), "1")]

    path = tmp_path / "figures.json"
    main("toy", run, ["--quick", "--json", str(path)])
    assert "was_quick" in capsys.readouterr().out
    assert json.loads(path.read_text(encoding="utf-8"))["figures"][0]["value"] == 1.0
    with pytest.raises(SystemExit):
        main("toy", run, ["--slow"])


def test_a_part_that_fails_costs_no_other_part_its_figures() -> None:
    def broken() -> list[Figure]:
        raise RuntimeError("no peer here")

    parts = [
        Part("first", [("a", "1"), ("b", "ms")], broken),
        Part("second", [("c", "1")], lambda: [Figure("c", 2.0, "1")]),
    ]
    a, b, c = measure(parts)
    assert (a.name, a.value, b.unit, c.value) == ("a", None, "ms", 2.0)
    assert "no peer here" in a.note
    assert measure(parts, "second") == [c]
    with pytest.raises(ValueError, match="first, second"):
        measure(parts, "third")


def test_only_a_part_measures_those_that_begin_with_it() -> None:
    """`--only kills` measures `kills` and `kills-apache`, and `--only kills-apache` that alone."""
    parts = [
        Part(name, [], lambda name=name: [Figure(name, 1.0, "1")])  # type: ignore[misc]
        for name in ("kills", "kills-apache", "killing")
    ]
    assert [figure.name for figure in measure(parts, "kills")] == ["kills", "kills-apache"]
    assert [figure.name for figure in measure(parts, "kills-apache")] == ["kills-apache"]


def test_one_part_of_a_benchmark_from_the_command_line() -> None:
    asked: list[str | None] = []

    def run(quick: bool, only: str | None) -> list[Figure]:
        asked.append(only)
        return []

    for options in (["--only", "one"], []):
        main("toy", run, options, parts=["one", "two"])
    assert asked == ["one", None]
    with pytest.raises(SystemExit):
        main("toy", run, ["--only", "three"], parts=["one", "two"])
