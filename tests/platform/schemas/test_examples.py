"""Examples in the docstrings of requests and responses."""

import doctest
import pkgutil
from importlib import import_module

from tactful import schemas


def test_examples_in_docstrings_run() -> None:
    modules = pkgutil.iter_modules(schemas.__path__, "tactful.schemas.")
    results = [doctest.testmod(import_module(module.name)) for module in modules]
    assert sum(result.failed for result in results) == 0
    assert sum(result.attempted for result in results) >= 3
