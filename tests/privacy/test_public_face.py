"""Public names of the package: exported, sorted, documented, with examples that run."""

import doctest
import importlib
import inspect
import pkgutil

import tactful_privacy


def test_all_is_sorted_and_complete() -> None:
    names = tactful_privacy.__all__
    assert sorted(names, key=lambda n: (not n.isupper(), n)) == names
    assert {name for name in names if hasattr(tactful_privacy, name)} == {*names}
    bound = {
        name
        for name, value in vars(tactful_privacy).items()
        if getattr(value, "__module__", "").startswith("tactful_privacy.")
        and value.__module__ != "tactful_privacy.lazy_imports"
    }
    assert bound.union(*map(str.split, tactful_privacy._LAZY.values())) == {*names}


def test_everything_public_is_documented() -> None:
    for name in tactful_privacy.__all__:
        member = getattr(tactful_privacy, name)
        assert inspect.getdoc(member), name
        for attribute, value in vars(member).items() if inspect.isclass(member) else ():
            if not attribute.startswith("_") and (
                inspect.isfunction(value) or isinstance(value, property)
            ):
                assert inspect.getdoc(value), f"{name}.{attribute}"


def test_examples_in_docstrings_run() -> None:
    modules = pkgutil.walk_packages(tactful_privacy.__path__, "tactful_privacy.")
    results = [doctest.testmod(importlib.import_module(module.name)) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 15
