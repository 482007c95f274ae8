"""The cost of importing the package, and the files of its app folder."""

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "federated"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.slow
def test_import_pulls_neither_torch_nor_flwr() -> None:
    done = run(
        "import sys, tactful_federated as f, numpy as np\n"
        "from tactful_federated.model.vectors import parameter_count\n"
        "v = f.Vocabulary.from_catalogue(['a', 'b'])\n"
        "f.windows(v.sequence([['a'], ['b']]))\n"
        "f.start(np.zeros(3, dtype=np.float32))\n"
        "f.SimulatedPopulation, f.TrainerSettings\n"
        "assert 'scipy' not in sys.modules\n"
        "w = np.zeros(parameter_count(v.size), dtype=np.float32)\n"
        "f.personalise(f.IntentPredictor(w, v.size), [['a'], ['b']] * 20, v)\n"
        "f.DeviceIntent\n"
        "f.Device([['a'], ['b']] * 20, v).train(w, 1)\n"
        "found = {'torch', 'flwr', 'opacus', 'ray'} & set(sys.modules)\n"
        "assert not found, found\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("missing", ["torch", "flwr"])
def test_missing_dependency_names_the_extra(missing: str) -> None:
    names = "simulate IntentModel" if missing == "torch" else "simulate LocalGrid"
    done = run(
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        f"        if name.partition('.')[0] == {missing!r}:\n"
        "            raise ModuleNotFoundError(f'No module named {name!r}', name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "import tactful_federated as f\n"
        "assert f.Vocabulary.from_catalogue(['a']).size == 4\n"
        f"for name in {names!r}.split():\n"
        "    try:\n"
        "        getattr(f, name)\n"
        "    except f.MissingExtraError as error:\n"
        "        assert 'tactful[federated]' in str(error), error\n"
        f"        assert {missing!r} in str(error), error\n"
        "    else:\n"
        "        raise SystemExit(f'{name} loaded')\n"
    )
    assert done.returncode == 0, done.stderr


def test_app_folder_agrees_with_the_distribution() -> None:
    app = tomllib.loads((FOLDER / "pyproject.toml").read_text("utf-8"))
    whole = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    assert app["project"]["version"] == whole["project"]["version"]
    known = {*whole["project"]["dependencies"]}
    known |= {*whole["project"]["optional-dependencies"]["federated"]}
    assert set(app["project"]["dependencies"]) <= known
    assert (FOLDER / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    for component in app["tool"]["flwr"]["app"]["components"].values():
        module, _, name = component.partition(":")
        assert (FOLDER / f"{module.replace('.', '/')}.py").is_file() and name in (
            "client",
            "server",
        )
