"""Submission, retained state and upgrades, against a server that answers as Flink."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.streaming.flink_cluster import job_options
from tests.streaming.flink_rest import Fake, Recorded, cluster_with

from tactful_streaming.definitions.reader import load_definitions
from tactful_streaming.errors import FlinkRefusedError
from tactful_streaming.flink.compiler import compile_flink
from tactful_streaming.flink.entities import compile_entities
from tactful_streaming.flink.rest_client import FlinkCluster
from tactful_streaming.flink.retained_state import (
    fingerprint,
    is_of,
    local_path,
    make_job_id,
    retained_states,
)
from tactful_streaming.flink.submission import (
    PlanChange,
    Program,
    compare_plans,
    described,
    stop_job,
    submit_job,
    upgrade_job,
)

COUNT = "- {name: n, entity: user, event: view, aggregate: count, window: {size: %s}}\n"
OPTIONS = job_options("k:9092", "log", "features", "matches")
SCRIPT = compile_flink(load_definitions(COUNT % "2m"), OPTIONS)
OTHER = compile_flink(load_definitions(COUNT % "3m"), OPTIONS)
PROGRAM = Program("tactful", SCRIPT, parallelism=2)
NEW = make_job_id("tactful", fingerprint(SCRIPT), 2_000)


@pytest.fixture
def cluster(fake: Fake) -> Iterator[FlinkCluster]:
    with FlinkCluster(fake.url) as opened:
        yield opened


def old_job(started_s: int = 1_000, *, name: str = "tactful", script: Any = SCRIPT) -> str:
    return make_job_id(name, fingerprint(script), started_s)


def run_answers(job: str = NEW) -> dict[str, Any]:
    detail = {"state": "RUNNING", "vertices": [{"status": "RUNNING"}]}
    return {
        "POST /jars/jar/run": (200, {"jobid": job}),
        f"GET /jobs/{job}": (200, detail),
        f"GET /jobs/{job}/exceptions": (200, {"exceptionHistory": {"entries": []}}),
    }


def sent(fake: Fake) -> dict[str, Any]:
    """The request that started a job."""
    (body,) = [body for _, path, body in fake.asked if path == "/jars/jar/run"]
    found: dict[str, Any] = json.loads(body)
    return found


def clock() -> float:
    return 2_000.9


def test_an_id_contains_name_definitions_and_time() -> None:
    job = make_job_id("tactful", fingerprint(SCRIPT), 1_700_000_000)
    assert len(job) == 32 and int(job, 16) >= 0
    assert is_of(job, "tactful", fingerprint(SCRIPT))
    assert not is_of(job, "other", fingerprint(SCRIPT))
    assert not is_of(job, "tactful", fingerprint(OTHER))
    assert not is_of("ab" * 16, "tactful", fingerprint(SCRIPT))


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"servers": "other:9092"}, True),
        ({"checkpoint_ms": 99}, True),
        ({"parallelism": 7}, True),
        ({"kafka": {"security.protocol": "SSL"}}, True),
        ({"job": "other"}, True),
        ({"topic": "other"}, False),
        ({"dedupe_days": 3}, True),  # only the time to live of the same state
        ({"dedupe_days": 0}, False),
        ({"watermark_delay_ms": 9}, False),
        ({"allowed_lateness_ms": 9}, False),
        ({"features_topic": "other"}, False),
    ],
)
def test_the_fingerprint_is_of_what_decides_state(change: dict[str, Any], same: bool) -> None:
    script = compile_flink(load_definitions(COUNT % "2m"), replace(OPTIONS, **change))
    assert (fingerprint(script) == fingerprint(SCRIPT)) is same
    assert fingerprint(OTHER) != fingerprint(SCRIPT)


@pytest.mark.parametrize(
    ("change", "same"),
    [
        ({"servers": "it's:9092"}, True),
        ({"publish_ms": 9}, True),
        ({"checkpoint_ms": 99}, True),
        ({"entities_topic": "other"}, False),
        ({"watermark_delay_ms": 9}, False),
    ],
)
def test_the_fingerprint_of_a_job_of_entities(change: dict[str, Any], same: bool) -> None:
    definitions = load_definitions(COUNT % "2m")
    options = replace(OPTIONS, output="entities")
    first = compile_entities(definitions, options)
    other = compile_entities(definitions, replace(options, **change))
    assert (fingerprint(first) == fingerprint(other)) is same
    assert fingerprint(first) != fingerprint(SCRIPT)


def test_a_first_submit_begins_empty(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with() | run_answers()
    started = submit_job(cluster, "jar", PROGRAM, clock=clock)
    assert (started.job, started.restored) == (NEW, None)
    assert sent(fake)["jobId"] == NEW
    assert sent(fake)["parallelism"] == 2
    assert "savepointPath" not in sent(fake)


@pytest.mark.parametrize("state", ["RUNNING", "RESTARTING", "CREATED", "FAILING", "CANCELLING"])
def test_a_second_submit_is_refused(fake: Fake, cluster: FlinkCluster, state: str) -> None:
    fake.answers = cluster_with(Recorded(state)) | run_answers()
    with pytest.raises(FlinkRefusedError, match=rf"is {state} on .*flink upgrade.*flink stop"):
        submit_job(cluster, "jar", PROGRAM, savepoint="file:/sp")
    assert not [path for _, path, _ in fake.asked if path.startswith("/jars")]


def test_jobs_of_other_names_run_beside_it(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with(Recorded(name="other")) | run_answers()
    assert submit_job(cluster, "jar", PROGRAM, clock=clock).job == NEW


def test_of_two_submits_at_once_the_later_one_ends(fake: Fake, cluster: FlinkCluster) -> None:
    rival, own = Recorded(started=9.0), Recorded(id=NEW, started=8.0)
    after = [rival.overview(), own.overview()]
    fake.answers = cluster_with() | run_answers()
    fake.answers[rf"PATCH /jobs/{NEW}\?mode=cancel"] = (202, {})

    def overview(*jobs: dict[str, Any]) -> tuple[int, Any]:
        return 200, {"jobs": list(jobs)}

    # None runs before, and none has ended: then two are there.
    fake.answers["GET /jobs/overview"] = [overview(), overview(), overview(*after)]
    with pytest.raises(FlinkRefusedError, match=f"already \\({rival.id}\\)"):
        submit_job(cluster, "jar", PROGRAM, clock=clock)
    assert fake.asked[-1][:2] == ("PATCH", f"/jobs/{NEW}?mode=cancel")
    # The earlier one stays.
    fake.asked.clear()
    after = [Recorded(started=7.0).overview(), own.overview()]
    fake.answers["GET /jobs/overview"] = [overview(), overview(), overview(*after)]
    assert submit_job(cluster, "jar", PROGRAM, clock=clock).job == NEW


def stored(folder: Path, job: str, name: str, made_at: int) -> str:
    """Make a checkpoint on disk; return its path as a cluster names it."""
    path = folder / job / name
    path.mkdir(parents=True)
    (path / "_metadata").touch()
    os.utime(path / "_metadata", (made_at, made_at))
    return f"file:{path}"


def with_folders(tmp_path: Path, *jobs: Recorded) -> dict[str, Any]:
    settings = [
        {"key": "execution.checkpointing.dir", "value": f"file://{tmp_path}/checkpoints"},
        {"key": "execution.checkpointing.savepoint-dir", "value": f"{tmp_path}/savepoints"},
    ]
    return {**cluster_with(*jobs), **run_answers(), "GET /jobmanager/config": (200, settings)}


def test_state_is_found_by_name_where_the_cluster_has_forgotten_it(
    fake: Fake, cluster: FlinkCluster, tmp_path: Path
) -> None:
    checkpoints, savepoints = tmp_path / "checkpoints", tmp_path / "savepoints"
    first = stored(checkpoints, old_job(), "chk-7", 3_000)
    stored(checkpoints, old_job(name="other"), "chk-9", 9_000)
    (checkpoints / old_job(1_500) / "chk-1").mkdir(parents=True)  # one cut short
    (checkpoints / old_job() / "shared").mkdir()
    second = stored(savepoints, old_job(900), "savepoint-ab-cd", 2_000)
    fake.answers = with_folders(tmp_path)
    found = retained_states(cluster, "tactful")
    assert [(it.path, it.made_at, it.job) for it in found] == [
        (first, 3_000_000, old_job()),
        (second, 2_000_000, old_job(900)),
    ]
    started = submit_job(cluster, "jar", PROGRAM, clock=clock)
    assert started.restored == sent(fake)["savepointPath"] == first
    assert sent(fake)["claimMode"] == "CLAIM"
    assert sent(fake)["allowNonRestoredState"] is False


def test_state_of_a_job_that_the_cluster_remembers(fake: Fake, cluster: FlinkCluster) -> None:
    job = Recorded("FAILED", id=old_job(), path="s3://flink/chk-3")
    fake.answers = cluster_with(job, Recorded(id="cd" * 16, name="other")) | run_answers()
    started = submit_job(cluster, "jar", PROGRAM, clock=clock)
    assert started.restored == sent(fake)["savepointPath"] == "s3://flink/chk-3"


def test_state_that_is_gone_is_not_offered(
    fake: Fake, cluster: FlinkCluster, tmp_path: Path
) -> None:
    folder = tmp_path / "checkpoints" / old_job()
    folder.mkdir(parents=True)
    job = Recorded("CANCELED", id=old_job(), path=f"file:{folder}/chk-3")
    fake.answers = with_folders(tmp_path, job)
    assert submit_job(cluster, "jar", PROGRAM, clock=clock).restored is None


def test_state_of_other_definitions_is_refused(
    fake: Fake, cluster: FlinkCluster, tmp_path: Path
) -> None:
    for script, made_at in ((SCRIPT, 1_000), (OTHER, 2_000)):
        stored(tmp_path / "checkpoints", old_job(script=script), "chk-7", made_at)
    fake.answers = with_folders(tmp_path)
    with pytest.raises(FlinkRefusedError, match=r"chk-7, and it was made by other .*--no-resume"):
        submit_job(cluster, "jar", PROGRAM)
    assert submit_job(cluster, "jar", PROGRAM, resume=False, clock=clock).restored is None
    fake.asked.clear()
    named = submit_job(cluster, "jar", PROGRAM, savepoint="file:/own", clock=clock)
    assert named.restored == sent(fake)["savepointPath"] == "file:/own"
    assert sent(fake)["claimMode"] == "NO_CLAIM"


def test_state_that_does_not_fit_is_refused(fake: Fake, cluster: FlinkCluster) -> None:
    trace = (
        "JobInitializationException: Could not start\n\tat x\nCaused by: IllegalStateException: "
        "Failed to rollback to checkpoint/savepoint file:/sp. Cannot map checkpoint/savepoint "
        "state for operator ab to the new program\n\tat y\n"
    )
    fake.answers = cluster_with() | {"POST /jars/jar/run": (400, {"errors": ["x", trace]})}
    with pytest.raises(FlinkRefusedError, match=r"/sp does not fit these def.*for operator ab"):
        submit_job(cluster, "jar", PROGRAM, savepoint="file:/sp")
    # The plan fits, and a task cannot read it.
    trace = "RuntimeException: x\nCaused by: StateMigrationException: The new state serializer\n"
    fake.answers = cluster_with() | run_answers()
    fake.answers[f"GET /jobs/{NEW}/exceptions"] = (
        200,
        {"exceptionHistory": {"entries": [{"stacktrace": trace}]}},
    )
    fake.answers[rf"PATCH /jobs/{NEW}\?mode=cancel"] = (202, {})
    with pytest.raises(FlinkRefusedError, match=r"not fit these definitions: .*StateMigration"):
        submit_job(cluster, "jar", PROGRAM, savepoint="file:/sp", clock=clock)
    assert fake.asked[-1][:2] == ("PATCH", f"/jobs/{NEW}?mode=cancel")


def test_other_refusals_keep_their_reason(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with() | {"POST /jars/jar/run": (400, {"errors": ["E: no such table"]})}
    with pytest.raises(FlinkRefusedError, match="400: E: no such table"):
        submit_job(cluster, "jar", PROGRAM, savepoint="file:/sp")


SOURCE, SUM, LATER = "a" * 32, "b" * 32, "c" * 32
PLAN = {SOURCE: ":TableSourceScan(log)", SUM: ":Sum(2 min)", LATER: ":Sum(5 min)"}


@pytest.mark.parametrize(
    ("new", "change"),
    [
        (PLAN, PlanChange(tuple(sorted(PLAN.values())), (), (), ())),
        (
            PLAN | {SOURCE: ":TableSourceScan(log, price)"},
            PlanChange(tuple(sorted(PLAN.values())), (), (), ()),
        ),
        (
            PLAN | {SUM: ":Sum(3 min)"},
            PlanChange((":Sum(5 min)", PLAN[SOURCE]), (":Sum(3 min)",), (), ()),
        ),
        (
            {SOURCE: PLAN[SOURCE], "d" * 32: ":Sum(2 min)"},
            PlanChange((PLAN[SOURCE],), (), (":Sum(2 min)", ":Sum(5 min)"), (":Sum(2 min)",)),
        ),
    ],
)
def test_plans_are_compared_by_description(new: dict[str, str], change: PlanChange) -> None:
    assert compare_plans(PLAN, new, PLAN) == change


def test_operators_without_state_do_not_count() -> None:
    assert compare_plans(PLAN, {SOURCE: "x"}, [SUM]) == PlanChange((), (), (":Sum(2 min)",), ())
    assert compare_plans(PLAN, PLAN | {SUM: "other"}, [SOURCE]).changed == ()


def test_numbers_and_what_comes_behind_are_no_difference() -> None:
    def plan(first: int, behind: str) -> dict[str, Any]:
        text = f"[{first}]:Sum(size=[2 min])<br/>+- {behind}[{first + 1}]: Writer"
        return {"nodes": [{"id": SUM, "description": text}]}

    descriptions = {SUM: ":Sum(size=[2 min])"}
    assert described(plan(4, "out")) == described(plan(21, "calc")) == descriptions


def upgrading(fake: Fake, new: dict[str, str]) -> None:
    old = Recorded(id=old_job(), nodes={key: f"[1]{text}" for key, text in PLAN.items()})
    nodes = [{"id": key, "description": f"[2]{text}"} for key, text in new.items()]
    done = {"status": {"id": "COMPLETED"}, "operation": {"location": f"file:/sp/{old.id}/s"}}
    state = {key: {"state_size": 100} for key in PLAN}
    fake.answers = (
        {"GET /jobmanager/config": (200, [{"key": "execution.checkpointing.savepoint-dir",
                                           "value": "file:///sp/"}])}
        | {key: it for key, it in cluster_with(old).items() if "jobmanager" not in key}
        | run_answers()
        | {
            "POST /jars/jar/plan": (200, {"plan": {"nodes": nodes}}),
            f"GET /jobs/{old.id}/checkpoints/details/14": (200, {"tasks": state}),
            f"POST /jobs/{old.id}/stop": (202, {"request-id": "r"}),
            f"GET /jobs/{old.id}/savepoints/r": (200, done),
            f"GET /jobs/{old.id}": (200, {"state": "FINISHED"}),
        }
    )  # fmt: skip


def test_an_upgrade_stops_with_a_savepoint_and_starts_from_it(
    fake: Fake, cluster: FlinkCluster
) -> None:
    upgrading(fake, PLAN)
    steps: list[str] = []
    started = upgrade_job(cluster, "jar", PROGRAM, clock=clock, progress=steps.append)
    assert started.job == NEW
    assert started.restored == sent(fake)["savepointPath"] == f"file:/sp/{old_job()}/s"
    assert sent(fake)["claimMode"] == "NO_CLAIM"  # it stays, to go back
    (stop,) = [json.loads(body) for _, path, body in fake.asked if path.endswith("/stop")]
    assert stop == {"targetDirectory": f"file:///sp/{old_job()}"}
    assert steps == [f"job {old_job()} is stopped; its state is in {started.restored}"]


def test_an_upgrade_says_that_what_is_new_begins_empty(fake: Fake, cluster: FlinkCluster) -> None:
    upgrading(fake, PLAN | {"d" * 32: ":Sum(9 min)"})
    steps: list[str] = []
    upgrade_job(cluster, "jar", PROGRAM, clock=clock, progress=steps.append)
    assert "what is new begins empty" in steps[0] and len(steps) == 2


@pytest.mark.parametrize(
    ("new", "allowed", "reason"),
    [
        (PLAN | {SUM: ":Sum(3 min)"}, False, "2 operators keep .* 1 would continue .*3 min"),
        (PLAN | {SUM: ":Sum(3 min)"}, True, "1 would continue that of another definition"),
        ({SOURCE: PLAN[SOURCE], SUM: PLAN[SUM]}, False, "2 operators keep .* 1 would lose it"),
    ],
)
def test_an_upgrade_that_does_not_fit_leaves_the_job(
    fake: Fake, cluster: FlinkCluster, new: dict[str, str], allowed: bool, reason: str
) -> None:
    upgrading(fake, new)
    with pytest.raises(FlinkRefusedError, match=reason + ".*The job runs on"):
        upgrade_job(cluster, "jar", PROGRAM, allow_dropped=allowed)
    assert not [path for _, path, _ in fake.asked if path.endswith(("/stop", "/run"))]


def test_an_upgrade_may_drop_state_or_begin_anew(fake: Fake, cluster: FlinkCluster) -> None:
    upgrading(fake, {SOURCE: PLAN[SOURCE], SUM: PLAN[SUM]})
    upgrade_job(cluster, "jar", PROGRAM, allow_dropped=True, clock=clock)
    assert sent(fake)["allowNonRestoredState"] is True
    fake.asked.clear()
    upgrading(fake, PLAN | {SUM: ":Sum(3 min)"})
    started = upgrade_job(cluster, "jar", PROGRAM, from_start=True, clock=clock)
    assert started.restored is None and "savepointPath" not in sent(fake)


def test_an_upgrade_that_fails_names_the_way_back(fake: Fake, cluster: FlinkCluster) -> None:
    upgrading(fake, PLAN)
    fake.answers["POST /jars/jar/run"] = (500, {"errors": ["E: no slots"]})
    back = rf"no slots\. No job runs now: .*--savepoint file:/sp/{old_job()}/s"
    with pytest.raises(FlinkRefusedError, match=back):
        upgrade_job(cluster, "jar", PROGRAM, clock=clock)


def test_an_upgrade_needs_one_job(fake: Fake, cluster: FlinkCluster) -> None:
    fake.answers = cluster_with()
    with pytest.raises(FlinkRefusedError, match=r"0 jobs tactful run: .*flink submit"):
        upgrade_job(cluster, "jar", PROGRAM)
    fake.answers = cluster_with(Recorded(), Recorded(id="cd" * 16))
    with pytest.raises(FlinkRefusedError, match=r"2 jobs tactful run: .*flink stop --job"):
        upgrade_job(cluster, "jar", PROGRAM)


def test_a_stop_needs_a_folder(fake: Fake, cluster: FlinkCluster) -> None:
    upgrading(fake, PLAN)
    fake.answers["GET /jobmanager/config"] = (200, [])
    with pytest.raises(FlinkRefusedError, match=r"no folder for savepoints.*--savepoint-dir"):
        stop_job(cluster, old_job())
    assert stop_job(cluster, old_job(), "s3://b/sp") == f"file:/sp/{old_job()}/s"
    (stop,) = [json.loads(body) for _, path, body in fake.asked if path.endswith("/stop")]
    assert stop == {"targetDirectory": f"s3://b/sp/{old_job()}"}


@pytest.mark.parametrize(
    ("folder", "path"),
    [
        ("file:///a/b", "/a/b"),
        ("file:/a/b%20c", "/a/b c"),
        ("/a/b", "/a/b"),
        ("s3://a/b", None),
        ("hdfs:///a", None),
        ("", None),
        ("a/b", None),
    ],
)
def test_folders_of_this_machine(folder: str, path: str | None) -> None:
    assert local_path(folder) == (None if path is None else Path(path))
