"""Experiments are read out person by person, from lists whose time is over."""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner, Result
from tests.platform.shop import BEGIN, DAY, HOUR, write_log

from tactful.cli.main import main
from tactful.experiments.readout import read_out, to_response
from tactful.experiments.tally import ArmOutcomes, PersonOutcome, read_arm_outcomes
from tactful_bandits.assignment.assign import Arm, Experiment
from tactful_streaming.contract.log_entries import Entry, Event

EXPERIMENT = Experiment("ranking", (Arm("heuristic", 0.5), Arm("learned", 0.5)))


def shown(identity: str, person: str | None, arm: str | None, at: int, **changes: Any) -> Event:
    given: dict[str, Any] = {"experiment": "ranking", "arm": arm, "forced": False, **changes}
    return Event(
        event_id=f"impression:{identity}",
        type="impression",
        timestamp=at,
        user_id=person,
        recommendation_id=identity,
        properties={"items": ["i1", "i2"], **given},
    )


def took(identity: str, at: int, item: str = "i1", kind: str = "click") -> Event:
    return Event(
        event_id=f"{identity}-{at}-{item}-{kind}",
        type=kind,
        timestamp=at,
        user_id={"a": "ann", "b": "bob"}.get(identity[0], f"p{identity[1:]}"),
        item_id=item,
        recommendation_id=identity,
    )


def read(path: Path, what: Sequence[Entry]) -> ArmOutcomes:
    span = {"since": BEGIN, "until": BEGIN + DAY, "lasts": 2 * HOUR}
    with contextlib.closing(write_log(path, what)) as log:
        return read_arm_outcomes(log, "ranking", types=("click", "purchase"), **span)


def test_lists_count_by_person_and_what_followed_in_time(tmp_path: Path) -> None:
    what = [
        shown("a1", "ann", "learned", BEGIN),
        took("a1", BEGIN + HOUR),
        took("a1", BEGIN + HOUR, "i2", "purchase"),  # of the same list: it counts once
        shown("a2", "ann", "learned", BEGIN + HOUR),
        took("a2", BEGIN + HOUR - 1),  # before it
        took("a2", BEGIN + 3 * HOUR),  # too late
        took("a2", BEGIN + 2 * HOUR, "i9"),  # not in the list
        took("a2", BEGIN + 2 * HOUR, "i1", "view"),  # not what is asked for
        shown("b1", "bob", "heuristic", BEGIN),
        took("b1", BEGIN),
    ]
    got = read(tmp_path, what)
    assert got.arms == {
        "learned": {"ann": PersonOutcome(2, 1)},
        "heuristic": {"bob": PersonOutcome(1, 1)},
    }
    assert got.crossed == 0


def test_what_was_not_drawn_or_is_not_over_is_left_out(tmp_path: Path) -> None:
    what = [
        shown("f", "a", "learned", BEGIN, forced=True),
        shown("n", None, "learned", BEGIN),
        shown("o", "b", None, BEGIN),
        shown("e", "c", "learned", BEGIN, experiment="another"),
        shown("s", "d", "learned", BEGIN - 1),
        shown("u", "e", "learned", BEGIN + DAY - 2 * HOUR + 1),
        shown("x1", "f", "learned", BEGIN),
        shown("x2", "f", "heuristic", BEGIN + 1),
        shown("k", "g", "learned", BEGIN + DAY - 2 * HOUR),
    ]
    got = read(tmp_path, what)
    assert got.arms == {"learned": {"g": PersonOutcome(1, 0)}}
    assert got.crossed == 1


def outcomes(people: int, rate: float, better: float, *, tilt: float = 0.5) -> ArmOutcomes:
    rng = np.random.default_rng(5)
    arms: dict[str, dict[str, PersonOutcome]] = {"heuristic": {}, "learned": {}}
    for person in range(people):
        arm = "learned" if rng.random() < tilt else "heuristic"
        lists = 1 + int(rng.poisson(4))
        chance = better if arm == "learned" else rate
        arms[arm][f"p{person}"] = PersonOutcome(lists, int(rng.binomial(lists, chance)))
    return ArmOutcomes(arms, 0)


def test_a_difference_is_called_and_equality_is_not() -> None:
    found = read_out(outcomes(4000, 0.2, 0.26), EXPERIMENT)
    compared = found.comparisons["learned", "taken_lists"]
    assert 0.06 in compared.anytime
    assert compared.conclusive
    assert found.sample_ratio is not None
    assert not found.sample_ratio.mismatch
    assert {row["verdict"] for row in to_response(found)["comparisons"]} == {"higher"}
    same = to_response(read_out(outcomes(4000, 0.2, 0.2), EXPERIMENT))
    assert {row["verdict"] for row in same["comparisons"]} == {"inconclusive"}
    assert all(row["adjusted_p"] >= 0.05 for row in same["comparisons"])


def test_verdicts_hold_over_all_comparisons() -> None:
    arms = tuple(Arm(name, 0.1) for name in ("heuristic", *"abcdefghi"))
    people = {
        arm.name: {f"{arm.name}{n}": PersonOutcome(1, int(n < 200)) for n in range(1000)}
        for arm in arms
    }
    people["a"] = {f"a{n}": PersonOutcome(1, int(n < 265)) for n in range(1000)}
    many = read_out(ArmOutcomes(people, 0), Experiment("ranking", arms))
    pair = {name: people[name] for name in ("heuristic", "a")}
    alone = read_out(
        ArmOutcomes(pair, 0), Experiment("ranking", (Arm("heuristic", 0.5), Arm("a", 0.5)))
    )
    key = "a", "takers"
    assert many.comparisons[key] == alone.comparisons[key]
    assert many.comparisons[key].conclusive
    assert alone.verdict(*key) == "higher"
    assert many.verdict(*key) == "inconclusive"
    assert {row["verdict"] for row in to_response(many)["comparisons"]} == {"inconclusive"}


def test_lost_people_are_noticed_and_no_number_of_people_is_told() -> None:
    found = read_out(outcomes(4000, 0.2, 0.2, tilt=0.4), EXPERIMENT)
    told = to_response(found)
    assert told["sample_ratio_mismatch"] is True
    text = json.dumps(told)
    assert not any(str(len(people)) in text for people in outcomes(4000, 0.2, 0.2).arms.values())


def test_nothing_seen_is_nothing_compared() -> None:
    for seen in (
        ArmOutcomes({}, 0),
        ArmOutcomes({"learned": {"a": PersonOutcome(1, 1), "b": PersonOutcome(1, 0)}}, 0),
    ):
        found = read_out(seen, EXPERIMENT)
        assert not found.comparisons
    assert read_out(ArmOutcomes({}, 0), EXPERIMENT).sample_ratio is None


def spending(seed: int, sigma: float = 2.0) -> ArmOutcomes:
    """A tenth of the users gets the heuristic, a tenth of all buys, and a few pay most."""
    rng = np.random.default_rng(seed)
    arms: dict[str, dict[str, PersonOutcome]] = {}
    for arm, people in (("learned", 2_700), ("heuristic", 300)):
        spent = np.where(rng.random(people) < 0.1, rng.lognormal(3, sigma, people), 0.0)
        arms[arm] = {f"{arm}{n}": PersonOutcome(1, 0, money) for n, money in enumerate(spent)}
    return ArmOutcomes(arms, 0)


@pytest.mark.slow
def test_skewed_revenue_of_equal_arms_is_called_as_rarely_as_stated() -> None:
    """The report compared plain means: an arm without a large order looked poorer."""
    experiment = Experiment("ranking", (Arm("heuristic", 0.1), Arm("learned", 0.9)))
    found = [read_out(spending(seed), experiment) for seed in range(100)]
    assert sum(one.verdict("learned", "revenue") != "inconclusive" for one in found) <= 3
    assert all(one.cap is not None and one.cap > 20 for one in found)


def test_the_report_shows_the_cap_of_revenue_to_two_digits() -> None:
    seen = spending(1)
    rows = {row["metric"]: row for row in to_response(read_out(seen, EXPERIMENT))["comparisons"]}
    spent = [one.revenue for arm in seen.arms.values() for one in arm.values() if one.revenue]
    assert rows["revenue"]["cap"] == pytest.approx(np.quantile(spent, 0.9), rel=0.06)
    assert rows["revenue"]["cap"] == float(f"{rows['revenue']['cap']:.2g}")
    assert "cap" not in rows.get("takers", {})
    assert read_out(outcomes(40, 0.2, 0.2), EXPERIMENT).cap is None


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["experiment", *map(str, arguments)])


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No settings of the person who runs the tests."""
    monkeypatch.chdir(tmp_path)


def settle(default: str) -> None:
    lines = ("[consent]", f'default = "{default}"', "[recommend]", 'experiments = "e.yaml"')
    Path("tactful.toml").write_text("\n".join(lines))


def test_the_command_reads_the_log_and_respects_consent(tmp_path: Path) -> None:
    at = time.time_ns() // 1_000_000 - 3 * DAY
    what: list[Entry] = []
    for number in range(400):
        arm, identity = ("learned", "heuristic")[number % 2], f"r{number}"
        what.append(shown(identity, f"p{number}", arm, at))
        if number % 2 == 0 or number % 10 == 1:
            what.append(took(identity, at + HOUR))
    settle("assume")
    Path("e.yaml").write_text("[{key: ranking, arms: [{name: heuristic}, {name: learned}]}]")
    write_log(tmp_path / "data" / "log", what).close()
    result = run("report", "--data", "data", "--json")
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout)
    assert told["sample_ratio_mismatch"] is False
    assert {row["verdict"] for row in told["comparisons"]} == {"higher"}
    words = run("report", "--data", "data").stdout
    assert "learned minus heuristic, share of people who took something" in words
    denied = run("report", "--data", "data", "--key", "other")
    assert denied.exit_code != 0
    settle("deny")
    nobody = run("report", "--data", "data")
    assert "nothing to compare yet" in nobody.stdout, nobody.output


def test_a_missing_log_and_wrong_files_are_told(tmp_path: Path) -> None:
    missing = run("report", "--data", "nowhere")
    assert missing.exit_code != 0
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("- key: a\n  arms: [{name: b}]\n")
    result = run("check", wrong)
    assert result.exit_code != 0
    right = tmp_path / "right.yaml"
    right.write_text("- key: a\n  arms: [{name: b}, {name: c}]\n  coverage: 0.2\n")
    assert run("check", right).stdout == "a  running  20.00% of all: b 50.00%, c 50.00%\n"
    assert json.loads(run("check", right, "--json").stdout)[0]["shares"] == {"b": 0.5, "c": 0.5}


def test_a_plan_tells_people_and_days() -> None:
    asked = ["--rate", 0.12, "--change", 0.1, "--people-per-day", 5000, "--looks", "one"]
    told = json.loads(run("plan", *asked, "--json").stdout)
    assert told == {"people": 23024, "days": 7}
    assert "people in both arms" in run("plan", "--rate", 0.12, "--change", 0.1).stdout
    assert run("plan", "--rate", 0.12, "--change", 0).exit_code != 0
