"""The OpenAPI 3.1 document, generated from the endpoints and from `examples.yaml`."""

from __future__ import annotations

import functools
import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import yaml

from tactful.http.asgi import ANY_KEY, Endpoint
from tactful.http.sources import SEGMENT_LIKE
from tactful.metadata.key_cache import SCOPES
from tactful.schemas import browser_access as browser
from tactful.schemas.experiments.rollouts import STEPS
from tactful.schemas.problems import KINDS, Problem, ProblemError
from tactful.schemas.statistics import CONCLUSIONS
from tactful.sources.segment import CALLS

_REFERENCE = "#/components/schemas/{name}"
_NAME = {"type": "string", "minLength": 1}
_PATH_SCHEMAS: dict[str, dict[str, Any]] = {
    "user_id": {"type": "string", "minLength": 1, "maxLength": 263},
    "item_id": {"type": "string", "minLength": 1, "maxLength": 256},
    "step": {"enum": list(STEPS)},
    "source": {"enum": list(SEGMENT_LIKE)},
    "call": {"enum": list(CALLS)},
    "conclusion": {"enum": list(CONCLUSIONS)},
}
_PARAMETER = re.compile(r"\{(\w+)\}")
_ATTRIBUTE = re.compile(r"^(\w+): ", re.MULTILINE)


class Example(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Request that succeeds, with its path and query parameters, and the response.

    `links` are requests that may follow, as OpenAPI writes them.
    """

    parameters: dict[str, Any] = {}
    request: Any = None
    answer: Any = None
    links: dict[str, Any] = {}


def example_of(endpoint: Endpoint) -> Example:
    """Return the example of an endpoint, which is empty where there is none."""
    return _examples().get(f"{endpoint.method} {endpoint.path}", Example())


@functools.cache
def _examples() -> dict[str, Example]:
    text = Path(__file__).with_name("examples.yaml").read_text("utf-8")
    return msgspec.convert(yaml.safe_load(text), dict[str, Example])


def document(endpoints: Sequence[Endpoint], *, version: str) -> dict[str, Any]:
    """Make the document of `endpoints`, ready to be encoded as JSON."""
    types: list[Any] = [Problem]
    for endpoint in endpoints:
        types += [kind for kind in (endpoint.body, endpoint.answer, endpoint.query) if kind]
    schemas, components = msgspec.json.schema_components(types, ref_template=_REFERENCE)
    by_type = dict(zip(map(repr, types), schemas, strict=True))
    for component in components.values():
        _explain_properties(component)
    queries = {endpoint.query.__name__ for endpoint in endpoints}
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        operation = _operation(endpoint, by_type, components)
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = operation
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "tactful",
            "version": version,
            "summary": "Real-time personalisation that does not hold people's data hostage.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {name: schema for name, schema in components.items() if name not in queries},
            "securitySchemes": {
                "bearer": {
                    "type": "http",
                    "scheme": "bearer",
                    "description": f"An API key. Scopes: {', '.join(SCOPES)}.",
                },
                "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
                "query": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "key",
                    "description": "A key with the scope `browser`, where no header can be sent.",
                },
                "basic": {
                    "type": "http",
                    "scheme": "basic",
                    "description": "A key with the scope `source` as the user name.",
                },
                "secret": {
                    "type": "apiKey",
                    "in": "query",
                    "name": "api_secret",
                    "description": "A key with the scope `source`, where no header can be sent.",
                },
            },
        },
    }


def problem_codes(endpoint: Endpoint) -> list[str]:
    """Return the codes of all problems that `endpoint` can respond with."""
    codes = list(endpoint.problems)
    if endpoint.scope is not None:
        codes += ["no_key", "key_expired", "too_many_requests", "quota_used_up"]
    if endpoint.scope not in (None, ANY_KEY):
        codes.append("missing_scope")
    if endpoint.browser:
        codes.append("wrong_origin")
    if endpoint.body is not None:
        codes += ["bad_body", "body_timeout", "too_large"]
        codes += ["unsupported_encoding", "unsupported_media"]
    codes += ["bad_query", "uri_too_long", "head_too_large", "wrong_host", "internal"]
    return sorted(set(codes), key=lambda code: (KINDS[code].status, code))


def _operation(
    endpoint: Endpoint, schemas: Mapping[str, Any], components: Mapping[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.handle.__name__.strip("_"),
        "summary": endpoint.summary,
        "responses": _responses(endpoint, schemas),
        "security": [],
    }
    if endpoint.details:
        operation["description"] = endpoint.details
    if endpoint.scope is not None:
        scopes = [endpoint.scope, *([browser.SCOPE] if endpoint.browser else [])]
        scopes += ["analyst"] if endpoint.analyst else []
        operation["security"] = [
            {scheme: [] if scope == ANY_KEY else [scope]}
            for scope in scopes
            for scheme in ("bearer", "header")
        ]
        if endpoint.takes_key_in_query:
            operation["security"].append({"query": [browser.SCOPE]})
        if endpoint.foreign:
            operation["security"].append({"basic": [endpoint.scope]})
        if endpoint.secret:
            operation["security"].append({"secret": [endpoint.scope]})
    if parameters := _parameters(endpoint, components):
        operation["parameters"] = parameters
    if endpoint.body is not None:
        example = example_of(endpoint)
        content = {medium: {"schema": {"type": "string"}} for medium in endpoint.media}
        content["application/json"] = {
            "schema": schemas[repr(endpoint.body)],
            "example": example.request,
        }
        operation["requestBody"] = {"required": True, "content": content}
    return operation


def _parameters(endpoint: Endpoint, components: Mapping[str, Any]) -> list[dict[str, Any]]:
    example = example_of(endpoint).parameters
    parameters: list[dict[str, Any]] = [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": _PATH_SCHEMAS.get(name, _NAME),
            "example": example[name],
        }
        for name in _PARAMETER.findall(endpoint.path)
    ]
    query = components[endpoint.query.__name__]
    for name, schema in query["properties"].items():
        required = name in query["required"]
        parameter = {"name": name, "in": "query", "required": required, "schema": schema}
        if name in example:
            parameter["example"] = example[name]
        parameters.append(parameter)
    return parameters


def _responses(endpoint: Endpoint, schemas: Mapping[str, Any]) -> dict[str, Any]:
    identified = {"X-Request-Id": {"schema": {"type": "string"}}}
    content: dict[str, Any] = {}
    if endpoint.answer is not None:
        content["schema"] = schemas[repr(endpoint.answer)]
    if (answer := example_of(endpoint).answer) is not None:
        content["example"] = answer
    responses: dict[str, Any] = {
        str(endpoint.status): {
            "description": endpoint.summary,
            "headers": identified,
            "content": {
                **{medium: {"schema": {"type": "string"}} for medium in endpoint.answer_media},
                **({"application/json": content} if endpoint.answer is not None else {}),
            },
        }
    }
    if endpoint.moved:
        location = {"Location": {"schema": {"type": "string"}}}
        moved = {"description": endpoint.moved, "headers": identified | location, "content": {}}
        responses["302"] = moved
    if links := example_of(endpoint).links:
        responses[str(endpoint.status)]["links"] = links
    for code in problem_codes(endpoint):
        kind = KINDS[code]
        response = responses.setdefault(
            str(kind.status),
            {
                "description": kind.title,
                "headers": dict(identified),
                "content": {
                    "application/problem+json": {"schema": schemas[repr(Problem)], "examples": {}}
                },
            },
        )
        if kind.status in (429, 503):
            response["headers"]["Retry-After"] = {"schema": {"type": "integer"}}
        examples = response["content"]["application/problem+json"]["examples"]
        examples[code] = {"value": msgspec.to_builtins(ProblemError(code).problem("5f2b9c0e11aa"))}
    return responses


def _explain_properties(component: dict[str, Any]) -> None:
    """Describe a type and its properties by the parts of its docstring."""
    head, _, attributes = inspect.cleandoc(component.get("description", "")).partition(
        "\n\nAttributes:\n"
    )
    component["description"] = head
    texts = _attribute_texts(inspect.cleandoc(attributes))
    for name, schema in component.get("properties", {}).items():
        if name in texts:
            schema["description"] = texts[name]


def _attribute_texts(block: str) -> dict[str, str]:
    parts = _ATTRIBUTE.split(block)[1:]
    return {
        name.rstrip("_"): " ".join(text.split())  # an underscore marks names that Python reserves
        for name, text in zip(parts[::2], parts[1::2], strict=True)
    }
