"""Submission over REST and by ``tactful flink``, against servers that answer as Flink documents it.

The cluster's calls also run against a real one (``test_flink_cluster.py``). A SQL Gateway is in no
package that the tests can have: that it answers like this is taken from Flink's documentation.
"""

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from tests.streaming.flink_rest import JOB, Answer, Fake, Recorded, cluster_with

from tactful.cli.main import main
from tactful_streaming.errors import FlinkError
from tactful_streaming.flink.options import FlinkScript
from tactful_streaming.flink.rest_client import FlinkCluster, SqlGateway


@pytest.fixture
def cluster(fake: Fake) -> Iterator[FlinkCluster]:
    with FlinkCluster(fake.url + "/") as opened:
        yield opened


@pytest.fixture
def gateway(fake: Fake) -> Iterator[SqlGateway]:
    fake.answers = {
        "POST /v1/sessions": (200, {"sessionHandle": "s1"}),
        "DELETE /v1/sessions/s1": (200, {"status": "CLOSED"}),
        "POST /v1/sessions/s1/statements": (200, {"operationHandle": "o1"}),
        "GET /v1/sessions/s1/operations/o1/status": [
            (200, {"status": "PENDING"}),
            (200, {"status": "RUNNING"}),
            (200, {"status": "FINISHED"}),
        ],
        "GET /v1/sessions/s1/operations/o1/result/0": [
            (200, {"resultType": "PAYLOAD", "resultKind": "SUCCESS"}),
            (200, {"resultType": "PAYLOAD", "jobID": "j1"}),
        ],
    }
    with SqlGateway(fake.url) as opened:
        yield opened


SCRIPT = FlinkScript(("SET 'a' = 'b'", "EXECUTE STATEMENT SET BEGIN INSERT INTO x SELECT 1; END"))


def test_a_jar_is_uploaded_and_runs_the_script(
    fake: Fake, cluster: FlinkCluster, tmp_path: Path
) -> None:
    fake.answers = {
        "GET /config": (200, {"flink-version": "2.0.2"}),
        "POST /jars/upload": (200, {"filename": "/tmp/flink-web/1_runner.jar"}),
        "POST /jars/1_runner.jar/run": (200, {"jobid": "j"}),
        "GET /jobs/j": [(200, {"state": s}) for s in ("CREATED", "RUNNING", "FINISHED")],
        "PATCH /jobs/j.mode=cancel": (202, {}),
    }
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    assert cluster.version() == "2.0.2"
    assert cluster.upload(jar) == "1_runner.jar"
    assert cluster.run("1_runner.jar", "SELECT 'é'", parallelism=3, savepoint="/sp") == "j"
    body = json.loads(fake.asked[-1][2])
    assert base64.b64decode(body["programArgsList"][1]).decode() == "SELECT 'é'"
    assert (body["parallelism"], body["savepointPath"]) == (3, "/sp")
    states: list[str] = []
    assert cluster.wait("j", timeout=30, on_state=states.append) == "FINISHED"
    assert states == ["CREATED", "RUNNING", "FINISHED"]
    cluster.cancel("j")


def test_a_failed_job_reports_its_last_cause(fake: Fake, cluster: FlinkCluster) -> None:
    trace = "JobException: no\n\tat a.b(C.java:1)\nCaused by: IOException: no topic 'events'\n"
    entries = [{"stacktrace": trace}]
    fake.answers = {
        "GET /jobs/j": (200, {"state": "FAILED"}),
        "GET /jobs/j/exceptions": (200, {"exceptionHistory": {"entries": entries}}),
    }
    with pytest.raises(FlinkError, match="job j failed: Caused by: IOException: no topic"):
        cluster.wait("j")


def test_a_savepoint_is_waited_for(fake: Fake, cluster: FlinkCluster) -> None:
    done = {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/sp"}}
    fake.answers = {
        "POST /jobs/j/stop": (202, {"request-id": "r"}),
        "GET /jobs/j/savepoints/r": [(200, {"status": {"id": "IN_PROGRESS"}, "operation": None}),
                                     (200, done)],
    }  # fmt: skip
    assert cluster.stop("j", "/folder") == "file:/sp"
    assert json.loads(fake.asked[0][2]) == {"targetDirectory": "/folder"}
    cause = {"failure-cause": {"stack-trace": "IOException: disk full\n\tat x"}}
    fake.answers["GET /jobs/j/savepoints/r"] = (200, {"operation": cause})
    with pytest.raises(FlinkError, match="disk full"):
        cluster.stop("j")


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        ((500, {"errors": ["Internal", "E: x\n\tat y\nCaused by: SqlParserException: no"]}),
         "500: Caused by: SqlParserException: no"),
        ((404, {}), "404: no reason given"),
        ((200, b"<html>"), "is this Flink"),
        ((200, []), "no reason given"),
    ],
)  # fmt: skip
def test_errors_of_the_server_are_raised(
    fake: Fake, cluster: FlinkCluster, answer: Answer, message: str
) -> None:
    fake.answers = {"GET /jobs/j": answer}
    with pytest.raises(FlinkError, match=re.escape(message)):
        cluster.state("j")


def test_an_unreachable_server_is_named() -> None:
    with (
        FlinkCluster("http://127.0.0.1:9") as nobody,
        pytest.raises(FlinkError, match=r"127\.0\.0\.1:9 does not answer"),
    ):
        nobody.version()


def test_a_gateway_gets_the_statements_one_by_one(fake: Fake, gateway: SqlGateway) -> None:
    calls: list[tuple[int, int]] = []
    job = gateway.run(
        SCRIPT, jar="/opt/our's.jar", on_progress=lambda *progress: calls.append(progress)
    )
    assert job == "j1"
    sent = [json.loads(body)["statement"] for _, path, body in fake.asked if "statements" in path]
    assert sent == ["ADD JAR '/opt/our''s.jar'", *SCRIPT.statements]
    assert calls == [(1, 3), (2, 3), (3, 3)]
    assert fake.asked[-1][:2] == ("DELETE", "/v1/sessions/s1")


def test_a_gateway_that_refuses_a_statement_is_left_clean(fake: Fake, gateway: SqlGateway) -> None:
    fake.answers["GET /v1/sessions/s1/operations/o1/status"] = (200, {"status": "ERROR"})
    refusal = {"errors": ["Internal", "X: y\nCaused by: ValidationException: no table 'x'"]}
    fake.answers["GET /v1/sessions/s1/operations/o1/result/0"] = (500, refusal)
    with pytest.raises(FlinkError, match=r"refused \"SET 'a' = 'b'\".*no table 'x'"):
        gateway.run(SCRIPT)
    assert fake.asked[-1][:2] == ("DELETE", "/v1/sessions/s1")


def test_a_statement_that_never_ends_times_out(fake: Fake, gateway: SqlGateway) -> None:
    fake.answers["GET /v1/sessions/s1/operations/o1/status"] = (200, {"status": "RUNNING"})
    with pytest.raises(FlinkError, match="no end of a statement"):
        gateway.run(SCRIPT, timeout=0.2)


def test_a_gateway_that_starts_no_job_is_an_error(fake: Fake, gateway: SqlGateway) -> None:
    fake.answers["GET /v1/sessions/s1/operations/o1/result/0"] = (200, {"resultType": "EOS"})
    with pytest.raises(FlinkError, match="started no job"):
        gateway.run(SCRIPT)


FEATURES = "- {name: f, entity: user, event: view, aggregate: count, window: {size: 1m}}\n"


@pytest.fixture
def features(tmp_path: Path) -> Path:
    file = tmp_path / "features.yaml"
    file.write_text(FEATURES)
    return file


def flink(command: str, file: Path, *options: str) -> Result:
    # Through the real entry point, so that errors become exit codes.
    return CliRunner().invoke(main, ["flink", command, str(file), "--kafka", "k:9092", *options])


def test_compile_prints_a_script(features: Path, tmp_path: Path) -> None:
    printed = flink("compile", features, "--delay", "2s", "--kafka-property", "a.b=c=d")
    assert printed.exit_code == 0
    assert "INTERVAL '0 00:05:02.001'" in printed.stdout  # the lateness is five minutes
    assert "note: f: a window is written once, 302s of event time after its end" in printed.stderr
    assert "note:" not in printed.stdout
    assert "'properties.a.b' = 'c=d'" in printed.stdout
    out = tmp_path / "job.sql"
    written = flink("compile", features, "--delay", "2s", "--kafka-property", "a.b=c=d",
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
    result = flink("compile", features)
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
    assert flink("submit", features, *options).exit_code == 2


def test_submit_to_a_cluster(features: Path, tmp_path: Path, fake: Fake) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    fake.answers = cluster_with() | {
        "POST /jars/upload": (200, {"filename": "/x/runner.jar"}),
        "POST /jars/runner.jar/run": (200, {"jobid": "j"}),
        "GET /jobs/j": [(200, {"state": s}) for s in ("RUNNING", "FINISHED")],
    }
    result = flink("submit", features, "--cluster", fake.url, "--jar", str(jar), "--wait", "--json")
    assert result.exit_code == 0
    printed = json.loads(result.stdout)
    notes = printed.pop("notes")
    assert printed == {"job": "j", "state": "FINISHED", "restored": None}
    assert [note["definitions"] for note in notes] == [["f"]] * 3
    assert notes[0]["note"].startswith("a window is written once") and "note:" not in result.stderr
    again = flink("submit", features, "--cluster", fake.url, "--jar", str(jar))
    assert (again.exit_code, again.stdout) == (0, "j\n")
    assert "it begins without state, at the beginning of the log" in again.stderr
    assert again.stderr.count("note: f: ") == 3


def test_a_second_submit_is_code_4(features: Path, tmp_path: Path, fake: Fake) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    fake.answers = cluster_with(Recorded()) | {
        "POST /jars/upload": (200, {"filename": "/x/runner.jar"})
    }
    result = flink("submit", features, "--cluster", fake.url, "--jar", str(jar))
    assert result.exit_code == 4
    assert "job tactful is RUNNING on this cluster already" in result.stderr
    other = flink("upgrade", features, "--cluster", fake.url, "--jar", str(jar), "--name", "other")
    assert other.exit_code == 4
    assert "0 jobs other run" in other.stderr


def test_an_upgrade_prints_the_new_job(features: Path, tmp_path: Path, fake: Fake) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    done = {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/sp"}}
    fake.answers = cluster_with(Recorded()) | {
        "POST /jars/upload": (200, {"filename": "/x/runner.jar"}),
        f"POST /jobs/{JOB}/stop": (202, {"request-id": "r"}),
        f"GET /jobs/{JOB}/savepoints/r": (200, done),
        f"GET /jobs/{JOB}": (200, {"state": "FINISHED"}),
        "POST /jars/runner.jar/run": (200, {"jobid": "j"}),
        "GET /jobs/j": (200, {"state": "RUNNING", "vertices": [{"status": "RUNNING"}]}),
    }
    options = ("--cluster", fake.url, "--jar", str(jar), "--savepoint-dir", "/sp", "--from-start")
    result = flink("upgrade", features, *options, "--json")
    assert result.exit_code == 0, result.stderr
    shown = json.loads(result.stdout)
    assert [note["definitions"] for note in shown.pop("notes")] == [["f"]] * 3
    assert shown == {"job": "j", "state": "RUNNING", "restored": None}
    printed = flink("upgrade", features, *options)
    assert printed.stdout == "j\n"
    assert "its state is in file:/sp" in printed.stderr


def jobs(command: str, *options: str) -> Result:
    return CliRunner().invoke(main, ["flink", command, *options])


def test_status_shows_the_health(fake: Fake) -> None:
    fake.answers = cluster_with(Recorded(restarts=1, failures=(900.0,)))
    well = jobs("status", "--cluster", fake.url)
    assert well.exit_code == 0
    assert well.stdout.splitlines() == [
        f"job               {JOB}",
        "state             RUNNING, for 3600 s",
        "restarts          1",
        "last failure      Caused by: IOException: no broker",
        f"last checkpoint   1 s ago: file:/checkpoints/{JOB}/chk-14",
        "failed since then 0",
        "records not read  7",
        "it is well",
    ]
    shown = json.loads(jobs("status", "--cluster", fake.url, "--json").stdout)
    assert (shown["job"], shown["state"], shown["problem"], shown["lag"]) == (
        JOB,
        "RUNNING",
        None,
        7,
    )
    absent = jobs("status", "--cluster", fake.url, "--name", "other")
    assert absent.exit_code == 7
    assert absent.stdout.startswith("no job other on the cluster")
    assert jobs("status", "--cluster", "http://127.0.0.1:9").exit_code == 3


def test_stop_prints_the_savepoint(fake: Fake) -> None:
    done = {"status": {"id": "COMPLETED"}, "operation": {"location": "file:/sp"}}
    twin = Recorded(id="cd" * 16, started=9.0)
    fake.answers = cluster_with(Recorded(), twin) | {
        f"POST /jobs/{JOB}/stop": (202, {"request-id": "r"}),
        f"GET /jobs/{JOB}/savepoints/r": (200, done),
        f"GET /jobs/{JOB}": (200, {"state": "FINISHED"}),
        rf"PATCH /jobs/{twin.id}\?mode=cancel": (202, {}),
        f"GET /jobs/{twin.id}": (200, {"state": "CANCELED"}),
    }
    unclear = jobs("stop", "--cluster", fake.url, "--savepoint-dir", "/sp")
    assert unclear.exit_code == 4
    assert "2 jobs tactful run" in unclear.stderr and "--job" in unclear.stderr
    stopped = jobs("stop", "--cluster", fake.url, "--savepoint-dir", "/sp", "--job", JOB)
    assert (stopped.exit_code, stopped.stdout) == (0, "file:/sp\n")
    ended = jobs("stop", "--cluster", fake.url, "--now", "--job", twin.id, "--json")
    assert json.loads(ended.stdout) == {"job": twin.id, "savepoint": None}
    fake.answers = cluster_with()
    assert jobs("stop", "--cluster", fake.url).exit_code == 4


def test_submit_to_a_gateway(features: Path, fake: Fake) -> None:
    fake.answers = {
        "POST /v1/sessions": (200, {"sessionHandle": "s"}),
        "DELETE /v1/sessions/s": (200, {}),
        "POST /v1/sessions/s/statements": (200, {"operationHandle": "o"}),
        "GET /v1/sessions/s/operations/o/status": (200, {"status": "FINISHED"}),
        "GET /v1/sessions/s/operations/o/result/0": (200, {"jobID": "j"}),
    }
    result = flink("submit", features, "--gateway", fake.url)
    assert (result.exit_code, result.stdout) == (0, "j\n")


def test_a_missing_cluster_is_code_3(features: Path, tmp_path: Path) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    result = flink("submit", features, "--cluster", "http://127.0.0.1:9", "--jar", str(jar))
    assert result.exit_code == 3
    assert "127.0.0.1:9 does not answer" in result.stderr


def test_a_cluster_that_refuses_is_code_4(features: Path, tmp_path: Path, fake: Fake) -> None:
    jar = tmp_path / "runner.jar"
    jar.write_bytes(b"PK")
    fake.answers = {
        "GET /config": (200, {"flink-version": "2.0.2"}),
        "POST /jars/upload": (400, {"errors": ["no room for jars"]}),
    }
    result = flink("submit", features, "--cluster", fake.url, "--jar", str(jar))
    assert result.exit_code == 4
    assert "no room for jars" in result.stderr


def test_without_flink_there_is_no_jar(features: Path, tmp_path: Path) -> None:
    result = flink("submit", features, "--cluster", "http://127.0.0.1:9",
                 "--flink-home", str(tmp_path / "none"))  # fmt: skip
    assert result.exit_code == 1
    assert "scripts/flink fetch" in result.stderr
