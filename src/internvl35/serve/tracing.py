"""Spans of requests for OpenTelemetry, one a stage; nothing happens where it is not installed.

The gateway's guard begins a request's span and makes it the current one. Stages hang under what is
current and do not become current by themselves, so they may begin and end in any task of a request.
No text of users goes into a span: only names, numbers and the kinds of errors. No counterpart in
the paper.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias

from internvl35.errors import ConfigError

if TYPE_CHECKING:
    from internvl35.generate.answers import Completion

try:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
except ModuleNotFoundError:
    trace = None

Fact: TypeAlias = str | int | float | bool
"""What a span may tell: a number, or a word of ours."""

_HEADER = "traceparent"
_NAME = "internvl35"


@dataclass(frozen=True)
class Stage:
    """A span under way."""

    span: Any = field(default=None, repr=False)
    """OpenTelemetry's; None where it is not installed."""
    started_ns: int = field(default_factory=time.time_ns)
    """When it began, in nanoseconds since 1970."""

    def note(self, **facts: Fact) -> None:
        """Add facts."""
        if self.span is not None:
            self.span.set_attributes(facts)

    @contextmanager
    def around(self) -> Iterator[None]:
        """Let stages that begin meanwhile hang under this one; for a ``with`` of one task."""
        if self.span is None:
            yield
            return
        with trace.use_span(self.span, record_exception=False, set_status_on_exception=False):
            yield

    def note_part(self, name: str, begin_s: float, end_s: float) -> None:
        """Add a stage within this one that is known only afterwards.

        Args:
            name: what was done.
            begin_s: seconds from this stage's beginning to its own.
            end_s: seconds from this stage's beginning to its end.
        """
        if self.span is not None:
            under = trace.set_span_in_context(self.span)
            start, end = (self.started_ns + int(seconds * 1e9) for seconds in (begin_s, end_s))
            trace.get_tracer(_NAME).start_span(name, under, start_time=start).end(end)

    def note_completion(self, completion: Completion) -> None:
        """Add the times and counts of an answer, times taken from this stage's beginning."""
        request, first = completion.request, completion.seconds_to_first_token
        shown = completion.seconds_to_visual_tokens
        self.note(
            prompt_tokens=len(request.prompt), cached_tokens=completion.num_cached_tokens,
            tiles=request.prompt.num_tiles,
            compressed_tiles=0 if request.routing is None else request.routing.num_compressed,
            new_tokens=sum(len(sample.token_ids) for sample in completion.samples),
        )  # fmt: skip
        if shown is not None:
            self.note_part("vision", 0.0, shown)
        if first is not None:
            self.note_part("prefill", shown or 0.0, first)
            self.note_part("decode", first, completion.seconds)


@contextmanager
def request_stage(name: str, headers: Mapping[str, str], **facts: Fact) -> Iterator[Stage]:
    """Time a whole request; what its task and the tasks that this starts do belongs to it.

    Args:
        name: of the span.
        headers: of the request; a ``traceparent`` in it is gone on with.
        facts: what is known at its beginning.

    Yields:
        The stage.
    """
    if trace is None:
        yield Stage()
        return
    under = _read(headers.get(_HEADER, ""))
    with trace.get_tracer(_NAME).start_as_current_span(
        name, under, trace.SpanKind.SERVER, facts, record_exception=False,
        set_status_on_exception=False,
    ) as span, _marked(span):  # fmt: skip
        yield Stage(span)


@contextmanager
def stage(name: str, *, parent: str | None = None, **facts: Fact) -> Iterator[Stage]:
    """Time a stage.

    Args:
        name: of the span.
        parent: of :func:`write_parent` in another process; None for what is current here.
        facts: what is known at its beginning.

    Yields:
        The stage.
    """
    if trace is None:
        yield Stage()
        return
    under = None if parent is None else _read(parent)
    span = trace.get_tracer(_NAME).start_span(name, under, attributes=facts)
    try:
        with _marked(span):
            yield Stage(span)
    finally:
        span.end()


def write_parent() -> str:
    """Name the current span, so that another process can go on with it.

    Returns:
        In the form of W3C's ``traceparent``; empty if there is none.
    """
    carrier: dict[str, str] = {}
    if trace is not None:
        TraceContextTextMapPropagator().inject(carrier)
    return carrier.get(_HEADER, "")


@contextmanager
def sending(endpoint: str | None, share: float, service: str) -> Iterator[None]:
    """Send spans for as long as the process serves, by OTLP over HTTP.

    Args:
        endpoint: URL that takes them; None to send none.
        share: of requests that are traced, 0 to 1, unless whoever asks has decided it.
        service: what the receiver calls this process.

    Raises:
        ConfigError: if spans are to be sent and OpenTelemetry is not installed.
    """
    if endpoint is None:
        yield
        return
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
        from opentelemetry.sdk.trace.sampling import ParentBasedTraceIdRatio
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"{error.name} is not installed, which sends traces; run pip install "
            "'internvl35[trace]', or leave out trace_endpoint"
        ) from error
    provider = TracerProvider(
        sampler=ParentBasedTraceIdRatio(share),
        resource=Resource.create({"service.name": service}),
        shutdown_on_exit=False,
    )
    exporter = OTLPSpanExporter(endpoint=endpoint)
    provider.add_span_processor(BatchSpanProcessor(exporter))  # whose queue drops what is too much
    trace.set_tracer_provider(provider)
    try:
        yield
    finally:
        provider.shutdown()


def _read(parent: str) -> Any:
    """Make a context of a ``traceparent``; an empty one of what is none."""
    return TraceContextTextMapPropagator().extract({_HEADER: parent}, context=_nowhere())


def _nowhere() -> Any:
    return trace.set_span_in_context(trace.INVALID_SPAN)


@contextmanager
def _marked(span: Any) -> Iterator[None]:
    """Note what kind of error ended a span; its text may be a user's."""
    try:
        yield
    except Exception as error:
        span.set_status(trace.StatusCode.ERROR, type(error).__name__)
        raise
    except BaseException:  # cancelled, or its reader has gone
        span.set_attribute("is_cancelled", True)
        raise
