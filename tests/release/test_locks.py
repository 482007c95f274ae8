"""Locks that do not fit, versions that nobody locked, and places that name another version."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from deploy.release.locks import LOCKS, misfits, not_locked, read_pins, split_torch
from deploy.release.notes import notes_of, other_versions, version_of
from deploy.release.requirements import ROOT, requirements_of
from packaging.requirements import Requirement
from packaging.utils import NormalizedName

_LOCK = """# a comment
numpy==2.4.6 ; python_full_version < '3.12' \\
    --hash=sha256:aa
numpy==2.5.5 ; python_full_version >= '3.12' \\
    --hash=sha256:bb
torch==2.15.0 \\
    --hash=sha256:cc
"""


def test_locks_fit_what_is_required() -> None:
    torch = read_pins((ROOT / "deploy/locks/torch.txt").read_text("utf-8"))
    for lock in LOCKS:
        pins = read_pins((ROOT / "deploy/locks" / lock.name).read_text("utf-8"))
        assert len(pins) > 50
        assert misfits(pins + torch, requirements_of(ROOT, lock.extras, lock.groups)) == []


@pytest.mark.parametrize(
    ("before", "after", "required", "problem"),
    [
        ("", "", "numpy>=2", ""),
        ("", "", "numpy>=2.5", "numpy>=2.5 does not allow 2.4.6, locked on Python 3.11"),
        ("", "", "numpy<2.5", "numpy<2.5 does not allow 2.5.5, locked on Python 3.12"),
        ("", "", "scipy; python_version > '3.12'", "is not in the lock for Python 3.13"),
        ("", "", "scipy; sys_platform == 'win32'", ""),
        (" \\\n    --hash=sha256:bb", "", "numpy", "it has no hash"),
        (" ; python_full_version < '3.12'", "", "numpy", "numpy has two versions on Python 3.12"),
    ],
)
def test_a_lock_that_does_not_fit_is_found(
    before: str, after: str, required: str, problem: str
) -> None:
    pins = read_pins(_LOCK.replace(before, after) if before else _LOCK)
    found = misfits(pins, [Requirement(required)])
    assert any(problem in it for it in found) if problem else found == []


def test_a_lock_names_exact_versions() -> None:
    with pytest.raises(ValueError, match="numpy>=2: a lock names one version"):
        read_pins("numpy>=2 --hash=sha256:aa\n")


def test_torch_is_split_off() -> None:
    rest, torch = split_torch(_LOCK)
    assert [pin.name for pin in read_pins(rest)] == ["numpy", "numpy"]
    assert [pin.name for pin in read_pins(torch)] == ["torch"]


def test_installed_versions_that_nobody_locked_are_found() -> None:
    pins = read_pins(_LOCK)
    installed = {"numpy": "2.4.6", "torch": "2.13.0+cpu", "tactful": "0.1.0", "pip": "26"}
    present = {NormalizedName(name): version for name, version in installed.items()}
    assert not_locked(pins, present, "3.11") == []
    assert not_locked(pins, present, "3.13") == ["numpy 2.4.6 is installed, 2.5.5 is locked"]
    present[NormalizedName("planted")] = "1"
    assert not_locked(pins, present, "3.11") == ["planted 1 is installed, nothing is locked"]


def test_all_places_name_the_same_version() -> None:
    version = version_of(ROOT)
    assert other_versions(ROOT, version) == []
    places = {line.partition(":")[0] for line in other_versions(ROOT, "9.9")}
    assert {
        "device/pyproject.toml",
        "sdk/web/package.json",
        "deploy/helm/tactful/images.env",
    } <= places


def test_the_tag_of_a_commit_has_to_agree(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "0.2.0"\n')
    assert version_of(tmp_path) == "0.2.0", "without git"

    def git(*words: str) -> None:
        identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
        subprocess.run(["git", "-C", str(tmp_path), *identity, *words], check=True)

    git("init", "--quiet")
    git("commit", "--quiet", "--allow-empty", "--message", "Begin")
    assert version_of(tmp_path) == "0.2.0", "without tags"
    git("tag", "v0.1.0")
    with pytest.raises(ValueError, match=r"says 0\.2\.0, the tag of this commit 0\.1\.0"):
        version_of(tmp_path)
    git("tag", "v0.2.0")
    assert version_of(tmp_path) == "0.2.0"


def test_notes_are_the_section_of_the_version() -> None:
    text = "# Changelog\n\n## [Unreleased]\n\n- new\n\n## [0.1.0] - 2026-01-01\n\n- old\n"
    assert notes_of(text, "0.1.0") == "# tactful 0.1.0\n\n- old\n"
    assert notes_of(text, "0.2.0") == "# tactful 0.2.0\n\n- new\n"
    with pytest.raises(ValueError, match=r"\[Unreleased\] is empty"):
        notes_of("## [Unreleased]\n\n## [0.1.0]\n", "0.2.0")
    with pytest.raises(ValueError, match="no section"):
        notes_of("# Changelog\n", "0.2.0")
