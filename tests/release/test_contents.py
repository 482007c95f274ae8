"""Planted violations: licences, advisories, stray files, and a bill of materials with a gap."""

from __future__ import annotations

import io
import tarfile
import zipfile
from datetime import date
from importlib.metadata import Distribution, PathDistribution
from pathlib import Path
from typing import Any

import pytest
from deploy.release import licences, vulnerabilities
from deploy.release.archives import stray_files, stray_members
from deploy.release.closure import closure, installed
from deploy.release.sbom import add_hashes, complete, keep_components


def package(folder: Path, name: str, *fields: str) -> Distribution:
    """Make an installed package of metadata alone."""
    place = folder / f"{name}-1.0.dist-info"
    place.mkdir(parents=True)
    lines = ["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.0", *fields]
    (place / "METADATA").write_text("\n".join(lines) + "\n")
    return PathDistribution(place)


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        (["License-Expression: MIT"], ""),
        (["License-Expression: GPL-3.0-only OR Apache-2.0"], ""),
        (["License-Expression: MIT AND (BSD-3-Clause OR GPL-2.0-only)"], ""),
        (["Classifier: License :: OSI Approved :: BSD License"], ""),
        (["License: Apache 2.0"], ""),
        ([], "its metadata states no licence"),
        (["License: " + "All rights. " * 20], "its metadata states no licence"),
        (["Classifier: License :: OSI Approved"], "its metadata states no licence"),
        (["License-Expression: AGPL-3.0-only"], "its licence is not allowed"),
        (["License-Expression: MIT AND GPL-3.0-only"], "its licence is not allowed"),
        (["License-Expression: GPL-2.0-only WITH Classpath-exception-2.0"], "is not allowed"),
        (["License-Expression: LicenseRef-Secret"], "its licence is not known"),
        (["License: Free for friends"], "its licence is not known"),
    ],
)
def test_planted_licences(tmp_path: Path, fields: list[str], problem: str) -> None:
    row = licences.judge(package(tmp_path, "planted", *fields), licences.read_policy())
    assert problem in row.problem and bool(problem) == bool(row.problem)


def test_exceptions_are_for_named_packages(tmp_path: Path) -> None:
    policy = licences.read_policy()
    nvidia = package(tmp_path, "nvidia-planted", "License-Expression: LicenseRef-NVIDIA")
    other = package(tmp_path, "planted-nvidia", "License-Expression: LicenseRef-NVIDIA")
    rows = licences.judge_all([other, nvidia], policy)
    assert [bool(row.problem) for row in rows] == [False, True]
    assert "| planted-nvidia | 1.0 | LicenseRef-NVIDIA |" in licences.report(rows)


def test_closure_follows_extras_and_leaves_other_packages_out(tmp_path: Path) -> None:
    package(tmp_path, "tactful", 'Requires-Dist: kafka[lz4] ; extra == "kafka"', "Requires-Dist: a")
    package(
        tmp_path, "a", 'Requires-Dist: windows ; sys_platform == "win32"', "Requires-Dist: gone"
    )
    package(tmp_path, "kafka", 'Requires-Dist: lz4 ; extra == "lz4"')
    for name in ("lz4", "windows", "pytest"):
        package(tmp_path, name)
    packages = installed([str(tmp_path)])
    assert closure("tactful", [], packages) == {"tactful", "a"}
    assert closure("tactful", ["kafka"], packages) == {"tactful", "a", "kafka", "lz4"}


def answer(**vulnerable: list[dict[str, Any]]) -> dict[str, Any]:
    named = [{"name": it, "version": "1", "vulns": found} for it, found in vulnerable.items()]
    return {"dependencies": [*named, {"name": "unknown", "skip_reason": "not found"}]}


def test_planted_vulnerabilities() -> None:
    advisory = {"id": "PYSEC-1", "aliases": ["CVE-1"], "fix_versions": ["2"]}
    today = date(2026, 12, 3)
    judge = vulnerabilities.judge
    assert judge(answer(sound=[]), {}, today).found == []
    assert judge(answer(weak=[advisory]), {}, today).found == ["weak 1: PYSEC-1: 2"]
    accepted = {"CVE-1": {"reason": "unused", "until": today}}
    assert judge(answer(weak=[advisory]), accepted, today).found == []
    assert judge(answer(weak=[advisory]), accepted, date(2026, 12, 4)).found
    nothing = judge(answer(), {}, today)
    assert (nothing.judged, nothing.unknown) == (0, ["unknown"]), "an answer without data"


def test_without_data_nothing_is_claimed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["vulnerabilities"])
    monkeypatch.setattr(vulnerabilities, "audit", lambda pins, service: None)
    assert vulnerabilities.main() == 0
    assert capsys.readouterr().out.startswith("skipped: ")
    advisory = {"id": "PYSEC-1", "fix_versions": []}
    monkeypatch.setattr(vulnerabilities, "audit", lambda pins, service: answer(weak=[advisory]))
    assert vulnerabilities.main() == 1
    assert "weak 1: PYSEC-1: no fixed version" in capsys.readouterr().err


def test_stray_files_of_archives_are_found(tmp_path: Path) -> None:
    wheel, sdist = tmp_path / "tactful-1-py3-none-any.whl", tmp_path / "tactful-1.tar.gz"
    with zipfile.ZipFile(wheel, "w") as archive:
        for name in ("tactful/a.py", "tactful/notes.txt", "tactful-1.dist-info/METADATA"):
            archive.writestr(name, "")
    assert stray_files(wheel, ["tactful/a.py", "tactful/b.py"]) == [
        f"{wheel.name}: tactful/notes.txt is not a tracked file of a package",
        f"{wheel.name}: tactful/b.py is missing",
    ]
    with tarfile.open(sdist, "w:gz") as members:
        for name in ("tactful-1/README.md", "tactful-1/PKG-INFO", "tactful-1/.env"):
            members.addfile(tarfile.TarInfo(name), io.BytesIO())
    assert stray_members(sdist, ["README.md"]) == [f"{sdist.name}: .env is not tracked"]


def test_the_bill_of_materials_is_of_what_is_needed() -> None:
    bom = {
        "metadata": {"component": {"bom-ref": "root"}},
        "components": [{"bom-ref": it, "name": it, "version": "1"} for it in ("Needed", "pytest")],
        "dependencies": [{"ref": "root", "dependsOn": ["Needed", "pytest"]}, {"ref": "pytest"}],
    }
    kept = keep_components(bom, {"needed"})
    assert [it["name"] for it in kept["components"]] == ["Needed"]
    assert kept["dependencies"] == [{"ref": "root", "dependsOn": ["Needed"]}]
    assert complete(kept, {"tactful", "needed", "other"}) == ["other"]
    (component,) = add_hashes(kept, {("needed", "1"): ["sha256:ab"]})["components"]
    (reference,) = component["externalReferences"]
    assert reference["hashes"] == [{"alg": "SHA-256", "content": "ab"}]
