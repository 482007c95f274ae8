"""``tactful flink``: what is printed, and the exit codes."""

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.streaming.flink.test_rest_client import Fake, fake

from tactful.cli.main import main

__all__ = ["fake"]  # the fixture

FEATURES = "- {name: f, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    file = tmp_path / "features.yaml"
    file.write_text(FEATURES)
    return file


def run(command: str, file: Path, *options: str) -> Result:
    # Through the real entry point, so that errors become exit codes.
    return CliRunner().invoke(main, ["flink", command, str(file), "--kafka", "k:9092", *options])


def test_compile_prints_a_script(features: Path, tmp_path: Path) -> None:
    printed = run("compile", features, "--delay", "2s", "--kafka-property", "a.b=c=d")
    assert printed.exit_code == 0
    assert "INTERVAL '0 00:00:02.001'" in printed.stdout
    assert "'properties.a.b' = 'c=d'" in printed.stdout
    out = tmp_path / "job.sql"
    written = run("compile", features, "--delay", "2s", "--kafka-property", "a.b=c=d",
                  "--out", str(out))  # fmt: skip
    assert written.exit_code == 0 and out.read_text() == printed.stdout


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {name: f}", "features.yaml:1: entity is missing"),
        ("\n- {name: f, entity: user, event: view, aggregate: count, window: {half_life: 1d}}",
         "features.yaml:2: f: cannot be compiled to Flink SQL"),
    ],
)  # fmt: skip
def test_wrong_definitions_are_code_2(features: Path, text: str, message: str) -> None:
    features.write_text(text)
    result = run("compile", features)
    assert result.exit_code == 2
    assert message in result.stderr


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--cluster", "http://a", "--gateway", "http://b"),
        ("--gateway", "http://b", "--wait"),
        ("--cluster", "http://a", "--delay", "soon"),
        ("--cluster", "http://a", "--delay", "²s"),
        ("--cluster", "http://a", "--kafka-property", "x"),
    ],
)
def test_wrong_usage_is_code_2(features: Path, options: tuple[str, ...]) -> None:
    assert run("submit", features, *options).exit_code == 2


def test_submit_to_a_cluster(features: Path, tmp_path: Path, fake: Fake) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    fake.answers = {
        "GET /config": (200, {"flink-version": "2.0.2"}),
        "POST /jars/upload": (200, {"filename": "/x/runner.jar"}),
        "POST /jars/runner.jar/run": (200, {"jobid": "j"}),
        "GET /jobs/j": [(200, {"state": s}) for s in ("RUNNING", "FINISHED")],
    }
    result = run("submit", features, "--cluster", fake.url, "--jar", str(jar), "--wait", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == {"job": "j", "state": "FINISHED"}


def test_submit_to_a_gateway(features: Path, fake: Fake) -> None:
    fake.answers = {
        "POST /v1/sessions": (200, {"sessionHandle": "s"}),
        "DELETE /v1/sessions/s": (200, {}),
        "POST /v1/sessions/s/statements": (200, {"operationHandle": "o"}),
        "GET /v1/sessions/s/operations/o/status": (200, {"status": "FINISHED"}),
        "GET /v1/sessions/s/operations/o/result/0": (200, {"jobID": "j"}),
    }
    result = run("submit", features, "--gateway", fake.url)
    assert (result.exit_code, result.stdout) == (0, "j\n")


def test_a_missing_cluster_is_code_1(features: Path, tmp_path: Path) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    result = run("submit", features, "--cluster", "http://127.0.0.1:9", "--jar", str(jar))
    assert result.exit_code == 1
    assert "127.0.0.1:9 does not answer" in result.stderr


def test_without_flink_there_is_no_jar(features: Path, tmp_path: Path) -> None:
    result = run("submit", features, "--cluster", "http://127.0.0.1:9",
                 "--flink-home", str(tmp_path / "none"))  # fmt: skip
    assert result.exit_code == 1
    assert "scripts/flink fetch" in result.stderr
