"""Optional traces by OpenTelemetry: requests, their stages, and the batches of the engine.

::

    POST /v1/recommend      POST /v1/events      apply, with links to the requests
      recall                  log                whose records it has
      rank
      arrange

Attributes are methods, routes and statuses: a span names nobody, and quotes no request.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.trace import Tracer

_METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "POST", "PUT"})
_MOST_LINKS = 64
_FAILED = 500


class Traces:
    """Makes the spans of one process."""

    def __init__(self, tracer: Tracer, close: Callable[[], None] = lambda: None) -> None:
        """Make spans by `tracer`; `close` sends those that wait."""
        from opentelemetry import trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._trace = trace
        self._tracer = tracer
        self._parents = TraceContextTextMapPropagator()
        self._accepted: deque[trace.SpanContext] = deque(maxlen=_MOST_LINKS)
        self.close = close

    @contextmanager
    def request(
        self, method: str, route: str, parent: bytes | None
    ) -> Iterator[Callable[[int], None]]:
        """Open the span of a request; call the returned function with the status.

        `parent` is the caller's header ``traceparent``, if there is one.
        """
        carrier = {} if parent is None else {"traceparent": parent.decode("latin-1")}
        method = method if method in _METHODS else "OTHER"
        with self._tracer.start_as_current_span(
            f"{method} {route}",
            context=self._parents.extract(carrier),
            kind=self._trace.SpanKind.SERVER,
            attributes={"http.request.method": method, "http.route": route},
            record_exception=False,  # its message may quote a request
            set_status_on_exception=False,
        ) as span:

            def answered(status: int) -> None:
                span.set_attribute("http.response.status_code", status)
                if status >= _FAILED:
                    span.set_status(self._trace.StatusCode.ERROR)

            yield answered

    def accepted(self) -> None:
        """Note that the present request has written records, which will be applied."""
        context = self._trace.get_current_span().get_span_context()
        if context.is_valid:
            self._accepted.append(context)

    def stage(self, stage: str, seconds: float) -> None:
        """Add the span of a stage that has just ended, to the present request if there is one."""
        links = []
        if stage == "apply":
            while self._accepted:
                links.append(self._trace.Link(self._accepted.popleft()))
        end = time.time_ns()
        span = self._tracer.start_span(stage, start_time=end - round(seconds * 1e9), links=links)
        span.end(end)


def open_traces(version: str) -> Traces:
    """Send traces over OTLP, as the variables ``OTEL_*`` of OpenTelemetry say.

    Raises:
        ImportError: if the extra `tracing` is not installed.
    """
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    about = Resource.create({"service.name": "tactful", "service.version": version})
    provider = TracerProvider(resource=about)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return Traces(provider.get_tracer("tactful", version), provider.shutdown)
