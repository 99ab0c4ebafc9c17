"""LangGraph, with OpenTelemetry's instrumentation of LangChain and scripted models."""

import asyncio
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.outputs import ChatGeneration, ChatResult
from langchain_core.tools import tool
from langgraph.graph import END, START, MessagesState, StateGraph
from langgraph.prebuilt import create_react_agent
from opentelemetry.instrumentation.genai.langchain import LangChainInstrumentor
from opentelemetry.sdk.trace import TracerProvider


def instrument(provider: TracerProvider) -> None:
    LangChainInstrumentor().instrument(tracer_provider=provider)


class Scripted(BaseChatModel):
    """A model that calls these tools at once, and then answers."""

    tools: Sequence[str] = ()

    @property
    def _llm_type(self) -> str:
        return "scripted"

    def bind_tools(self, *args: Any, **kwargs: Any) -> Any:
        return self

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        answer = AIMessage("done")
        if messages[-1].type == "human" and self.tools:
            answer = AIMessage("", tool_calls=[{"name": name, "args": {}, "id": f"call-{name}"} for name in self.tools])
        return ChatResult(generations=[ChatGeneration(message=answer)])


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
async def wait() -> str:
    """Wait."""
    await asyncio.sleep(600)
    return "never"


@tool
async def ask_writer() -> str:
    """Ask the writer."""
    await run("writer", "look_up")
    return "written"


def agent(name: str, *tools: str) -> Any:
    return create_react_agent(Scripted(tools=tools), [look_up, look_elsewhere, fail, wait, ask_writer], name=name)


async def invoke(graph: Any) -> None:
    await graph.ainvoke({"messages": [("human", "go")]})


async def run(name: str, *tools: str) -> None:
    await invoke(agent(name, *tools))


async def parallel() -> None:
    """Two agents side by side, as nodes of one graph."""
    graph = StateGraph(MessagesState)
    for name in ("left", "right"):
        graph.add_node(name, agent(name, "look_up", "look_elsewhere"))
        graph.add_edge(START, name)
        graph.add_edge(name, END)
    await invoke(graph.compile(name="both"))
