"""Public names of the libraries: sorted, used, documented, with examples that run."""

import doctest
import inspect
import pkgutil
import re
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
DOCUMENTS = ("README.md", "docs/**/*.md", "examples/**/*.py")
CODE = ("platform/**/*.py", "benchmarks/**/*.py")
# Types that public functions take or return, which their users need not name.
UNNAMED = {"CentralSettings", "RoundSettings", "SimulationSettings", "Odometer", "Spend"}
# Where the names of each library have users, and how many examples its docstrings have at least.
LIBRARIES = {
    "tactful_privacy": (("privacy/**/*.md", *DOCUMENTS, *CODE), 15),
    "tactful_streaming": (("streaming/**/*.md", *DOCUMENTS), 5),
    "tactful_federated": (("federated/*.md", *DOCUMENTS, *CODE), 0),
    "tactful_bandits": (("bandits/*.md", *DOCUMENTS, *CODE), 0),
}


@pytest.fixture(params=LIBRARIES)
def library(request: pytest.FixtureRequest) -> ModuleType:
    return import_module(request.param)


def modules_of(library: ModuleType) -> Iterator[ModuleType]:
    for info in pkgutil.walk_packages(library.__path__, f"{library.__name__}."):
        with suppress(ImportError):  # an extra that is not installed
            yield import_module(info.name)


def test_names_are_sorted_and_exist(library: ModuleType) -> None:
    names = library.__all__
    assert len(names) == len({*names})
    assert names in (sorted(names), sorted(names, key=lambda name: (not name.isupper(), name)))
    assert all(getattr(library, name) is not None for name in names)
    assert {*names} >= {*" ".join(library._LAZY.values()).split()}
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        _ = library.nonsense
    # Importing a submodule binds its name in the package.
    assert not {info.name for info in pkgutil.iter_modules(library.__path__)} & {*names}


def test_names_have_users(library: ModuleType) -> None:
    patterns, _ = LIBRARIES[library.__name__]
    files = [file for pattern in patterns for file in ROOT.glob(pattern)]
    texts = [file.read_text("utf-8") for file in files if "decisions" not in file.parts]
    words = {word for text in texts for word in re.findall(r"\w+", text)}
    assert {*library.__all__} - words <= UNNAMED


def test_everything_public_is_documented(library: ModuleType) -> None:
    for module in modules_of(library):
        assert module.__doc__, module.__name__
        for name, member in vars(module).items():
            own = getattr(member, "__module__", None) == module.__name__
            if own and not name.startswith("_") and callable(member):
                assert inspect.getdoc(member), f"{module.__name__}.{name}"
    for name in library.__all__:
        public: Any = getattr(library, name)
        if inspect.isclass(public) or inspect.isfunction(public):
            assert inspect.getdoc(public), name
        for attribute, value in vars(public).items() if inspect.isclass(public) else ():
            is_method = inspect.isfunction(value) or isinstance(value, property)
            assert attribute.startswith("_") or not is_method or inspect.getdoc(value), attribute


@pytest.mark.slow
def test_examples_in_docstrings_run(library: ModuleType) -> None:
    results = [doctest.testmod(module) for module in modules_of(library)]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= LIBRARIES[library.__name__][1]


def test_errors_share_one_root(library: ModuleType) -> None:
    errors = vars(import_module(f"{library.__name__}.errors")).values()
    kinds = [kind for kind in errors if inspect.isclass(kind) and issubclass(kind, Exception)]
    assert any(all(issubclass(kind, root) for kind in kinds) for root in kinds) and len(kinds) > 3
