"""Long jobs are seen with their progress and their end, whatever ends them."""

from __future__ import annotations

import subprocess
import sys
import threading
from pathlib import Path

import pytest

from tactful.schemas.operations import JobInfo
from tactful.util import jobs
from tactful.util.jobs import FOLDER, jobs_of, tracked


def only(data: Path) -> JobInfo:
    (job,) = jobs_of(data)
    return job


def test_a_job_is_seen_from_its_start_to_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_BETWEEN_S", 3600.0)
    times = iter(range(1000, 9000, 1000))
    with tracked(tmp_path, "training", clock=lambda: next(times)) as job:
        assert (only(tmp_path).state, only(tmp_path).progress) == ("running", None)
        job.advance(1, 4, "replay")
        found = only(tmp_path)
        assert (found.stage, found.progress, found.updated_at) == ("replay", 0.25, 2000)
        job.advance(2, 4, "replay")
        assert only(tmp_path).progress == 0.25, "not twice within that time"
        job.advance(4, 4, "replay")
        assert only(tmp_path).progress == 1.0
    ended = only(tmp_path)
    assert (ended.state, ended.started_at, ended.ended_at) == ("done", 1000, ended.updated_at)


@pytest.mark.parametrize(
    ("error", "state"),
    [(ValueError(), "failed"), (SystemExit(3), "failed"), (SystemExit(0), "done")],
)
def test_an_error_is_an_end(tmp_path: Path, error: BaseException, state: str) -> None:
    with pytest.raises(type(error)), tracked(tmp_path, "backfill"):
        raise error
    assert only(tmp_path).state == state


_KILLED = """
import os, sys
from pathlib import Path
from tactful.util.jobs import tracked
with tracked(Path(sys.argv[1]), "backup") as job:
    job.advance(1, 2)
    os.kill(os.getpid(), 9)
"""


def test_a_killed_process_is_noticed(tmp_path: Path) -> None:
    subprocess.run([sys.executable, "-c", _KILLED, tmp_path], check=False)
    found = only(tmp_path)
    assert (found.kind, found.state, found.progress, found.ended_at) == (
        *("backup", "killed", 0.5),
        None,
    )


def test_a_directory_that_cannot_be_written_hinders_no_job(tmp_path: Path) -> None:
    (tmp_path / FOLDER).write_text("a file")
    with tracked(tmp_path, "training") as job:
        job.advance(1, 2)
    with tracked(tmp_path / "absent", "training"):
        pass
    assert jobs_of(tmp_path / "absent") == []
    assert not (tmp_path / "absent").exists()


def test_odd_numbers_are_no_progress(tmp_path: Path) -> None:
    with tracked(tmp_path, "import") as job:
        job.advance(0, 0, "x" * 5000)
        assert only(tmp_path).progress is None
        job.advance(7, 2, "y")
        assert only(tmp_path).progress == 1.0
        job.advance(-1, 2, "z")
        assert only(tmp_path).progress == 0.0


def test_a_file_that_is_none_of_a_job_is_left_out(tmp_path: Path) -> None:
    (tmp_path / FOLDER).mkdir()
    (tmp_path / FOLDER / "1-odd.json").write_bytes(b"{]")
    (tmp_path / FOLDER / "2-odd.json").mkdir()
    assert jobs_of(tmp_path) == []


def test_old_jobs_go_but_the_last_success_of_a_kind_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jobs, "_KEPT", 5)
    clock = iter(range(1, 999))
    now = lambda: next(clock)  # noqa: E731
    with tracked(tmp_path, "backfill", clock=now):
        with tracked(tmp_path, "backup", clock=now):
            pass
        for _ in range(20):
            with tracked(tmp_path, "training", clock=now):
                pass
        kinds = [job.kind for job in jobs_of(tmp_path)]
    assert kinds.count("training") in (5, 6)
    assert kinds[-2:] == ["backup", "backfill"], "the one that runs stays, too"


def test_readers_never_see_a_torn_file(tmp_path: Path) -> None:
    stop = threading.Event()
    seen: list[str] = []

    def read() -> None:
        while not stop.is_set():
            seen.extend(job.state for job in jobs_of(tmp_path))

    readers = [threading.Thread(target=read) for _ in range(2)]
    with tracked(tmp_path, "training") as job:
        for reader in readers:
            reader.start()
        for number in range(300):
            job.advance(number, 300, "s" * (number % 90))
        stop.set()
        for reader in readers:
            reader.join()
    assert set(seen) == {"running"}
    (file,) = (tmp_path / FOLDER).iterdir()
    assert file.stat().st_mode & 0o777 == 0o600
