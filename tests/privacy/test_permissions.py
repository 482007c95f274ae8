"""Private directories and files: refused or repaired as PostgreSQL does."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tactful_privacy.errors import PermissionsError
from tactful_privacy.permissions import secure_directory, secure_file


@pytest.fixture(autouse=True)
def umask() -> Iterator[None]:
    """The usual umask at the beginning; the one of the tests at the end."""
    before = os.umask(0o022)
    yield
    os.umask(before)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data directory as 0.1 wrote it: every user can read it."""
    directory = tmp_path / "data"
    (directory / "log").mkdir(parents=True)
    (directory / "log" / "0").write_bytes(b"record")
    directory.chmod(0o755)
    return directory


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.mark.parametrize("open_to", [0o777, 0o1777, 0o775, 0o770, 0o720, 0o702])
def test_others_write(data: Path, open_to: int) -> None:
    """A directory in which another user may have planted files is refused, with the command."""
    data.chmod(open_to)
    with pytest.raises(PermissionsError, match=f"chmod 700 {data}"):
        secure_directory(data)
    assert mode(data) == open_to
    data.chmod(0o700)
    secure_directory(data)


def test_an_empty_directory_is_closed(tmp_path: Path) -> None:
    """Nothing can be planted in an empty directory: it is repaired, as initdb does."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o777)
    assert secure_directory(tmp_path / "data") == 1
    assert mode(tmp_path / "data") == 0o700


def test_others_read(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Files of 0.1 that others could read are closed to them once, and the log says so."""
    assert secure_directory(data) == 3
    assert "could use 3 files and folders" in caplog.text
    assert [mode(it) for it in (data, data / "log", data / "log" / "0")] == [0o700, 0o700, 0o600]
    caplog.clear()
    assert secure_directory(data) == 0
    assert not caplog.text


def test_the_group_may_read(data: Path) -> None:
    """A directory of mode 0750 stays readable by its group, as are its new files."""
    data.chmod(0o750)
    (data / "log" / "secret").touch(0o600)
    assert secure_directory(data) == 2
    (data / "new").touch()
    assert [mode(it) for it in (data, data / "log", data / "log" / "0")] == [0o750, 0o750, 0o640]
    assert (mode(data / "log" / "secret"), mode(data / "new")) == (0o600, 0o640)


def test_new_files_are_private(tmp_path: Path) -> None:
    """Files that libraries make without a mode are private once the directory is open."""
    secure_directory(tmp_path / "a" / "data")
    (tmp_path / "a" / "data" / "new").touch()
    (tmp_path / "a" / "data" / "folder").mkdir()
    assert mode(tmp_path / "a" / "data") == 0o700
    assert mode(tmp_path / "a" / "data" / "new") == 0o600
    assert mode(tmp_path / "a" / "data" / "folder") == 0o700


def test_another_owner(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The directory of another user is refused, root's command included."""
    monkeypatch.setattr(os, "geteuid", lambda: data.stat().st_uid + 1)
    with pytest.raises(PermissionsError, match="owns it"):
        secure_directory(data)


def test_a_link_is_not_followed(data: Path, tmp_path: Path) -> None:
    """What a link points to outside the directory keeps its mode."""
    (tmp_path / "outside").write_bytes(b"")
    (tmp_path / "outside").chmod(0o644)
    (data / "link").symlink_to(tmp_path / "outside")
    (data / "gone").symlink_to(tmp_path / "nothing")
    secure_directory(data)
    assert mode(tmp_path / "outside") == 0o644


def test_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A secret is closed to others; one that every user may write is refused."""
    secret = tmp_path / "keyring.json"
    secret.touch()
    secure_file(secret)
    assert mode(secret) == 0o600
    secret.chmod(0o606)
    with pytest.raises(PermissionsError, match="chmod 600"):
        secure_file(secret)
    secret.chmod(0o644)
    monkeypatch.setattr(os, "geteuid", lambda: secret.stat().st_uid + 1)
    secure_file(secret)  # mounted by another user: it cannot be changed
    assert mode(secret) == 0o644
