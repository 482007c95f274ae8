"""Matching of request paths with the templates of routes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Generic, TypeVar
from urllib.parse import unquote

T = TypeVar("T")


class Paths(Generic[T]):
    """Resources by path template, such as ``/v1/users/{user_id}/features``.

    A path is split before it is decoded, so that a parameter may contain any character, slashes
    and the name of another resource included: ``/users/x%2Flog`` is the user ``x/log``.

    >>> Paths({"/users/{id}": "user", "/users/{id}/log": "log"}).find(b"/users/x%2Flog")
    ('user', {'id': 'x/log'})
    """

    def __init__(self, resources: Mapping[str, T]) -> None:
        """Index `resources`, by template."""
        items = resources.items()
        self._fixed = {path.encode(): resource for path, resource in items if "{" not in path}
        self._templates = [(path.split("/"), resource) for path, resource in items]

    def find(self, path: bytes) -> tuple[T | None, Mapping[str, str]]:
        """Return the resource of an encoded path, or None, and the parameters in the path."""
        if (resource := self._fixed.get(path)) is not None:
            return resource, {}
        try:
            segments = [unquote(part, errors="strict") for part in path.decode("ascii").split("/")]
        except UnicodeDecodeError:  # replacing bytes would make one id of two
            return None, {}
        for template, resource in self._templates:
            parameters = _match(template, segments)
            if parameters is not None:
                return resource, parameters
        return None, {}


def _match(template: Sequence[str], segments: Sequence[str]) -> dict[str, str] | None:
    """Return the parameters of a path that has the form of a template, else None."""
    if len(template) != len(segments):
        return None
    parameters = {}
    for expected, segment in zip(template, segments, strict=True):
        if expected.startswith("{") and segment:
            parameters[expected[1:-1]] = segment
        elif expected != segment:
            return None
    return parameters
