"""Agents of real frameworks with scripted models, as their own instrumentation tells of them; without a network.

Each framework runs where it is installed. FRAMEWORKS=1 installs all of them into an environment of their own, which
takes a while; FRAMEWORKS may also name the Python of an environment that has them.
"""

import json
import os
import subprocess
import sys

import psycopg
import pytest

from .commands import ROOT, output_of

FRAMEWORKS = {
    "pydantic_ai": ("pydantic_ai", ["pydantic-ai-slim>=2"]),
    "langgraph": (
        "langgraph",
        ["langgraph>=1", "langchain>=1", "opentelemetry-instrumentation-genai-langchain==1.3b0"],
    ),
    "openai_agents": ("agents", ["openai-agents>=0.24", "opentelemetry-instrumentation-genai-openai-agents==1.3b0"]),
    "smolagents": ("smolagents", ["smolagents>=1.26", "openinference-instrumentation-smolagents>=0.1.43"]),
}
# Agents of smolagents cope with a tool that fails; OpenInference leaves the span of a run open that ends by an error.
EXPECTED = {name: {"clumsy": "failed", "slow": "cancelled"} for name in FRAMEWORKS}
EXPECTED["smolagents"] = {"clumsy": "completed", "slow": "running"}


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python that has the frameworks."""
    wanted = os.environ.get("FRAMEWORKS", "")
    if wanted != "1":
        return wanted or sys.executable
    where = tmp_path_factory.mktemp("frameworks")
    subprocess.run([sys.executable, "-m", "venv", str(where)], check=True)
    packages = [package for _, needed in FRAMEWORKS.values() for package in needed]
    pip = [str(where / "bin" / "python"), "-m", "pip", "install", "-q", f"{ROOT}[otel]", *packages]
    subprocess.run(pip, check=True)
    return str(where / "bin" / "python")


@pytest.mark.parametrize("name", FRAMEWORKS)
def test_a_framework_shows_as_a_tree_with_the_numbers_of_its_spans(
    name: str, python: str, dsn: str, conn: psycopg.Connection
) -> None:
    module, _ = FRAMEWORKS[name]
    if subprocess.run([python, "-c", f"import {module}"], capture_output=True, check=False).returncode:
        pytest.skip(f"{name} is not installed; FRAMEWORKS=1 installs it")
    nowhere = {"HTTPS_PROXY": "http://127.0.0.1:9", "HTTP_PROXY": "http://127.0.0.1:9", "PYTHONPATH": str(ROOT)}
    quiet = {"PYTHONWARNINGS": "ignore", "DATABASE_URL": dsn}
    told = output_of(python, "-m", "tests.frameworks.run", name, cwd=ROOT, env={**os.environ, **nowhere, **quiet})
    spans = json.loads(told[told.index("[[") :])
    kinds = {key: kind for key, kind, _ in spans}
    aboves = {key: above for key, _, above in spans}

    def agent_above(key: str) -> str | None:
        above = aboves[key]
        while above and kinds[above] != "agent":
            above = aboves[above]
        return above

    tasks = conn.execute(
        "select t.span_id, o.span_id from agent_task as t join agent_task as o on o.id = t.workflow_id"
    )
    assert sorted(tasks) == sorted((key, key if kinds[key] == "agent" else agent_above(key)) for key in kinds)
    tree = conn.execute(
        "select w.id::text, o.span_id, a.span_id, t.span_id from workflow as w join agent_task as o on o.id = w.id"
        " left join agent_task as a on a.id = w.parent_id left join agent_task as t on t.id = w.parent_task_id"
    ).fetchall()
    agents = [key for key, kind in kinds.items() if kind == "agent"]
    assert sorted(row[1:] for row in tree) == sorted((key, agent_above(key), aboves[key]) for key in agents)
    assert sum(above is not None for _, _, above, _ in tree) >= (1 if name != "openai_agents" else 7)

    totals = dict(
        conn.execute("select o.span_id, w.agents_total from workflow as w join agent_task as o on o.id = w.id")
    )
    own = [key if kinds[key] == "agent" else agent_above(key) for key in kinds]
    assert totals == {key: own.count(key) for key in agents}

    outcomes = {}
    for workflow, status, is_open in conn.execute("select name, status::text, agents_open > 0 from workflow_progress"):
        assert is_open == (status == "running")
        outcomes[workflow.removesuffix(".run").removesuffix(" at work")] = status
    assert outcomes == dict.fromkeys(outcomes, "completed") | EXPECTED[name]
    assert {"researcher", "editor", "writer", "left", "right", "clumsy", "slow"} <= set(outcomes)
