"""The OpenAPI document agrees with the routes, and its examples work."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

import jsonschema
import msgspec
import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from tests.platform.support import Live

from tactful.http.asgi import Endpoint
from tactful.http.openapi import _examples, document, example_of, problem_codes
from tactful.http.routes import ENDPOINTS
from tactful.schemas.elements import NewEvent, NewItem, NewUser
from tactful.schemas.problems import KINDS, Problem
from tactful_streaming.contract.log_entries import Event, Item, User

DOCUMENT: dict[str, Any] = msgspec.json.decode(
    msgspec.json.encode(document(ENDPOINTS, version="0"))
)


_OF_A_VERSION = (
    "/v1/models/versions/{version}",
    "/v1/models/promote",
    "/v1/models/rollback",
)


def operation(endpoint: Endpoint) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    return found


def check(instance: Any, schema: dict[str, Any]) -> None:
    jsonschema.Draft202012Validator({**schema, "components": DOCUMENT["components"]}).validate(
        instance
    )


@pytest.mark.slow
def test_it_is_openapi_and_says_everything() -> None:
    OpenAPIV31SpecValidator(DOCUMENT).validate()
    assert {(path, method) for path, it in DOCUMENT["paths"].items() for method in it} == {
        (endpoint.path, endpoint.method.lower()) for endpoint in ENDPOINTS
    }
    assert {*_examples()} <= {f"{it.method} {it.path}" for it in ENDPOINTS}
    identifiers = [operation(endpoint)["operationId"] for endpoint in ENDPOINTS]
    assert len(identifiers) == len(set(identifiers))
    for name, schema in DOCUMENT["components"]["schemas"].items():
        jsonschema.Draft202012Validator.check_schema(schema)
        assert schema["description"], name
        assert "Attributes:" not in schema["description"], name
        undescribed = [key for key, it in schema["properties"].items() if "description" not in it]
        assert undescribed == [] or name in {"StatisticsIndex", "RecommendBatch", "ReportIndex"}


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda it: f"{it.method} {it.path}")
def test_examples_fit_their_types_and_their_schemas(endpoint: Endpoint) -> None:
    said = operation(endpoint)
    if endpoint.body is not None:
        content = said["requestBody"]["content"]["application/json"]
        msgspec.convert(content["example"], endpoint.body)
        check(content["example"], content["schema"])
    content = said["responses"][str(endpoint.status)]["content"]
    for medium in content.values():
        if "example" in medium:
            msgspec.convert(medium["example"], endpoint.answer)
            check(medium["example"], medium["schema"])
    for code in problem_codes(endpoint):
        response = said["responses"][str(KINDS[code].status)]["content"]["application/problem+json"]
        example = response["examples"][code]["value"]
        assert msgspec.convert(example, Problem).code == code
        check(example, response["schema"])


@pytest.mark.slow
def test_examples_work_on_a_running_server(live: Live) -> None:
    reports = live.platform.settings.storage.reports
    reports.mkdir()
    (reports / "demo.json").write_text('{"name": "demo", "stage": "done", "progress": 1}')
    served = live.http.get("/openapi.json").json()
    assert served["paths"].keys() == DOCUMENT["paths"].keys()
    for endpoint in ENDPOINTS:
        if endpoint.path == "/v1/flags/stream":
            continue  # it does not end
        path, query, example = endpoint.path, {}, example_of(endpoint)
        for name, value in example.parameters.items():
            if f"{{{name}}}" in path:
                path = path.replace(f"{{{name}}}", quote(value, safe=""))
            else:
                query[name] = value
        sent: dict[str, Any] = {"json": example.request}
        if isinstance(example.request, str):
            sent = {"content": example.request.encode()}
        answer = live.http.request(endpoint.method, path, params=query, **sent)
        if endpoint.path.startswith("/v1/statistics/") or endpoint.path == "/v1/privacy/ledger":
            assert answer.status_code == 404, "none is published on this server"
            continue
        if answer.status_code == 404 and endpoint.path == "/v1/events/stream":
            continue  # of a server with workers
        if endpoint.path in ("/v1/explain/{recommendation_id}", "/v1/erasures/{receipt}"):
            assert answer.status_code == 404, "ids are drawn"
            continue
        if endpoint.path in _OF_A_VERSION:
            assert answer.status_code in (404, 422), "no version was trained on this server"
            continue
        if endpoint.path.startswith("/v1/domains/"):
            assert answer.status_code == 404, "this server knows no other domain"
            continue
        if endpoint.path == "/v1/coupons/{name}":
            assert answer.status_code == 404, "this server has no campaign"
            continue
        if endpoint.path == "/v1/experiments/{key}/release":
            assert answer.status_code == 404, "this server has no analysis"
            continue
        if endpoint.path in ("/v1/alerts/{alert_id}/acknowledge", "/v1/alerts/test"):
            assert answer.status_code == 404, "nothing is wrong on this server, and it has no route"
            continue
        assert answer.status_code == endpoint.status, (endpoint.path, answer.text)
        if answer.status_code == 204:
            assert (answer.content, "content-type" in answer.headers) == (b"", False)
            continue
        medium = answer.headers["content-type"].partition(";")[0]
        content = operation(endpoint)["responses"][str(endpoint.status)]["content"]
        assert medium in content
        if "schema" in content[medium]:
            told = answer.json() if medium == "application/json" else answer.text
            check(told, content[medium]["schema"])


@pytest.mark.slow
def test_documented_refusals_are_the_ones_that_come(live: Live) -> None:
    endpoint = next(it for it in ENDPOINTS if it.path == "/v1/events")
    example = example_of(endpoint)
    said, shown = live.http.post("/v1/events", json=example.request).json(), example.answer
    assert (said["accepted"], said["duplicates"]) == (shown["accepted"], shown["duplicates"])
    assert [(it["index"], it["code"]) for it in said["rejected"]] == [
        (it["index"], it["code"]) for it in shown["rejected"]
    ]
    recommend = next(it for it in ENDPOINTS if it.path == "/v1/recommend")
    for body, code in ((b"{", "bad_body"), (b'{"count": 0}', "invalid")):
        assert live.http.post("/v1/recommend", content=body).json()["code"] == code
        assert code in problem_codes(recommend)


def test_what_is_documented_is_what_the_log_holds() -> None:
    for sent, stored in ((NewEvent, Event), (NewItem, Item), (NewUser, User)):
        logged = {"kind", "received_at", "sender", "import_id"}  # only the server writes these
        assert {*sent.__struct_fields__} == {*stored.__struct_fields__} - logged
