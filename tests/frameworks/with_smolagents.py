"""smolagents, with OpenInference's instrumentation and scripted models."""

import asyncio
from typing import Any

from openinference.instrumentation.smolagents import SmolagentsInstrumentor
from opentelemetry.sdk.trace import TracerProvider
from smolagents import ChatMessage, MessageRole, Model, ToolCallingAgent, tool
from smolagents.models import ChatMessageToolCall, ChatMessageToolCallFunction

AGENTS: list[ToolCallingAgent] = []


def instrument(provider: TracerProvider) -> None:
    SmolagentsInstrumentor().instrument(tracer_provider=provider)


class Scripted(Model):
    """A model that calls these tools at once, and then answers."""

    def __init__(self, *tools: str) -> None:
        super().__init__(model_id="scripted")
        self.turns = [tools, ("final_answer",)]

    def generate(self, messages: Any, **kwargs: Any) -> ChatMessage:
        calls = [
            ChatMessageToolCall(
                id=f"call-{name}",
                type="function",
                function=ChatMessageToolCallFunction(
                    name=name,
                    arguments={"final_answer": {"answer": "done"}, "writer": {"task": "write"}}.get(name, {}),
                ),
            )
            for name in self.turns.pop(0)
        ]
        return ChatMessage(role=MessageRole.ASSISTANT, content="", tool_calls=calls)


@tool
def look_up() -> str:
    """Look up."""
    return "found"


@tool
def look_elsewhere() -> str:
    """Look elsewhere."""
    return "found as well"


@tool
def fail() -> str:
    """Fail."""
    raise ValueError("no such file")


@tool
def interrupt() -> str:
    """Interrupt all agents."""
    for each in AGENTS:
        each.interrupt()
    return "interrupted"


def agent(name: str, *tools: str, below: "list[ToolCallingAgent] | None" = None) -> ToolCallingAgent:
    made = ToolCallingAgent(
        [look_up, look_elsewhere, fail, interrupt],
        Scripted(*tools),
        name=name,
        description=name,
        managed_agents=below,
        max_steps=3,
        verbosity_level=0,
    )
    AGENTS.append(made)
    return made


async def run(name: str, *tools: str) -> None:
    await asyncio.to_thread(agent(name, *tools).run, "go")


async def nested() -> None:
    """A managed agent is a tool of its own."""
    agent("editor", "writer", below=[agent("writer", "look_up")]).run("go")


async def cancelled() -> None:
    """By the agent itself: nothing can be awaited."""
    await run("slow", "interrupt")
