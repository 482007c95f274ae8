"""Every route of the API has a method of the client, or a function in `tactful.client.routes`."""

from __future__ import annotations

import datetime as dt
import inspect
import pkgutil
import re
import typing
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest

from tactful.client import Client, routes
from tactful.client.request import Request
from tactful.http.routes import ENDPOINTS

METHODS = {
    "POST /v1/events": Client.events,
    "PUT /v1/items": Client.items,
    "PUT /v1/users": Client.users,
}
"""Routes that methods of the client call, since these give ids and split what is long."""

UNCOVERED = {
    "GET /v1/events/stream",  # it has no end, and a `Request` reads whole answers
    "GET /v1/flags/stream",  # as before
}
"""Routes without a function yet; the set may only shrink."""

MODULES = [name for _, name, _ in pkgutil.iter_modules(routes.__path__)]
NAMES = {f"{it.method} {it.path}": it for it in ENDPOINTS}


def functions() -> Iterator[tuple[str, Any]]:
    for name in MODULES:
        module = import_module(f"tactful.client.routes.{name}")
        for function_name, function in inspect.getmembers(module, inspect.isfunction):
            if function.__module__ == module.__name__ and not function_name.startswith("_"):
                yield f"{name}.{function_name}", function


class Body:
    """Stands for a struct, whichever fields are read of it."""

    def __getattr__(self, name: str) -> str:
        return "x"


def example(function: Any, name: str) -> Any:
    """Return an argument for a parameter by its annotation."""
    annotation = str(inspect.signature(function).parameters[name].annotation)
    kind = typing.get_type_hints(function)[name]
    for begin, value in (
        ("Mapping", {}),
        ("Sequence", []),
        ("Iterable", []),
        ("bytes", b""),
        ("int", 1),
        ("float", 1.0),
        ("bool", True),
        ("datetime", dt.datetime(2026, 3, 1, tzinfo=dt.UTC)),
    ):
        if annotation.startswith(begin):
            return value
    choices = typing.get_args(kind)
    return "x" if kind is str or any(it is str or isinstance(it, str) for it in choices) else Body()


def made(function: Any) -> Request[Any]:
    """Call a function of the routes with examples of the arguments it needs."""
    arguments: dict[str, Any] = {}
    for name, it in inspect.signature(function).parameters.items():
        variable = it.kind in (it.VAR_KEYWORD, it.VAR_POSITIONAL)
        if it.default is inspect.Parameter.empty and not variable:
            arguments[name] = example(function, name)
    request = function(**arguments)
    assert isinstance(request, Request), function
    return request


def endpoint_of(request: Request[Any]) -> str:
    """Return the route that a request meets; one without parameters before others."""
    for name, endpoint in sorted(NAMES.items(), key=lambda pair: pair[1].path.count("{")):
        pattern = re.sub(r"\\\{\w+\\\}", "[^/]+", re.escape(endpoint.path))
        if endpoint.method == request.method and re.fullmatch(pattern, request.path):
            return name
    raise AssertionError(f"no route {request.method} {request.path}")


REQUESTS = {name: made(function) for name, function in functions()}


def test_every_route_is_covered() -> None:
    covered = {endpoint_of(request) for request in REQUESTS.values()} | METHODS.keys()
    assert NAMES.keys() - covered == UNCOVERED, "only what is listed lacks a function"


@pytest.mark.parametrize("name", REQUESTS)
def test_a_function_asks_for_the_answer_that_its_route_gives(name: str) -> None:
    request, endpoint = REQUESTS[name], NAMES[endpoint_of(REQUESTS[name])]
    if request.answer is not bytes:
        same_name = getattr(request.answer, "__name__", "") == getattr(
            endpoint.answer, "__name__", ""
        )
        assert same_name or request.answer == dict[str, Any], (request.answer, endpoint.answer)
    unknown = request.params.keys() - {*endpoint.query.__struct_fields__}
    assert not unknown, f"the route has no parameters {unknown}"
    assert (request.body is not None) == (endpoint.body is not None)


@pytest.mark.parametrize("name", REQUESTS)
def test_ids_cannot_leave_their_part_of_a_path(name: str) -> None:
    function = dict(functions())[name]
    parameters = inspect.signature(function).parameters
    texts = [it for it, about in parameters.items() if about.annotation in ("str", str)]
    for parameter in texts:
        arguments = {
            it: example(function, it)
            for it, about in parameters.items()
            if about.default is inspect.Parameter.empty
            and about.kind not in (about.VAR_KEYWORD, about.VAR_POSITIONAL)
        }
        odd = function(**{**arguments, parameter: "../a/b?c#d"})
        assert odd.path.count("/") == REQUESTS[name].path.count("/")
        assert not {*"?#"} & {*odd.path}
