"""Permissions of the data directory: what the server and the commands accept and write."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.platform.support import Live, build, view

from tactful.cli.main import main
from tactful.config.settings import Settings
from tactful.errors import StorageError
from tactful.maintenance.backup import make_backup
from tactful.maintenance.doctor import examine
from tactful.metadata.directory_lock import exclusive
from tactful.server.platform import Platform

pytestmark = pytest.mark.usefixtures("elsewhere")


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual umask at the beginning; the one of the tests at the end."""
    before = os.umask(0o022)
    yield
    os.umask(before)


def run(*arguments: object, **options: Any) -> Result:
    return CliRunner().invoke(main, [str(it) for it in arguments], **options)


def open_to_others(directory: Path) -> list[Path]:
    """Return what other users can use in a directory."""
    paths = [directory, *directory.rglob("*")]
    return [path for path in paths if stat.S_IMODE(path.lstat().st_mode) & 0o077]


def test_new_files_are_private(settings: Settings, tmp_path: Path) -> None:
    """Whatever library writes it: nothing of a server or of a backup is readable by others."""
    with Live(Platform.open(settings, build)) as live:
        sent = live.http.post("/v1/events", json=[view(n) for n in range(20)]).json()
        assert live.views("u", sent["position"]) == 20
        make_backup(settings, tmp_path / "backup", clock=lambda: 0)
        assert open_to_others(settings.storage.data) == []
    assert open_to_others(settings.storage.data) == []
    assert open_to_others(tmp_path / "backup") == []


def test_a_directory_of_0_1_is_repaired(settings: Settings) -> None:
    """Files that 0.1 wrote for all to read are closed when a server opens them."""
    data = settings.storage.data
    with Live(Platform.open(settings, build)) as live:
        assert live.http.post("/v1/events", json=view(1)).status_code == 202
    for path in data.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
    data.chmod(0o755)
    with Live(Platform.open(settings, build)) as live:
        assert live.views("u", 1) == 1
    assert open_to_others(data) == []


@pytest.mark.parametrize(
    "command",
    ["serve", "keys list", "features plan", "rules letters", "user export u", "backup b", "train"],
)
def test_a_writable_directory_is_refused(command: str, tmp_path: Path) -> None:
    """Every command refuses a data directory that others may write, and says what to do."""
    assert run("keys", "create", "--scope", "admin", "--data", "d").exit_code == 0
    Path("d").chmod(0o777)
    result = run(*command.split(), "--data", "d")
    assert result.exit_code == 1
    assert result.stderr.startswith("tactful: d: other users may write in it (mode 0777)")
    assert "chmod 700 d" in result.stderr
    with pytest.raises(StorageError, match="chmod 700 d"), exclusive(Path("d")):
        pass


def test_a_directory_of_other_files_is_not_closed(tmp_path: Path) -> None:
    """``--data ~`` must not take the files of a web site from its readers."""
    home = tmp_path / "home"
    (home / "site").mkdir(parents=True)
    home.chmod(0o755)
    with pytest.raises(StorageError, match="no data directory, it has 'site'"), exclusive(home):
        pass
    assert stat.S_IMODE(home.stat().st_mode) == 0o755
    assert [path.name for path in home.iterdir()] == ["site"]
    (home / "site").rename(home / "lost+found")  # of a new disk
    with exclusive(home):
        assert open_to_others(home) == []


def test_doctor_names_open_permissions(settings: Settings) -> None:
    """`tactful doctor` reports what others can use, and the command that closes it."""
    data = settings.storage.data

    def finding() -> tuple[str, str]:
        (check,) = [it for it in examine(settings) if it.name == "permissions"]
        return check.state, check.said

    assert finding()[0] == "ok"
    (data / "note").touch(0o644)
    (data / "note").chmod(0o644)
    assert finding()[0] == "warning"
    assert finding()[0] == "ok"
    data.chmod(0o777)
    state, said = finding()
    assert (state, f"chmod 700 {data}" in said) == ("failed", True)
