"""Modules, and public names of a package, that are imported at their first use."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from importlib import import_module
from typing import Any


def lazy_names(
    package: str, public: Sequence[str], modules: Mapping[str, str]
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """Make the functions ``__getattr__`` and ``__dir__`` of a package (PEP 562).

    `modules` holds the names to import from each module, separated by spaces. For type checkers the
    package also imports them below ``if TYPE_CHECKING``.
    """
    homes = {name: module for module, names in modules.items() for name in names.split()}

    def load(name: str) -> Any:
        if name not in homes:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{homes[name]}"), name)

    return load, lambda: list(public)


class LazyModule:
    """A module that is imported when an attribute is first read.

    For what costs megabytes in every server, and which few servers use: ``scipy.special`` 16 MB,
    ``faiss`` 13 MB.
    """

    def __init__(self, name: str) -> None:
        """Stand for the module `name`."""
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        """Read an attribute of the module, once."""
        value = getattr(import_module(self._name), attribute)
        setattr(self, attribute, value)
        return value
