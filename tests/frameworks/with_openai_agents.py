"""The OpenAI Agents SDK, with OpenTelemetry's instrumentation and scripted models."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from agents import Agent, Model, ModelResponse, RunConfig, Runner, Usage, function_tool
from openai.types.responses import ResponseFunctionToolCall, ResponseOutputMessage, ResponseOutputText
from opentelemetry.instrumentation.genai.openai_agents import OpenAIAgentsInstrumentor
from opentelemetry.sdk.trace import TracerProvider


def instrument(provider: TracerProvider) -> None:
    OpenAIAgentsInstrumentor().instrument(tracer_provider=provider)


class Scripted(Model):
    """A model that calls these tools at once, and then answers."""

    def __init__(self, *tools: str) -> None:
        self.tools = tools

    async def get_response(self, system_instructions: Any, input: Any, *args: Any, **kwargs: Any) -> ModelResponse:
        calls: list[Any] = [
            ResponseFunctionToolCall(
                arguments='{"input": "write"}' if tool == "ask_writer" else "{}",
                call_id=f"call-{tool}",
                name=tool,
                type="function_call",
            )
            for tool in self.tools
        ]
        if isinstance(input, list) and len(input) > 1:
            text = ResponseOutputText(annotations=[], text="done", type="output_text")
            calls = [
                ResponseOutputMessage(id="1", content=[text], role="assistant", status="completed", type="message")
            ]
        return ModelResponse(output=calls, usage=Usage(), response_id=None)

    def stream_response(self, *args: Any, **kwargs: Any) -> AsyncIterator[Any]:
        raise NotImplementedError


@function_tool
def look_up() -> str:
    return "found"


@function_tool
def look_elsewhere() -> str:
    return "found as well"


@function_tool(failure_error_function=None)
def fail() -> str:
    raise ValueError("no such file")


@function_tool
async def wait() -> str:
    await asyncio.sleep(600)
    return "never"


def agent(name: str, *tools: str) -> "Agent[None]":
    writer = Agent(name="writer", model=Scripted("look_up"), tools=[look_up])
    ask_writer = writer.as_tool("ask_writer", "Let the writer write.")
    return Agent(name=name, model=Scripted(*tools), tools=[look_up, look_elsewhere, fail, wait, ask_writer])


async def run(name: str, *tools: str) -> None:
    await Runner.run(agent(name, *tools), "go", run_config=RunConfig(workflow_name=f"{name} at work"))
