"""The mutation benchmark on a package of one module."""

import time
from pathlib import Path

import pytest

from benchmarks.mutation.mutants import places, sample
from benchmarks.mutation.run import Sandbox, Target, Verdict, figures, judge, read_reasons

_MODULE = """
from functools import lru_cache


def is_adult(age: int | None = 0) -> bool:
    return age >= 18


@lru_cache
def twice(number):
    return number * 2


def never(number):
    return -number
"""

_TESTS = """
import pytest

from toy.calc import is_adult, twice


@pytest.fixture(scope="session")
def doubled():
    return twice(2)


def test_age():
    assert is_adult(18) and not is_adult(17)


def test_twice(doubled):
    assert twice(1) != 1


def test_doubled(doubled):
    assert doubled == 4


def test_cached():
    assert twice(1) == 2
"""


@pytest.fixture
def toy(tmp_path: Path) -> Target:
    package = tmp_path / "source" / "toy"
    tests = tmp_path / "tests"
    package.mkdir(parents=True)
    tests.mkdir()
    (package / "__init__.py").write_text("")
    (package / "calc.py").write_text(_MODULE)
    (tests / "test_calc.py").write_text(_TESTS)
    (tmp_path / "pytest.ini").write_text("[pytest]\n")
    return Target("toy", package, [tests], root=tmp_path)


def _ids(target: Target) -> list[str]:
    return [mutant.id for mutant in sample(places(target.package / "calc.py", "toy.calc"), 99, 1)]


def test_places(toy: Target) -> None:
    """Annotations are no places; each place has a line, a function and a number."""
    in_module = places(toy.package / "calc.py", "toy.calc")
    result = [(place.function, place.text, place.number) for place in in_module]
    assert result == [
        ("is_adult", "def is_adult(age: int | None = 0) -> bool:", 1),
        ("is_adult", "return age >= 18", 1),
        ("is_adult", "return age >= 18", 2),
        ("twice", "return number * 2", 1),
        ("twice", "return number * 2", 2),
        ("never", "return -number", 1),
    ]


def test_sample_is_stable(toy: Target) -> None:
    """A line added elsewhere changes no other mutant of the sample."""
    before = _ids(toy)
    module = toy.package / "calc.py"
    module.write_text("LIMIT = None\n" + _MODULE)
    assert _ids(toy) == before
    all_places = places(module, "toy.calc")
    assert [mutant.id for mutant in sample(all_places, 2, 1)] == before[:2]


def test_exceptions_of_modules(toy: Target) -> None:
    module = toy.package / "calc.py"
    module.write_text("try:\n    pass\nexcept (OSError, re.error):\n    pass\n")
    texts = [mutant.id for mutant in sample(places(module, "toy.calc"), 99, 1)]
    assert any("ExceptionReplacer:except (OSError, re.error)" in text for text in texts)


@pytest.mark.slow
def test_judge(
    toy: Target,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Mutants are killed, survive or have no test; a second run repeats no first result."""
    state = tmp_path / "state"
    off = "def test_off():\n    assert twice(1) == 3\n"  # fails without a mutation: kills nothing
    tests = toy.tests[0] / "test_calc.py"
    tests.write_text(_TESTS.replace("def test_age", f"{off}\n\ndef test_age"))
    forever = time.monotonic() + 3600
    left_out = {id: "no caller" for id in _ids(toy) if ":never:" in id}
    assert len(left_out) == 1
    former = "toy.calc:never:AddNot:if number:#1"
    verdicts, left = judge(toy, 99, state, {**left_out, former: "gone"}, forever)
    assert f"no such place any more: {former}" in capsys.readouterr().err
    outcomes = {verdict.id: verdict.outcome for verdict in verdicts}
    assert left == 0 and not any("test_off" in verdict.test for verdict in verdicts)
    assert len(outcomes) == 5 and not left_out.keys() & outcomes.keys()
    by_line: dict[str, set[str]] = {}
    for id, outcome in outcomes.items():
        by_line.setdefault(id.split(":")[1], set()).add(outcome)
    assert by_line["twice"] == {"killed"}
    assert "survived" in by_line["is_adult"], "no test uses the default of the age"
    assert "killed" in by_line["is_adult"]

    def fail(*_: object) -> None:
        raise AssertionError("judged twice")

    monkeypatch.setattr(Sandbox, "judge", fail)
    monkeypatch.setattr(Sandbox, "record", fail)
    assert judge(toy, 99, state, left_out, forever) == (verdicts, 0)
    lines = (state / "results.jsonl").read_text().splitlines(keepends=True)
    (state / "results.jsonl").write_text("".join(lines[:2]))
    assert judge(toy, 99, state, left_out, time.monotonic()) == (verdicts[:2], 3)
    assert (toy.package / "calc.py").read_text() == _MODULE


@pytest.mark.slow
def test_shared_lines(toy: Target, tmp_path: Path) -> None:
    """A cached function and a shared fixture count for every test that uses them."""
    record = Sandbox(toy, tmp_path / "sandbox").record(toy.tests[0] / "test_calc.py")
    number = str(_MODULE.splitlines().index("    return number * 2") + 1)
    tests = {test.partition("::")[2] for test in record["lines"]["calc.py"][number]}
    assert tests == {"test_twice", "test_doubled", "test_cached"}


def test_figures() -> None:
    kinds = ["killed", "time-out", "survived", "untested"]
    verdicts = [Verdict(str(number), "", kind, 1.0, "") for number, kind in enumerate(kinds)]
    result = {figure.name: figure for figure in figures({"a": (verdicts, 2), "b": ([], 3)})}
    assert result["mutants"].value == 4
    assert result["mutants"].note == "5 more are left for another run"
    assert result["mutants_killed_share"].value == result["mutants_killed_share_a"].value == 0.5
    assert result["mutants_killed_share_b"].value is None


def test_equivalent_needs_reason(tmp_path: Path) -> None:
    path = tmp_path / "survivors.toml"
    path.write_text('[[equivalent]]\nid = "a:b:c:d#1"\n')
    with pytest.raises(ValueError, match="has no reason"):
        read_reasons(path, "equivalent")
