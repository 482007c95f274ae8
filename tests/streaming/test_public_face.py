"""Public names of the package: sorted, documented, and used by a document or an example."""

import doctest
import inspect
import pkgutil
import re
from importlib import import_module
from pathlib import Path

import tactful_streaming

ROOT = Path(__file__).parents[2]
USERS = ("README.md", "streaming/**/*.md", "docs/**/*.md", "examples/**/*.py")


def test_public_names_are_sorted_and_exist() -> None:
    names = tactful_streaming.__all__
    lazy = " ".join(tactful_streaming._LAZY.values()).split()
    assert names == sorted({*names}) == sorted(lazy)
    assert all(hasattr(tactful_streaming, name) for name in names)


def test_public_names_have_users() -> None:
    files = (file for pattern in USERS for file in ROOT.glob(pattern))
    texts = [file.read_text(encoding="utf-8") for file in files]
    words = {word for text in texts for word in re.findall(r"[A-Za-z_]+", text)}
    assert {*tactful_streaming.__all__} <= words


def test_no_module_hides_a_public_name() -> None:
    # Importing a submodule binds its name in the package.
    modules = {info.name for info in pkgutil.iter_modules(tactful_streaming.__path__)}
    assert not modules & {*tactful_streaming.__all__}


def test_public_methods_are_documented() -> None:
    """Classes and functions of all modules have docstrings, and so have their public methods."""
    for info in pkgutil.walk_packages(tactful_streaming.__path__, "tactful_streaming."):
        module = import_module(info.name)
        assert module.__doc__, info.name
        for name, member in vars(module).items():
            if name.startswith("_") or getattr(member, "__module__", None) != info.name:
                continue
            assert not callable(member) or member.__doc__, f"{info.name}.{name}"
            methods = inspect.getmembers(member, inspect.isfunction)
            for method, function in methods if inspect.isclass(member) else ():
                if function.__module__ == info.name and not method.startswith("_"):
                    assert function.__doc__, f"{info.name}.{name}.{method}"


def test_examples_in_docstrings_run() -> None:
    modules = pkgutil.walk_packages(tactful_streaming.__path__, "tactful_streaming.")
    results = [doctest.testmod(import_module(module.name)) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 5


def test_errors_share_one_root() -> None:
    errors = [
        member
        for member in vars(import_module("tactful_streaming.errors")).values()
        if inspect.isclass(member) and issubclass(member, Exception)
    ]
    assert len(errors) > 10
    assert all(issubclass(error, tactful_streaming.StreamingError) for error in errors)
