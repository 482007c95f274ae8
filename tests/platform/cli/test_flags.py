import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from tactful.cli.main import main

FLAGS = """\
public_attributes: [country]
flags:
  购物车:
    default: off
    expires: 2020-01-01
    rules:
      - {when: {country: CH}, serve: on}
      - experiment: {key: cart, arms: [off, on]}
  secret:
    kind: text
    variants: {a: x, b: y}
    default: a
    rules: [{when: {email: {$regex: "@example"}}, serve: b}]
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "flags.yaml"
    path.write_text(FLAGS, encoding="utf-8")
    return path


def run(*arguments: Any) -> Result:
    return CliRunner().invoke(main, ["flags", *map(str, arguments)])


def test_check_lists_flags_and_names_what_is_special(file: Path) -> None:
    result = run("check", file)
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [
        "购物车  boolean  2 rules, experiment cart",
        "secret  text  1 rules",
    ]
    assert "secret: only the server evaluates it: $regex on email" in result.stderr
    assert "购物车: expired on 2020-01-01; remove it" in result.stderr
    rows = json.loads(run("check", file, "--json").stdout)
    assert [row["stale"] for row in rows] == [True, False]


def test_check_names_every_wrong_flag(file: Path) -> None:
    file.write_text("flags:\n  a: {default: red}\n  b: {default: blue}\n")
    result = run("check", file)
    assert result.exit_code == 2
    assert f"{file}:2" in result.stderr and f"{file}:3" in result.stderr


def test_evaluate_says_which_rule_and_draw_decided(file: Path) -> None:
    result = run("evaluate", file, "--attributes", '{"id": "u-7", "country": "CH"}')
    assert result.stdout.splitlines() == [
        "购物车  true  rule-1 applies",
        'secret  "x"  no rule applies',
    ]
    result = run("evaluate", file, "--key", "购物车", "--attributes", '{"id": "u-7"}', "--json")
    (drawn,) = json.loads(result.stdout)
    assert (drawn["experiment"], drawn["rule_id"], drawn["unit"]) == ("cart", "rule-2", "u-7")
    result = run("evaluate", file, "--key", "购物车", "--attributes", '{"country": "FR"}', "--why")
    first, second = result.stdout.splitlines()[1:]
    assert first == '  rule-1: the condition does not hold: country is "CH"'
    assert second.startswith("  rule-2: the unit has no attribute id")
    kept = '{"id||u-7": {"cart__0": 3}}'
    assert "--sticky: expected JSON such as" in run("evaluate", file, "--sticky", kept).stderr
    result = run("evaluate", file, "--key", "secret", "--public")
    assert result.stdout == "secret  null  only the server evaluates it\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--key", "gone"], "there is no flag 'gone'; flags are: 购物车, secret"),
        (["--attributes", "{"], "--attributes: expected JSON"),
        (["--attributes", "[1]"], "--attributes: expected JSON"),
    ],
)
def test_wrong_questions_are_refused(file: Path, arguments: list[str], message: str) -> None:
    result = run("evaluate", file, *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_convert_prints_definitions_and_names_what_it_left_out(tmp_path: Path) -> None:
    path = tmp_path / "features.json"
    features = {
        "new": {"defaultValue": False, "rules": [{"force": True, "condition": {"c": "CH"}}]},
        "old": {"defaultValue": 0, "rules": [{"variations": [0, 1]}]},
    }
    path.write_text(json.dumps({"features": features}))
    result = run("convert", "--from", "growthbook", path)
    assert result.exit_code == 6
    assert "old: left out: rule 1: hash version 1" in result.stderr
    converted = tmp_path / "flags.yaml"
    converted.write_text(result.stdout)
    assert run("check", converted).exit_code == 0
    value = run("evaluate", converted, "--key", "new", "--attributes", '{"c": "CH"}')
    assert value.stdout == "new  true  rule-1 applies\n"
    same = run("evaluate", path, "--key", "new", "--attributes", '{"c": "CH"}')
    assert "new  true" in same.stdout
    assert run("convert", "--from", "unleash", path).exit_code == 2
