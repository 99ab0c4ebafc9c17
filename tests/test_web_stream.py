"""Live streams of a real server process, also when clients are many or slow and when the database goes away."""

import asyncio
import json
import os
import random
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from pyapp import migrate
from pyapp.cli import main
from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import PATIENCE, Conn, Service, Stream, content, following, serving, shared, wait_for

CLIENTS = 500 if os.environ.get("TEST_MANY_CLIENTS") else 200
INTERVAL = 0.2

service_dsn, service, conn = shared("--interval", str(INTERVAL))


def path(workflow: Any) -> str:
    return f"/api/v1/workflows/{workflow}/stream"


def progress_is(percent: int) -> Callable[[Any], bool]:
    return lambda event: event.name == "workflow" and event.data["progress"] == percent


def queries(service: Service) -> float:
    return service.metrics()["stream_queries_total",]


def request(service: Service, where: str) -> bytes:
    return f"GET {where} HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n\r\n".encode()


# --- What is sent -----------------------------------------------------------------------------------------------


def test_a_stream_begins_with_a_snapshot_and_goes_on_with_changes_only(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn, name="two\nlines")
    first, second = new_tasks(conn, workflow, "running", "running")
    with following(service, path(workflow)) as stream, following(service, path(workflow)) as other:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        assert stream.next() == other.next() == ("snapshot", [service.get(f"/workflows/{workflow}")])
        set_status(conn, first, "completed")
        assert stream.until(progress_is(50)) == other.until(progress_is(50))
        before = queries(service)
        wait_for(lambda: queries(service) >= before + 6)  # it looks several times, and there is nothing to tell
        assert stream.events.empty()
        set_status(conn, second, "completed")
        assert stream.until(progress_is(100)).data == service.get(f"/workflows/{workflow}")


def test_a_client_gets_only_what_it_follows(service: Service, conn: Conn) -> None:
    mine, other = new_workflow(conn, name="mine"), new_workflow(conn, name="other")
    with following(service, f"/api/v1/stream?id={str(mine).upper()}&id={uuid4()}") as stream:
        assert [workflow["name"] for workflow in stream.next().data] == ["mine"]
        new_tasks(conn, other, "completed")
        new_tasks(conn, mine, "completed")
        assert stream.next().data["name"] == "mine"


def test_a_client_may_follow_the_active_ones_and_some_that_have_ended(service: Service, conn: Conn) -> None:
    ended = new_workflow(conn, name="ended", status="completed")
    new_workflow(conn, name="other", status="completed")
    with following(service, f"/api/v1/stream?id={ended}&active=true") as stream:
        assert [workflow["name"] for workflow in stream.next().data] == ["ended"]
        new_workflow(conn, name="new", status="running")
        assert stream.next().data["name"] == "new"
        new_tasks(conn, ended, "failed")
        assert stream.next().data["agents_failed"] == 1


def test_the_active_ones_come_and_go(service: Service, conn: Conn) -> None:
    new_workflow(conn, name="old", status="completed")
    with following(service, "/api/v1/stream") as stream:
        assert stream.next() == ("snapshot", [])
        workflow = new_workflow(conn, name="new", status="running")
        assert stream.next().data["name"] == "new"
        with following(service, path(workflow)) as one:
            one.next()
            conn.execute("update workflow set status = 'completed' where id = %s", [workflow])
            assert stream.next().data["status"] == one.next().data["status"] == "completed"
            other = new_workflow(conn, name="other")
            assert stream.next().data["name"] == "other"
            conn.execute("delete from workflow where id = %s", [other])
            assert stream.next() == ("deleted", {"workflow_id": str(other)})
            # It has looked again: what has ended is followed by those only that asked for it.
            new_tasks(conn, workflow, "completed")
            assert one.next().data["agents_completed"] == 1
            conn.execute("delete from workflow where id = %s", [workflow])
            assert one.next() == ("deleted", {"workflow_id": str(workflow)})
        new_workflow(conn, name="last")
        assert stream.next().data["name"] == "last"


def test_ids_are_checked(service: Service) -> None:
    service.get("/stream?id=x", 422)
    service.get("/stream", 422, id=[str(uuid4())] * 501)


def test_nothing_falls_between_the_snapshot_and_the_changes(service: Service, conn: Conn, service_dsn: str) -> None:
    """A hammer: tasks complete while clients connect; what each saw last is what the database holds."""
    workflows = [new_workflow(conn) for _ in range(5)]
    tasks = [task for workflow in workflows for task in new_tasks(conn, workflow, *["running"] * 40)]
    random.Random(4).shuffle(tasks)
    last: list[dict[str, Any]] = []

    def complete() -> None:
        with psycopg.connect(service_dsn, autocommit=True) as agent:
            for task in tasks:
                set_status(agent, task, "completed")

    def follow(stream: Stream) -> None:
        wait_for(lambda: stream.next() and all(w["progress"] == 100 for w in stream.latest.values()))
        last.append(stream.latest)

    threads = [threading.Thread(target=complete)]
    threads[0].start()
    with ExitStack() as opened:
        for n in range(12):
            some = f"/api/v1/stream?id={workflows[n % 5]}&id={workflows[(n + 1) % 5]}"
            stream = opened.enter_context(following(service, "/api/v1/stream" if n % 2 else some))
            threads.append(threading.Thread(target=follow, args=[stream]))
            threads[-1].start()
        for thread in threads:
            thread.join(PATIENCE)
    truth = {workflow["id"]: workflow for workflow in service.get("/workflows")}
    assert sorted(map(len, last)) == [2] * 6 + [5] * 6
    for seen in last:
        assert seen == {workflow_id: truth[workflow_id] for workflow_id in seen}


def test_a_ping_says_that_nothing_has_changed_and_none_comes_while_the_database_is_silent(
    service_dsn: str, conn: Conn
) -> None:
    run = (
        "import pyapp.cli, sys; from pyapp.web import stream, subscriber; subscriber.HEARTBEAT = 0.2;"
        " stream.RESYNC = -1.5; sys.exit(pyapp.cli.main(['serve', '--port', '0', '--dsn', sys.argv[1]]))"
    )
    with (
        serving(None, run=[sys.executable, "-c", run, service_dsn]) as service,
        following(service, "/api/v1/stream") as stream,
    ):
        stream.hears_pings = True
        stream.next()
        assert stream.next().name == "ping"
        with conn.transaction():
            conn.execute("lock table workflow")
            stream.until(lambda event: event == ("comment", ": waiting"))
            wait_for(lambda: stream.next() == ("comment", ": waiting"))
        stream.until(lambda event: event.name == "ping")


# --- Slow clients, many clients ---------------------------------------------------------------------------------


def test_a_client_that_does_not_read_blocks_nobody_and_is_caught_up(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn, description="x" * 200_000)
    tasks = new_tasks(conn, workflow, *["running"] * 50)
    with socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(request(service, path(workflow)))
        with following(service, path(workflow)) as stream:
            stream.next()
            for n, task in enumerate(tasks):
                set_status(conn, task, "completed")
                if n % 5 == 4:
                    stream.until(progress_is((n + 1) * 2))
        # By now it is far behind; what it reads skips states, and ends with the last one.
        slow.settimeout(PATIENCE)
        received = b""
        while b'"progress":100,' not in received:
            received += slow.recv(1 << 20)
        assert received.count(b"event: workflow") < 25


def test_queries_do_not_grow_with_clients(service: Service, conn: Conn) -> None:
    workflow = new_workflow(conn, status="running")
    tasks = new_tasks(conn, workflow, *["running"] * 10)

    async def follow(where: str, ready: asyncio.Semaphore) -> bool:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 20)
        writer.write(request(service, where))
        try:
            while line := await reader.readline():
                if line.startswith(b"event: snapshot"):
                    ready.release()
                elif line.startswith(b"data: {") and json.loads(line[6:])["progress"] == 100:
                    return True
        finally:
            writer.close()
        return False

    async def many() -> list[bool]:
        ready = asyncio.Semaphore(0)
        before, began = queries(service), time.monotonic()
        wheres = [path(workflow) if n % 2 else "/api/v1/stream" for n in range(CLIENTS)]
        followers = [asyncio.create_task(follow(where, ready)) for where in wheres]
        for _ in followers:
            await asyncio.wait_for(ready.acquire(), PATIENCE)
        await asyncio.to_thread(wait_for, lambda: queries(service) > before + 20)
        # At most three in a tick, which newcomers can make come sooner: bounded by time and not by their number.
        assert queries(service) - before < 4 * ((time.monotonic() - began) / (INTERVAL / 2) + 5)
        await asyncio.to_thread(conn.execute, "update agent_task set status = 'completed' where id = any (%s)", [tasks])
        return await asyncio.wait_for(asyncio.gather(*followers), PATIENCE)

    assert asyncio.run(many()) == [True] * CLIENTS


# --- The database goes away -------------------------------------------------------------------------------------


def test_streams_outlive_a_crash_of_the_database(own_server: Callable[..., Any]) -> None:
    server = own_server()
    migrate(server.dsn)
    with psycopg.connect(server.dsn, autocommit=True) as conn:
        workflow = new_workflow(conn, status="running")
        first, second = new_tasks(conn, workflow, "running", "running")
    with (
        serving(server.dsn, "--interval", "0.2") as service,
        service.client() as client,
        following(service, path(workflow)) as one,
        following(service, "/api/v1/stream") as all_active,
    ):
        one.next()
        all_active.next()
        os.kill(server.pid, signal.SIGKILL)
        assert one.next() == all_active.next() == ("away", {})
        for where in ("/api/v1/workflows", "/readyz", "/api/v1/stream", path(workflow)):
            response = client.get(where)
            assert (response.status_code, content(response)) == (503, {"error": "Database unavailable"}), where
            assert int(response.headers["retry-after"]) > 0
        assert client.get("/healthz").status_code == 200
        assert "agent_progress_database_up 0.0" in client.get("/metrics").text

        server = own_server()
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            set_status(conn, first, "completed")
            for stream in (one, all_active):
                stream.until(lambda event: event.name == "snapshot")
                wait_for(
                    lambda stream=stream: stream.latest[str(workflow)]["progress"] == 50 or (stream.next() and False)
                )
            wait_for(lambda: client.get(f"/api/v1/workflows/{workflow}").status_code == 200)
            set_status(conn, second, "completed")
            for stream in (one, all_active):
                stream.until(progress_is(100))
    said = service.said()
    assert said.count("stream: the database is away") == said.count("stream: the database is back") == 1


# --- Notifications ----------------------------------------------------------------------------------------------


@pytest.fixture
def notifying(service_dsn: str, conn: Conn) -> Iterator[None]:
    assert main(["notify", "on", "--dsn", service_dsn]) == 0
    yield
    assert main(["notify", "off", "--dsn", service_dsn]) == 0
    assert conn.execute("select to_regproc('notify_progress')").fetchone() == (None,)


def test_notifications_are_one_per_workflow_and_transaction(service_dsn: str, conn: Conn, notifying: None) -> None:
    with psycopg.connect(service_dsn, autocommit=True) as listener:
        listener.execute("listen agent_progress")
        with conn.transaction():
            one, other = new_workflow(conn), new_workflow(conn)
            for workflow in (one, other):
                for task in new_tasks(conn, workflow, "running", "running", "running"):
                    set_status(conn, task, "completed")
        conn.execute("delete from workflow where id = %s", [one])
        last = new_workflow(conn)
        said = [notice.payload for notice in listener.notifies(timeout=PATIENCE, stop_after=4)]
    assert sorted(said[:2]) == sorted([str(one), str(other)])
    assert said[2:] == [str(one), str(last)]


def test_with_notifications_a_change_is_told_at_once_and_without_any_nothing_is_asked(
    service_dsn: str, conn: Conn, notifying: None
) -> None:
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 4)
    # A minute between two looks: what comes sooner was notified of.
    with serving(service_dsn, "--interval", "60") as service, following(service, path(workflow)) as stream:
        stream.next()
        wait_for(
            lambda: conn.execute("select from pg_stat_activity where query like 'listen %'").fetchone() is not None
        )
        for done, task in enumerate(tasks, 1):
            set_status(conn, task, "completed")
            stream.until(progress_is(done * 25))
        with following(service, path(workflow)) as newcomer:
            assert newcomer.next().name == "snapshot"
        before, began = queries(service), time.monotonic()
        time.sleep(1)
        assert queries(service) - before <= 3 + (time.monotonic() - began) / 2


# --- The end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_its_open_streams_when_it_ends(service_dsn: str, conn: Conn, number: int) -> None:
    workflow = new_workflow(conn)
    with serving(service_dsn) as service, ExitStack() as opened:
        wheres = [path(workflow), "/api/v1/stream"] * 5
        streams = [opened.enter_context(following(service, where)) for where in wheres]
        for stream in streams:
            stream.next()
        service.process.send_signal(number)
        for stream in streams:
            assert stream.next() is None
        assert service.process.wait(PATIENCE) == 0
    assert "Traceback" not in service.said()
    assert "graceful" not in service.said()  # what the server says of streams that it had to cancel


def test_it_ends_also_when_a_client_does_not_read(service_dsn: str, conn: Conn) -> None:
    workflow = new_workflow(conn, description="x" * 5_000_000)
    with serving(service_dsn) as service, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(request(service, path(workflow)))
        assert slow.recv(100)
        assert service.signal(signal.SIGTERM) == 0
