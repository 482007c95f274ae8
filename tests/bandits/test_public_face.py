import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import tactful_bandits
from tactful_bandits import Ratio, assign, check_sample_ratio, compare

ROOT = Path(__file__).parents[2]
README = ROOT / "bandits" / "README.md"
USERS = ("README.md", "bandits/*.md", "docs/**/*.md", "examples/**/*", "platform/**/*.py")


def test_public_names_are_sorted_and_exist() -> None:
    assert list(tactful_bandits.__all__) == sorted(set(tactful_bandits.__all__))
    assert all(hasattr(tactful_bandits, name) for name in tactful_bandits.__all__)


def test_public_names_have_users() -> None:
    files = (file for pattern in (*USERS, "benchmarks/**/*.py") for file in ROOT.glob(pattern))
    texts = [file.read_text(encoding="utf-8") for file in files if file.is_file()]
    words = {
        word
        for text in texts
        if "tactful_bandits" in text
        for word in re.findall(r"[A-Za-z_]+", text)
    }
    assert set(tactful_bandits.__all__) <= words


def test_no_module_hides_a_public_name() -> None:
    # Importing a submodule binds its name in the package, over whatever is loaded when used.
    modules = {info.name for info in pkgutil.iter_modules(tactful_bandits.__path__)}
    assert not modules & {*tactful_bandits.__all__}


def test_everything_public_is_documented() -> None:
    for info in pkgutil.walk_packages(tactful_bandits.__path__, "tactful_bandits."):
        module = import_module(info.name)
        assert module.__doc__, info.name
        for name, member in vars(module).items():
            own = getattr(member, "__module__", None) == info.name
            if own and not name.startswith("_") and (inspect.isclass(member) or callable(member)):
                assert inspect.getdoc(member), f"{info.name}.{name}"


def test_what_every_request_needs_loads_no_statistics() -> None:
    code = "import sys; import tactful_bandits; tactful_bandits.assign; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout
    modules = loaded.decode().split()
    heavy = {"scipy", "sklearn", "sqlalchemy", "torch", "gymnasium", "mlflow"}
    assert not heavy & {module.partition(".")[0] for module in modules}
    privacy = {module for module in modules if module.startswith("tactful_privacy.")}
    assert privacy == {"tactful_privacy.errors", "tactful_privacy.lazy_imports"}


def test_the_example_runs_and_finds_a_simulated_difference() -> None:
    """The example's experiment on 5,000 simulated users finds the difference put in."""
    code = README.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    names: dict[str, Any] = {}
    exec(compile(code, str(README), "exec"), names)
    experiment, estimate = names["experiment"], names["result"].estimate
    assert names["arm"] in experiment.shares
    assert estimate.value == pytest.approx(6 / 26 - 3 / 24)
    assert names["low"] < estimate.value < names["high"]
    users = [f"user-{number}" for number in range(5000)]
    arms = np.array([assign(experiment, user).arm for user in users])
    rng = np.random.default_rng(1)
    questions = 1 + rng.poisson(8, len(users))
    hits = rng.binomial(questions, np.where(arms == "challenger", 0.36, 0.30))
    champion, challenger = (
        Ratio.from_units(hits[arms == arm], questions[arms == arm]) for arm in experiment.shares
    )
    interval = compare(champion, challenger).anytime
    assert 0 < interval.low < 0.06 < interval.high
    counts = [int((arms == arm).sum()) for arm in experiment.shares]
    assert not check_sample_ratio(counts, list(experiment.shares.values())).mismatch
