"""W3C trace context, by opentelemetry-api where the application uses it. It is never needed, and
nothing of it is set up: no provider, no exporter, no propagator of its configuration.
"""

from __future__ import annotations

import functools
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from opentelemetry.context import Context

#: The one header of it that ArqonBus has; the platform's, so not counted among an application's.
TRACEPARENT = "traceparent"


class _OpenTelemetry:
    """What is used of it."""

    def __init__(self) -> None:
        from opentelemetry import context, trace
        from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

        self._span = trace.get_current_span
        self._attach = context.attach
        self._nothing = context.Context
        self._propagator = TraceContextTextMapPropagator()

    def current(self) -> str | None:
        if not self._span().get_span_context().is_valid:
            return None
        carrier: dict[str, str] = {}
        self._propagator.inject(carrier)
        # A tracestate, too, may be in there: it stays here.
        return carrier.get(TRACEPARENT)

    def context_of(self, traceparent: str) -> Context | None:
        context = self._propagator.extract({TRACEPARENT: traceparent})
        return context if self._span(context).get_span_context().is_valid else None

    def leave(self) -> None:
        self._attach(self._nothing())


def current() -> str | None:
    """The `traceparent` of the span that is current, if a valid one is."""
    used = _used()
    return None if used is None else used.current()


def context_of(traceparent: str | None) -> Context | None:
    """The context with this span in it; ``None`` where it is none, or nobody could use it."""
    if traceparent is None:
        return None
    installed = _installed()
    return None if installed is None else installed.context_of(traceparent)


def leave() -> None:
    """The task of now goes on in no trace. For tasks of a client, which outlive the span in which
    they happened to be started.
    """
    used = _used()
    if used is not None:
        used.leave()


def _used() -> _OpenTelemetry | None:
    # There is no span where the application has not imported this; and a loop that publishes is
    # not the place to look for packages.
    return _installed() if "opentelemetry.trace" in sys.modules else None


@functools.cache
def _installed() -> _OpenTelemetry | None:
    try:
        return _OpenTelemetry()
    except ImportError:
        return None
