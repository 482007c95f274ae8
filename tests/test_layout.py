"""The house: six source roots, two distributions, floors, and no shadow on the standard library."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
import tomllib
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]

# Each top-level folder is a source root that holds exactly one package.
PACKAGES = {
    "platform": "tactful",
    "privacy": "tactful_privacy",
    "streaming": "tactful_streaming",
    "federated": "tactful_federated",
    "bandits": "tactful_bandits",
    "ui": "tactful_ui",
}


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def tracked(*patterns: str) -> list[Path]:
    """Return files that git tracks or would track, relative to the root; none without git."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *patterns]
    try:
        listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return []
    paths = [Path(name) for name in listed.stdout.split("\0") if name]
    return [path for path in paths if (ROOT / path).is_file()]


@pytest.fixture(scope="module")
def files() -> list[Path]:
    return tracked() or pytest.skip("not a git checkout")


# `platform` stays the standard library's.


def test_pytest_sees_the_standard_platform() -> None:
    import platform

    assert platform.system()


@pytest.mark.slow
@pytest.mark.parametrize("library", ["", "torch", "streamlit"])
def test_python_at_the_root_sees_the_standard_platform(library: str) -> None:
    if library and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed: it comes with an extra")
    code = f"import platform{', ' + library if library else ''}; print(platform.python_version())"
    ran = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.split() == [".".join(map(str, sys.version_info[:3]))]


def test_no_loose_module_hides_another() -> None:
    # An editable install and `streamlit run ui/app.py` put these folders on sys.path.
    loose = {
        path.relative_to(ROOT).as_posix()
        for name in PACKAGES
        for path in (ROOT / name).glob("*.py")
    }
    assert loose <= {"ui/app.py"}


# The six names agree wherever they are listed.


def test_names_agree_in_every_tool(project: dict[str, Any]) -> None:
    tool = project["tool"]
    folders = sorted(PACKAGES)
    wheel = tool["hatch"]["build"]["targets"]["wheel"]
    assert sorted(f"{f}/{p}" for f, p in PACKAGES.items()) == sorted(wheel["packages"])
    assert folders == sorted(wheel["dev-mode-dirs"])
    assert folders == sorted(tool["coverage"]["run"]["source"])
    assert folders == sorted(tool["ruff"]["src"])
    assert folders == sorted(tool["pyright"]["extraPaths"])
    mypy_path = tool["mypy"]["mypy_path"].split(":")
    assert folders == sorted(path.removeprefix("$MYPY_CONFIG_FILE_DIR/") for path in mypy_path)
    assert set(folders) <= set(tool["mypy"]["files"])
    linter = tool["importlinter"]
    assert sorted(PACKAGES.values()) == sorted(linter["root_packages"])
    layers = [name for floor in linter["contracts"][0]["layers"] for name in floor.split(" | ")]
    assert sorted(PACKAGES.values()) == sorted(layers)


@pytest.mark.parametrize(("folder", "package"), PACKAGES.items())
def test_package_is_alone_typed_and_says_what_is_public(folder: str, package: str) -> None:
    assert [path.parent.name for path in (ROOT / folder).glob("*/__init__.py")] == [package]
    assert (ROOT / folder / package / "py.typed").is_file()
    tree = ast.parse((ROOT / folder / package / "__init__.py").read_text(encoding="utf-8"))
    assert ast.get_docstring(tree)
    # That the names exist is each room's own test; that they are in order is ruff's RUF022.
    public = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__"
    ]
    assert len(public) == 1, "one literal __all__ per package"
    assert len(public[0]) == len(set(public[0]))


# Floors.


def lint_imports(root: Path, *contracts: str) -> subprocess.CompletedProcess[str]:
    """Run the repository's contracts, or those named, on the packages below a root."""
    chosen = [part for contract in contracts for part in ("--contract", contract)]
    command = ["lint-imports", "--no-cache", "--config", str(ROOT / "pyproject.toml"), *chosen]
    environment = {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join(str(root / folder) for folder in PACKAGES),
    }
    environment = os.environ | environment
    return subprocess.run(command, cwd=root, capture_output=True, text=True, env=environment)


def toy_house(root: Path, imports: dict[str, str]) -> Path:
    """Six packages of one line each: what they import."""
    for folder, package in PACKAGES.items():
        (root / folder / package).mkdir(parents=True)
        (root / folder / package / "__init__.py").write_text(imports.get(package, "") + "\n")
    return root


@pytest.mark.slow
def test_floors_hold() -> None:
    ran = lint_imports(ROOT)
    assert ran.returncode == 0, ran.stdout


def test_floors_allow_what_the_design_allows(tmp_path: Path) -> None:
    allowed = {
        "tactful_streaming": "import tactful_privacy",
        "tactful": "import tactful_streaming, tactful_federated, tactful_bandits",
        "tactful_ui": "import tactful",
    }
    assert lint_imports(toy_house(tmp_path, allowed), "floors", "dashboard").returncode == 0


@pytest.mark.parametrize(
    ("package", "imported"),
    [
        ("tactful_privacy", "tactful"),
        ("tactful_privacy", "tactful_streaming"),
        ("tactful_streaming", "tactful_federated"),
        ("tactful_bandits", "tactful_streaming"),
        ("tactful", "tactful_ui"),
        ("tactful_ui", "tactful_streaming"),
    ],
)
def test_floors_catch_a_planted_import(tmp_path: Path, package: str, imported: str) -> None:
    house = toy_house(tmp_path, {package: f"import {imported}"})
    ran = lint_imports(house, "floors", "dashboard")
    assert ran.returncode != 0
    assert f"{package} -> {imported}" in ran.stdout


def test_a_folder_holds_at_most_24_modules() -> None:
    paths = [path for item in PACKAGES.items() for path in ROOT.joinpath(*item).rglob("*.py")]
    modules = Counter(path.parent for path in paths if path.name != "__init__.py")
    assert {path: count for path, count in modules.items() if count > 24} == {}


def test_every_sub_package_has_a_level(project: dict[str, Any]) -> None:
    levels = {
        contract["containers"][0]: {
            name for layer in contract["layers"] for name in re.split(r" [:|] ", layer)
        }
        for contract in project["tool"]["importlinter"]["contracts"]
        if "containers" in contract
    }
    for folder, package in PACKAGES.items():
        home = ROOT / folder / package
        parts = {path.parent.name for path in home.glob("*/__init__.py")}
        parts |= {path.stem for path in home.glob("*.py")} - {"__init__"}
        assert levels[package] == parts


def test_every_sub_package_has_a_short_docstring() -> None:
    """It names what the folder owns, what it may import and where to begin reading."""
    for folder, package in PACKAGES.items():
        for path in (ROOT / folder / package).rglob("*/__init__.py"):
            if "migrations" not in path.parts:
                text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
                assert text, path
                assert len(text.splitlines()) <= 10, path
                begin = re.search(r"\bBegin with `(\w+)`", text)
                assert begin, path
                assert (path.parent / f"{begin[1]}.py").is_file(), path


def test_errors_of_decoders_are_listed_once() -> None:
    """Hostile text may also raise RecursionError: one module lists what a decoder raises."""
    sources = [path for folder in PACKAGES for path in (ROOT / folder).rglob("*.py")]
    assert {path.name for path in sources if "RecursionError" in path.read_text("utf-8")} == {
        "decoding.py",
        "yaml_source.py",  # of experiments and flags, where a recursion has a message of its own
    }


def test_dashboard_uses_nothing_of_the_platform_but_its_client() -> None:
    source = "import tactful.client as c\ndef f():\n    from tactful import recall\n"
    assert imported_modules(source) == {"tactful.client", "tactful"}
    used = {
        name
        for path in (ROOT / "ui").rglob("*.py")
        for name in imported_modules(path.read_text(encoding="utf-8"))
        if name.split(".")[0] in set(PACKAGES.values()) - {"tactful_ui"}
    }
    assert {name for name in used if not f"{name}.".startswith("tactful.client.")} == set()


def imported_modules(source: str) -> set[str]:
    """Full names of the modules that a source text imports (``from a import b`` counts as a)."""
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for it in nodes if isinstance(it, ast.Import) for alias in it.names}
    return names | {it.module for it in nodes if isinstance(it, ast.ImportFrom) and it.module}


# What is in the repository.


def test_scripts_can_be_run() -> None:
    scripts = [*(ROOT / "scripts").iterdir(), ROOT / ".ci" / "run"]
    assert [path.name for path in scripts if not os.access(path, os.X_OK)] == []
    assert {"environment", "test", "demo", "check", "bench"} <= {path.name for path in scripts}


def test_no_file_names_a_place_on_somebodys_machine(files: list[Path]) -> None:
    place = re.compile(rb"(?<![\w.$}])/(work|root|opt/wheels|Users)/\w")
    found = [
        f"{path}: {line.decode(errors='replace').strip()[:100]}"
        for path in files
        for line in (ROOT / path).read_bytes().splitlines()
        if place.search(line)
    ]
    assert found == []


def test_no_large_or_generated_file_is_tracked(files: list[Path]) -> None:
    assert [str(path) for path in files if (ROOT / path).stat().st_size > 2**20] == []
    assert [str(path) for path in files if path.suffix in {".pyc", ".db", ".whl"}] == []


def test_what_runs_last_is_found_by_its_mark(files: list[Path]) -> None:
    # scripts/test looks for these marks in the text of files whose name begins with test_.
    script = (ROOT / "scripts" / "test").read_text(encoding="utf-8")
    assert "--include='test_*.py'" in script
    marked = re.compile(r"\bmark\.(slow|long|alone)\b")
    others = [path for path in files if path.parts[0] == "tests" and path.suffix == ".py"]
    assert [
        path.as_posix()
        for path in others
        if not path.name.startswith("test_")
        and marked.search((ROOT / path).read_text(encoding="utf-8"))
    ] == []
