"""Runs the scenarios of a framework, with progress going to a database; prints what another processor saw of it.

As JSON: the ids of all spans of agents and tools in hexadecimal, with their kind, and that of the nearest one above.
"""

import asyncio
import importlib
import json
import os
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from opentelemetry.sdk.trace import SpanProcessor, TracerProvider

from pyapp.otel import ProgressProcessor

Run = Callable[..., Awaitable[None]]


async def single(run: Run) -> None:
    await run("researcher", "look_up")


async def nested(run: Run) -> None:
    await run("editor", "ask_writer")


async def parallel(run: Run) -> None:
    await run("scout", "look_up", "look_elsewhere")
    await asyncio.gather(run("left", "look_up"), run("right", "look_up"))


async def failing(run: Run) -> None:
    await run("clumsy", "fail")


async def cancelled(run: Run) -> None:
    async with asyncio.timeout(0.2):
        await run("slow", "wait")


# What happens in each framework, unless it has a function of that name for its own way.
SCENARIOS = (single, nested, parallel, failing, cancelled)
KINDS = {"invoke_workflow": "agent", "invoke_agent": "agent", "execute_tool": "tool", "AGENT": "agent", "TOOL": "tool"}


class Seen(SpanProcessor):
    """All spans that started."""

    def __init__(self) -> None:
        self.spans: dict[int, Any] = {}

    def on_start(self, span: Any, parent_context: Any = None) -> None:
        self.spans[span.context.span_id] = span


def main(name: str) -> None:
    framework = importlib.import_module(f"tests.frameworks.with_{name}")
    provider, seen = TracerProvider(), Seen()
    provider.add_span_processor(ProgressProcessor(os.environ["DATABASE_URL"]))
    provider.add_span_processor(seen)
    framework.instrument(provider)
    for scenario in SCENARIOS:
        own = getattr(framework, scenario.__name__, None)
        try:
            asyncio.run(own() if own else scenario(framework.run))
        except Exception as error:
            print(f"{scenario.__name__}: {error!r}", file=sys.stderr)
    provider.shutdown()
    spans = seen.spans

    def kind(key: int) -> str | None:
        attributes = spans[key].attributes or {}
        told = attributes.get("gen_ai.operation.name") or attributes.get("openinference.span.kind")
        return KINDS.get(str(told))

    def above(key: int) -> str | None:
        parent = spans[key].parent
        while parent and not kind(parent.span_id):
            parent = spans[parent.span_id].parent
        return f"{parent.span_id:016x}" if parent else None

    json.dump([(f"{key:016x}", kind(key), above(key)) for key in spans if kind(key)], sys.stdout)


if __name__ == "__main__":
    main(sys.argv[1])
