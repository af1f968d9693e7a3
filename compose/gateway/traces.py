"""Traces: a span of each request for a model, sent by OTLP over HTTP to where TRACES_ENDPOINT says; off without it.

The engine gets the span's `traceparent`, by the lane or by LiteLLM (hooks.py), and adds its own below it. A client that
sends one finds both below its own.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from admission import RefusedError

if TYPE_CHECKING:
    from front import Exchange

SERVICE = "gateway"
CARRIED = (b"traceparent", b"tracestate")
"""The headers of a trace (W3C Trace Context)."""

TRACE = "stackwright.trace"
"""Where a request's scope keeps the headers of its span, on LiteLLM's way."""


class Traces:
    """Makes spans and hands them to a thread that sends them."""

    def __init__(self, exporter: Any) -> None:
        from opentelemetry.sdk.resources import SERVICE_NAME, Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        # It sends what is left when the worker ends.
        provider = TracerProvider(resource=Resource.create({SERVICE_NAME: SERVICE}))
        provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = provider.get_tracer("stackwright")
        self._context = TraceContextTextMapPropagator()

    @contextmanager
    def of(self, exchange: "Exchange") -> Iterator[None]:
        """Let a block that answers a request have a span, whose headers are then in `exchange.trace`."""
        from opentelemetry.trace import SpanKind, Status, StatusCode, set_span_in_context

        told = {name.decode(): value.decode("latin-1") for name, value in exchange.scope["headers"] if name in CARRIED}
        span = self._tracer.start_span(
            exchange.endpoint,
            self._context.extract(told),
            kind=SpanKind.SERVER,
            attributes={"request.id": exchange.number},
        )
        self._context.inject(exchange.trace, set_span_in_context(span))
        status = 0
        try:
            yield
        except RefusedError as refused:
            status = refused.status
            raise
        finally:
            span.set_attributes(attributes_of(exchange, status or exchange.status))
            if (status or exchange.status) >= 500 or exchange.answered.is_broken:
                span.set_status(Status(StatusCode.ERROR))
            span.end()


def attributes_of(exchange: "Exchange", status: int) -> dict[str, str | int | float]:
    """Return what a span tells of a request: names of OpenTelemetry's conventions for generative models."""
    answered = exchange.answered
    told: dict[str, str | int | float] = {
        "gen_ai.request.model": exchange.served,
        "http.response.status_code": status,
        "stackwright.key": exchange.caller.name,
        "stackwright.queue_seconds": answered.queued_s,
        "gen_ai.usage.input_tokens": answered.prompt_tokens,
        "gen_ai.usage.output_tokens": answered.completion_tokens,
    }
    if answered.replica is not None:
        told["server.address"] = answered.replica.address
    if answered.first_s:
        told["stackwright.first_byte_seconds"] = answered.first_s - exchange.arrived_s
    return told


def open_traces(environment: Mapping[str, str]) -> Traces | None:
    """Return what traces requests; None where nobody asks for it, or the image cannot."""
    endpoint = environment.get("TRACES_ENDPOINT")
    if not endpoint:
        return None
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as failure:
        print(f"gateway: no traces are sent: this image lacks the exporter ({failure})", file=sys.stderr, flush=True)
        return None
    return Traces(OTLPSpanExporter(endpoint=endpoint))
