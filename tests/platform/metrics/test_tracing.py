"""Traces of requests and of the engine, kept in memory by OpenTelemetry's own exporter."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.platform.support import Live, now_ms, small_settings, wait_until

from tactful.config.settings import PACKAGED_FEATURES
from tactful.metrics.tracing import Traces
from tactful.recommend.build import build
from tactful.server.platform import Platform

pytest.importorskip("opentelemetry.sdk")

from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

Traced = tuple[Live, InMemorySpanExporter]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[Traced]:
    """A server with the real recommender, whose spans stay in memory."""
    exporter = InMemorySpanExporter()
    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    settings = small_settings(tmp_path)
    settings = replace(settings, engine=replace(settings.engine, features=PACKAGED_FEATURES))
    platform = Platform.open(settings, build)
    platform.metrics.traces = Traces(provider.get_tracer("test"))
    with Live(platform) as live:
        yield live, exporter


def named(spans: InMemorySpanExporter, name: str) -> list[ReadableSpan]:
    return [span for span in spans.get_finished_spans() if span.name == name]


def test_a_request_has_its_stages_and_the_engine_links_to_it(traced: Traced) -> None:
    live, spans = traced
    event = {"type": "view", "timestamp": now_ms(), "user_id": "secret-user", "item_id": "secret-i"}
    live.http.put("/v1/items", json=[{"item_id": "secret-i"}])
    live.http.post("/v1/events", json=[event])
    wait_until(lambda: live.platform.applier.lag == 0)
    headers = {"traceparent": CALLER}
    live.http.post("/v1/recommend", json={"user_id": "secret-user"}, headers=headers)
    wait_until(lambda: bool(named(spans, "POST /v1/recommend")))
    (request,) = named(spans, "POST /v1/recommend")
    assert request.attributes is not None and request.context is not None
    assert request.attributes["http.response.status_code"] == 200
    assert f"{request.context.trace_id:032x}" == CALLER.split("-")[1]
    for stage in ("recall", "rank", "arrange"):
        (span,) = named(spans, stage)
        assert span.parent is not None
        assert span.parent.span_id == request.context.span_id
        assert (span.start_time or 0) >= (request.start_time or 0) - 1_000_000
    (ingestion,) = named(spans, "POST /v1/events")
    assert ingestion.context is not None
    written = [span.parent.span_id for span in named(spans, "log") if span.parent is not None]
    assert ingestion.context.span_id in written
    ingested = ingestion.context.span_id

    def is_linked() -> bool:
        applied = named(spans, "apply")
        return ingested in [link.context.span_id for span in applied for link in span.links]

    wait_until(is_linked)
    everything = "".join(span.to_json() for span in spans.get_finished_spans())
    assert "secret" not in everything


def test_odd_requests_make_plain_spans(traced: Traced) -> None:
    live, spans = traced
    live.http.request("PATCH", "/v1/events", headers={"traceparent": "secret"})
    live.http.post("/v1/recommend", content=b"{secret")
    live.http.get("/v1/users/secret/features")
    wait_until(lambda: bool(named(spans, "GET /v1/users/{user_id}/features")))
    assert named(spans, "OTHER /v1/events")
    found = spans.get_finished_spans()
    assert "secret" not in "".join(span.to_json() for span in found).lower()
