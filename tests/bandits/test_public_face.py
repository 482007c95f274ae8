import inspect
import pkgutil
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import tactful_bandits

ROOT = Path(__file__).parents[2]
USERS = ("README.md", "bandits/*.md", "docs/**/*.md", "examples/**/*", "platform/**/*.py")


def test_public_names_are_sorted_and_exist() -> None:
    assert list(tactful_bandits.__all__) == sorted(set(tactful_bandits.__all__))
    assert all(hasattr(tactful_bandits, name) for name in tactful_bandits.__all__)


def test_public_names_have_users() -> None:
    """The platform, a document, an example or a benchmark uses every public name."""
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
