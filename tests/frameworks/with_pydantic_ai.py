"""PydanticAI, with its own instrumentation and scripted models."""

import asyncio
from collections.abc import Iterable

from opentelemetry.sdk.trace import TracerProvider
from pydantic_ai import Agent, InstrumentationSettings, RunContext
from pydantic_ai.messages import ModelMessage, ModelResponse, TextPart, ToolCallPart
from pydantic_ai.models.function import AgentInfo, FunctionModel


def instrument(provider: TracerProvider) -> None:
    Agent.instrument_all(InstrumentationSettings(tracer_provider=provider))


def scripted(tools: Iterable[str]) -> FunctionModel:
    """A model that calls these tools at once, and then answers."""

    def answer(messages: list[ModelMessage], info: AgentInfo) -> ModelResponse:
        if len(messages) == 1:
            return ModelResponse(parts=[ToolCallPart(tool, {}) for tool in tools])
        return ModelResponse(parts=[TextPart("done")])

    return FunctionModel(answer)


def agent(name: str, *tools: str) -> "Agent[None, str]":
    made = Agent(scripted(tools), name=name)

    @made.tool_plain
    def look_up() -> str:
        return "found"

    @made.tool_plain
    def look_elsewhere() -> str:
        return "found as well"

    @made.tool_plain
    def fail() -> str:
        raise ValueError("no such file")

    @made.tool_plain
    async def wait() -> str:
        await asyncio.sleep(600)
        return "never"

    @made.tool
    async def ask_writer(ctx: RunContext[None]) -> str:
        return (await agent("writer", "look_up").run("write")).output

    return made


async def run(name: str, *tools: str) -> None:
    await agent(name, *tools).run("go")
