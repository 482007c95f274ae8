"""The units of deploy/systemd pass systemd's own checks, and fit the command line."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from tests.test_docs import unknown_words

from tactful.config.load import load_settings

ROOT = Path(__file__).resolve().parents[2]
UNITS = ROOT / "deploy" / "systemd"
NAMES = {path.name: path.name.replace("@", "@9464") for path in UNITS.glob("*.service")}
EXPOSURE = 15  # tenths of a point, of 100: systemd calls up to 20 safe

needs_systemd = pytest.mark.skipif(
    shutil.which("systemd-analyze") is None, reason="no systemd-analyze here: Debian's systemd"
)


@pytest.fixture
def machine(tmp_path: Path) -> Path:
    """A root folder with the units and the programs that they start."""
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system")
    for program in ("opt/tactful/bin/tactful", "usr/bin/java"):
        path = tmp_path / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    targets = tmp_path / "usr/lib/systemd/system"
    targets.mkdir(parents=True)
    for name in ("multi-user", "network-online", "sysinit", "basic", "shutdown"):
        (targets / f"{name}.target").write_text("[Unit]\nDescription=a target\n")
    return tmp_path


def analyze(machine: Path, *words: str) -> tuple[int, str]:
    command = ["systemd-analyze", f"--root={machine}", "--no-pager", *words]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def verify(machine: Path) -> str:
    """What systemd finds wrong with the units."""
    code, output = analyze(machine, "verify", *NAMES.values())
    return output or ("failed" if code else "")


def exposure(machine: Path, unit: str) -> tuple[int, str]:
    return analyze(machine, "security", "--offline=true", f"--threshold={EXPOSURE}", unit)


@needs_systemd
def test_units_are_correct(machine: Path) -> None:
    assert len(NAMES) == 4
    assert verify(machine) == ""


@needs_systemd
@pytest.mark.parametrize(
    ("old", "new", "problem"),
    [
        ("ProtectSystem=strict", "ProtectSytem=strict", "ProtectSytem"),
        ("Restart=always", "Restart=alwys", "alwys"),
    ],
)
def test_a_planted_mistake_is_found(machine: Path, old: str, new: str, problem: str) -> None:
    file = machine / "etc/systemd/system/tactful-.service.d/common.conf"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    assert problem in verify(machine)


@needs_systemd
def test_a_missing_program_is_found(machine: Path) -> None:
    (machine / "opt/tactful/bin/tactful").unlink()
    assert "opt/tactful/bin/tactful" in verify(machine)


@needs_systemd
@pytest.mark.parametrize("unit", NAMES.values())
def test_units_are_confined(machine: Path, unit: str) -> None:
    code, output = exposure(machine, unit)
    assert code == 0, output


@needs_systemd
@pytest.mark.parametrize("line", ["CapabilityBoundingSet=", "User=tactful", "SystemCallFilter=@s"])
def test_a_unit_with_more_rights_is_found(machine: Path, line: str) -> None:
    file = machine / "etc/systemd/system/tactful-.service.d/common.conf"
    kept = [row for row in file.read_text().splitlines() if not row.startswith(line)]
    file.write_text("\n".join([*kept, ""]))
    assert exposure(machine, "tactful-server.service")[0] != 0


def words_of(path: Path) -> tuple[list[str], dict[str, str]]:
    """The command of a unit, and its environment."""
    text = path.read_text().replace("\\\n", " ")
    command = re.findall(r"^ExecStart=(.+)$", text, re.MULTILINE)[0].split()
    lines = re.findall(r"^Environment=(.+)$", text, re.MULTILINE)
    return command, dict(word.split("=", 1) for line in lines for word in line.split())


@pytest.mark.parametrize("name", ["tactful-server.service", "tactful-worker@.service"])
def test_commands_and_settings_exist(name: str) -> None:
    (program, *words), environment = words_of(UNITS / name)
    assert program == "/opt/tactful/bin/tactful"
    assert unknown_words([word for word in words if not word.startswith("/")]) == []
    environment = {variable: value.replace("%i", "9464") for variable, value in environment.items()}
    settings = load_settings(environ=environment)
    assert str(settings.storage.data).startswith("%S/tactful/")
    if "worker" in name:
        assert settings.worker.metrics_port == 9464
    files = [value for variable, value in environment.items() if variable.endswith("_FILE")]
    assert files and all(value.startswith("%d/tactful.") for value in files)


def test_flink_starts_as_in_the_compose_file() -> None:
    from tests.test_deploy_flink import services

    for name in ("jobmanager", "taskmanager"):
        command = [word.strip('"') for word in words_of(UNITS / f"tactful-flink-{name}.service")[0]]
        assert command == ["/usr/bin/java", *services()[name]["command"][1:]]


def test_shared_settings_are_in_one_place() -> None:
    """A setting of the shared file is in no unit, where it would hide that one."""
    shared = configparser.RawConfigParser(strict=False)
    shared.read(UNITS / "tactful-.service.d" / "common.conf")
    for name in NAMES:
        own = configparser.RawConfigParser(strict=False)
        own.read(UNITS / name)
        assert set(own["Service"]) & set(shared["Service"]) <= {"environment"}, name


@pytest.mark.skipif(shutil.which("systemd-sysusers") is None, reason="no systemd-sysusers here")
def test_the_user_of_the_units_is_made(tmp_path: Path) -> None:
    command = ["systemd-sysusers", f"--root={tmp_path}", "--dry-run", str(UNITS / "tactful.conf")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "tactful" in done.stdout + done.stderr
