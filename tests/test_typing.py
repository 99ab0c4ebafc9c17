"""Types, as a user sees them: the wheel, installed beside a module that mypy checks strictly."""

import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

CONSUMER = """
import asyncio
from concurrent.futures import Future
from uuid import UUID
from typing import Any, assert_type

import psycopg

import pyapp
from pyapp import Drift, Key, ProgressMetrics, Task, TaskReport, TreeNode, TreeProgress
from pyapp import Workflow, WorkflowState, WorkflowStatus


def sync(conn: psycopg.Connection[Any], workflow_id: UUID) -> None:
    assert_type(pyapp.get_workflow(conn, workflow_id, schema="agents"), Workflow)
    assert_type(pyapp.list_workflows(conn, status=["running"], limit=3), list[Workflow])
    assert_type(pyapp.get_tree(conn, workflow_id, limit=10), list[TreeNode])
    assert_type(pyapp.tree_progress(conn, workflow_id), TreeProgress)
    assert_type(pyapp.report_tasks(conn, workflow_id, [TaskReport(workflow_id, "completed")]), list[Task])
    assert_type(pyapp.progress_metrics(conn, workflow_id), ProgressMetrics)
    assert_type(pyapp.transition(conn, workflow_id, "running", expected_version=1).status, WorkflowStatus)
    assert_type(pyapp.retry(lambda: pyapp.repair(conn)), list[Drift])
    assert_type(pyapp.connect(autocommit=True), psycopg.Connection[tuple[Any, ...]])
    with pyapp.TaskReporter() as reporter:
        assert_type(reporter.report(workflow_id, workflow_id, "completed"), Future[Task])
    for workflow in pyapp.watch(None, [workflow_id]):
        assert_type(workflow.workflow_id, Key)
    try:
        pyapp.migrate(schema="agents")
    except pyapp.TaskNotFound as error:
        assert_type(error.task_ids, list[Key])

    pyapp.report_task(conn, workflow_id, workflow_id, "done")  # type: ignore[arg-type]
    pyapp.create_workflow(conn, "w")  # type: ignore[call-arg]
    pyapp.get_workflow(conn, workflow_id, source=None)  # type: ignore[call-arg]
    pyapp.get_workflow(conn, workflow_id).progres  # type: ignore[attr-defined]


async def asynchronous(conn: psycopg.AsyncConnection[Any], workflow_id: UUID) -> None:
    assert_type(await pyapp.aio.get_workflow(conn, workflow_id), Workflow)
    assert_type(await asyncio.create_task(pyapp.aio.advance(conn, workflow_id)), WorkflowState)
    assert_type(await pyapp.aio.retry(lambda: pyapp.aio.repair(conn)), list[Drift])
    async with pyapp.aio.TaskReporter() as reporter:
        committed = await reporter.report(workflow_id, workflow_id, "completed")
        assert_type(await committed, Task)
    async for workflow in pyapp.aio.watch():
        assert_type(workflow, Workflow)

    pyapp.get_workflow(conn, workflow_id)  # type: ignore[arg-type]
    pyapp.aio.get_workflow(pyapp.connect(), workflow_id)  # type: ignore[arg-type, unused-coroutine]
"""


def test_a_typed_program_is_checked_strictly(wheel: Path, tmp_path: Path) -> None:
    # An environment with the wheel; what the wheel needs is that of the tests.
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv"], check=True)
    (packages,) = tmp_path.glob("venv/lib/*/site-packages")
    zipfile.ZipFile(wheel).extractall(packages)
    (packages / "needs.pth").write_text(sysconfig.get_path("purelib"))
    (tmp_path / "consumer.py").write_text(CONSUMER)
    where = ["--python-executable", tmp_path / "venv" / "bin" / "python", "--cache-dir", tmp_path]
    mypy = [sys.executable, "-m", "mypy", "--strict", *where, "consumer.py"]
    done = subprocess.run(mypy, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert "no issues found" in done.stdout, done.stdout + done.stderr
