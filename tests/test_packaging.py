"""The wheel holds the six packages with all of their files, and nothing else."""

import subprocess
import sys
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from tests.test_layout import tracked

ROOT = Path(__file__).resolve().parents[1]

pytest.importorskip("hatchling", reason="hatchling builds the wheel; it is in the group dev")


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index"]
    command += ["--no-build-isolation", "--wheel-dir", str(folder), str(ROOT)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    (path,) = folder.glob("tactful-*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    packages = sorted(str(path.parent) for path in ROOT.glob("*/tactful*/__init__.py"))
    assert len(packages) == 6
    files = tracked(*packages) or pytest.skip("not a git checkout")
    expected = {Path(*path.parts[1:]).as_posix() for path in files}
    packed = {name for name in wheel.namelist() if ".dist-info/" not in name}
    assert packed == expected


def test_wheel_holds_the_pages_of_the_demos_shop(wheel: zipfile.ZipFile) -> None:
    """With the bundled client, since an installation has no Node to make it."""
    folder = "tactful/demo/shop"
    packed = {name.removeprefix(f"{folder}/") for name in wheel.namelist() if folder in name}
    pages = ("index.html", "icon.svg", "intent.js", "shop.css", "shop.js", "view.js")
    assert packed >= {"client/tactful.js", *(f"page/{name}" for name in pages)}
    client = wheel.read(f"{folder}/client/tactful.js").decode()
    assert "export{" in client
    assert "/v1/recommend" in client


def test_every_package_in_the_wheel_is_typed(wheel: zipfile.ZipFile) -> None:
    typed = {name.split("/")[0] for name in wheel.namelist() if name.endswith("/py.typed")}
    top = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" not in name}
    assert typed == top


def test_metadata(wheel: zipfile.ZipFile) -> None:
    def read(file: str) -> str:
        (name,) = (name for name in wheel.namelist() if name.endswith(f".dist-info/{file}"))
        return wheel.read(name).decode()

    fields = Parser().parsestr(read("METADATA"))
    assert fields["License-Expression"] == "Apache-2.0"
    extras = (
        "accounting all dashboard demo federated kafka mysql noise notebook oidc onnx "
        "openfeature ray redis"
    )
    assert {*extras.split(), "terminal", "tracing", "tuner", "two-tower"} == set(
        fields.get_all("Provides-Extra", [])
    )
    assert "tactful = tactful.cli.main:main" in read("entry_points.txt")
    assert "Apache License" in read("licenses/LICENSE")
