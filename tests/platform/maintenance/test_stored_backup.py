"""Backups in a bucket: whole or not there, verified, and restored like those in a directory."""

from __future__ import annotations

import json
import pickle
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.erasure.test_erase import settings_of
from tests.platform.maintenance.test_backup import (
    files_of,
    fill,
    log_of,
    remake,
    restored,
)
from tests.platform.metadata.test_rights import installed
from tests.platform.support import killed_after, now_ms
from tests.streaming.s3_server import S3Server

from benchmarks.ports import free_port
from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.erasure.erase import complete_erasures, request_erasure
from tactful.erasure.verify import VERIFICATION
from tactful.errors import BackupError, StorageError
from tactful.maintenance.backup import make_backup
from tactful.maintenance.restore import check_backup
from tactful.maintenance.stored_backup import (
    expire_stored_backups,
    open_stored_backup,
    store_backup,
)
from tactful.metadata.directory_lock import exclusive
from tactful.metadata.scratch import SCRATCH, scratch_copy
from tactful_streaming.storage import snapshots
from tactful_streaming.storage.objects import ObjectStore, open_objects


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    apart = tmp_path / "apart"
    apart.mkdir()
    made = settings_of(tmp_path)
    return replace(made, consent=replace(made.consent, tombstones=apart / "tombstones"))


@pytest.fixture
def environ(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    """The variables of the server, in this process and those that it starts."""
    variables = s3_server.environ()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(snapshots, "PART_BYTES", 20_000)
    yield variables


def objects(store: ObjectStore) -> set[str]:
    return {entry.name for entry in store.list()}


def run(settings: Settings, *arguments: str) -> Result:
    environment = {
        "TACTFUL_ENGINE__FEATURES": str(settings.features),
        "TACTFUL_CONSENT__TOMBSTONES": str(settings.consent.tombstones),
    }
    command = [*arguments, "--data", str(settings.storage.data), "--json"]
    return CliRunner().invoke(main, command, env=environment)


def test_the_commands_take_a_bucket(
    settings: Settings, s3_server: S3Server, environ: dict[str, str]
) -> None:
    """The machine is lost; its backup is checked, restored, and deleted when it is over."""
    fill(settings)
    place = s3_server.url()
    url = f"{place}/monday"
    log = log_of(settings)
    made = run(settings, "backup", url)
    assert made.exit_code == 0, made.output
    assert json.loads(made.output)["log"] == [0, 20]
    assert not (settings.storage.data / SCRATCH / "copy").exists()
    assert run(settings, "backup", url, "--check").exit_code == 0
    again = run(settings, "backup", url)
    assert (again.exit_code, "exists already" in again.output) == (1, True)
    remake(settings.storage.data)
    refused = run(settings, "restore", url)
    assert (refused.exit_code, "not signed by this installation" in refused.output) == (1, True)
    back = run(settings, "restore", url, "--accept-unsigned", "--without-tombstones")
    assert back.exit_code == 0, back.output
    assert log_of(settings) == log
    kept = run(settings, "expire", "--backups", place, "--older-than", "1")
    assert (kept.exit_code, json.loads(kept.output)) == (0, [])
    (gone,) = expire_stored_backups(place, now_ms() + 1, dry_run=False)
    assert (gone.what, gone.removed) == (url, True)
    assert objects(open_objects(place)) == set()
    lost = run(settings, "restore", url, "--replace")
    assert (lost.exit_code, "no complete backup" in lost.output) == (1, True)


@pytest.mark.parametrize(
    ("url", "variable", "value", "message"),
    [
        ("s3://no-such-bucket/x", "", "", "there is no bucket 'no-such-bucket'"),
        ("s3://tests/x", "AWS_ENDPOINT_URL", "http://127.0.0.1:{port}", "cannot be reached"),
        ("s3://tests/x", "AWS_CA_BUNDLE", "/no/such/file", "/no/such/file"),
        ("gs://tests/x", "", "", "must be s3://BUCKET/PREFIX or file:///PATH"),
    ],
)
def test_a_place_that_cannot_be_used_is_explained(
    settings: Settings,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    url: str,
    variable: str,
    value: str,
    message: str,
) -> None:
    settings.storage.data.mkdir(exist_ok=True)
    if variable:
        monkeypatch.setenv(variable, value.format(port=free_port()))
    for arguments in (["backup", url], ["restore", url], ["backup", url, "--check"]):
        shown = run(settings, *arguments)
        assert (shown.exit_code, shown.exception.__class__) == (1, SystemExit), shown.output
        assert message in shown.output


WORK = """
import pickle, time
from pathlib import Path
from tactful.maintenance.stored_backup import store_backup
from tactful_streaming.storage import snapshots

snapshots.PART_BYTES = 20_000
settings = pickle.loads(Path(sys.argv[1]).read_bytes())

def work(count):
    step = countdown(count)
    store_backup(
        settings, sys.argv[2], clock=lambda: time.time_ns() // 1_000_000,
        sending=lambda size: lambda sent: step(),
    )
"""


@pytest.mark.slow
def test_a_killed_backup_is_none(
    tmp_path: Path, settings: Settings, s3_server: S3Server, environ: dict[str, str]
) -> None:
    fill(settings)
    place = s3_server.url()
    store = open_objects(place)
    store_backup(settings, f"{place}/monday", clock=now_ms)
    (tmp_path / "pickled").write_bytes(pickle.dumps(settings))
    url, kills, count = f"{place}/tuesday", 0, 0
    with killed_after(WORK, tmp_path / "pickled", url) as killed_at:
        while killed_at(count):
            kills += 1
            count += 6
            with pytest.raises(BackupError, match="no complete backup"):
                check_backup(open_stored_backup(url))
            assert (settings.storage.data / SCRATCH / "copy").exists()
            if kills == 2:  # a start deletes the copy that a killed process left
                with exclusive(settings.storage.data):
                    pass
                assert not (settings.storage.data / SCRATCH / "copy").exists()
    assert kills >= 3
    check_backup(open_stored_backup(f"{place}/monday"))
    check_backup(open_stored_backup(url))
    # Nothing is left of what the killed ones sent.
    before = objects(store)
    snapshots.Snapshots(store, "tuesday").sweep()
    assert objects(store) == before
    assert restored(settings, open_stored_backup(url), replace=True)


def test_a_cut_connection_leaves_earlier_backups(
    settings: Settings,
    s3_server: S3Server,
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    fill(settings)
    place, proxy = s3_server.url(), s3_server.proxy
    store_backup(settings, f"{place}/monday", clock=now_ms)
    monkeypatch.setenv("AWS_ENDPOINT_URL", s3_server.environ(proxy.port)["AWS_ENDPOINT_URL"])

    def sending(size: int) -> Any:
        left = [4]

        def sent(size: int) -> None:
            left[0] -= 1
            if not left[0]:
                proxy.cut()

        return sent

    with pytest.raises(BackupError, match=r"no backup was made.*cannot be reached"):
        store_backup(settings, f"{place}/tuesday", clock=now_ms, sending=sending)
    proxy.restore()
    assert not (settings.storage.data / SCRATCH / "copy").exists()
    check_backup(open_stored_backup(f"{place}/monday"))
    with pytest.raises(BackupError, match="no complete backup"):
        check_backup(open_stored_backup(f"{place}/tuesday"))
    # The parts hold data of users: they expire, too.
    (gone, left) = expire_stored_backups(place, now_ms() + 60_000, dry_run=True)
    assert (gone.what, left.what) == (f"{place}/monday", f"{place}/tuesday")
    store_backup(settings, f"{place}/tuesday", clock=now_ms)
    check_backup(open_stored_backup(f"{place}/tuesday"))


def test_damage_in_the_bucket_changes_nothing(tmp_path: Path, settings: Settings) -> None:
    fill(settings)
    url = (tmp_path / "bucket").as_uri()
    store_backup(settings, url, clock=now_ms)
    whole = {path: path.read_bytes() for path in (tmp_path / "bucket").rglob("*") if path.is_file()}
    before = files_of(settings.storage.data)
    for path, content in whole.items():
        for harmed in (b"", content[: len(content) // 2], content[:-1] + b"~"):
            path.write_bytes(harmed)
            with pytest.raises(BackupError):
                restored(settings, open_stored_backup(url), replace=True)
            assert files_of(settings.storage.data) == before
        path.write_bytes(content)
    check_backup(open_stored_backup(url))


def test_a_copy_to_be_sent_is_no_trace_of_an_erased_user(
    settings: Settings, tmp_path: Path
) -> None:
    """A backup under way keeps its copy; the one of a killed process is deleted."""
    fill(settings)
    data = settings.storage.data
    with scratch_copy(data) as copy:
        copy.mkdir()
        (copy / "log").write_bytes(b"other-1 other-2")
        with pytest.raises(StorageError, match="another backup is being sent"):
            store_backup(settings, (tmp_path / "bucket").as_uri(), clock=now_ms)
        manifest = make_backup(settings, tmp_path / "backup", clock=now_ms)
        assert not any(SCRATCH in file.path for file in manifest.files)
        assert erased_everywhere(settings, "other-1")
        assert (copy / "log").exists()
        kept = tmp_path / "kept"
        copy.rename(kept)
    kept.rename(copy)
    assert erased_everywhere(settings, "other-2")
    assert not copy.exists()


def erased_everywhere(settings: Settings, person: str) -> bool:
    """Erase a user; whether the search after it found no id of theirs."""
    with installed(settings) as installation:
        request_erasure(installation, person)
        (erasure,) = complete_erasures(installation)
    return [step.removed for step in erasure.steps if step.place == VERIFICATION] == [0]
