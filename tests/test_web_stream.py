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
from pathlib import Path
from typing import Any
from uuid import uuid4

import httpx
import psycopg
import pytest

from pyapp import migrate
from pyapp.cli import main
from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import Service, emptied, following, serving, wait_for

CLIENTS = 500 if os.environ.get("TEST_MANY_CLIENTS") else 200


@pytest.fixture(scope="module")
def service_dsn(empty) -> str:
    dsn = empty()
    migrate(dsn)
    return dsn


@pytest.fixture(scope="module")
def service(service_dsn: str) -> Iterator[Service]:
    with serving(service_dsn, "--interval", "0.2") as running:
        yield running


@pytest.fixture
def conn(service_dsn: str) -> Iterator[psycopg.Connection]:
    with emptied(service_dsn) as connection:
        yield connection


def path(workflow: Any) -> str:
    return f"/api/v1/workflows/{workflow}/stream"


def progress_is(percent: int) -> Callable[[Any], bool]:
    return lambda event: event.name == "workflow" and event.data["progress"] == percent


def queries(service: Service) -> float:
    with service.client() as client:
        for line in client.get("/metrics").text.splitlines():
            if line.startswith("agent_progress_stream_queries_total "):
                return float(line.split(" ")[1])
    raise AssertionError


# --- What is sent -----------------------------------------------------------------------------------------------


def test_a_stream_begins_with_a_snapshot_and_goes_on_with_changes(service, conn):
    workflow = new_workflow(conn, name="two\nlines")
    first, second = new_tasks(conn, workflow, "running", "running")
    with following(service, path(workflow)) as stream, service.client() as client:
        assert stream.response.headers["content-type"].startswith("text/event-stream")
        assert stream.response.headers["cache-control"] == "no-store"
        snapshot = stream.next()
        assert snapshot == ("snapshot", [client.get(f"/api/v1/workflows/{workflow}").json()])
        set_status(conn, first, "completed")
        assert stream.until(progress_is(50)).data["name"] == "two\nlines"
        set_status(conn, second, "completed")
        last = stream.until(progress_is(100))
        assert last.data == client.get(f"/api/v1/workflows/{workflow}").json()


def test_nothing_is_sent_while_nothing_changes(service, conn):
    workflow = new_workflow(conn)
    with following(service, path(workflow)) as stream:
        stream.next()
        time.sleep(0.7)
        assert stream.events.empty()


def test_two_clients_of_one_workflow_see_the_same(service, conn):
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "running")
    with following(service, path(workflow)) as one, following(service, path(workflow)) as other:
        assert one.next() == other.next()
        set_status(conn, task, "completed")
        assert one.until(progress_is(100)) == other.until(progress_is(100))


def test_a_client_gets_only_what_it_follows(service, conn):
    mine, other = new_workflow(conn, name="mine"), new_workflow(conn, name="other")
    with following(service, f"/api/v1/stream?id={mine}&id={uuid4()}") as stream:
        assert [workflow["name"] for workflow in stream.next().data] == ["mine"]
        new_tasks(conn, other, "completed")
        new_tasks(conn, mine, "completed")
        assert stream.next().data["name"] == "mine"


def test_a_deleted_workflow_is_told(service, conn):
    workflow = new_workflow(conn)
    with following(service, path(workflow)) as one, following(service, "/api/v1/stream") as all_active:
        one.next()
        all_active.next()
        conn.execute("delete from workflow where id = %s", [workflow])
        assert one.next() == all_active.next() == ("deleted", {"workflow_id": str(workflow)})


def test_the_active_ones_come_and_go(service, conn):
    new_workflow(conn, name="old", status="completed")
    with following(service, "/api/v1/stream") as stream:
        assert stream.next() == ("snapshot", [])
        workflow = new_workflow(conn, name="new", status="running")
        assert stream.next().data["name"] == "new"
        conn.execute("update workflow set status = 'completed' where id = %s", [workflow])
        assert stream.next().data["status"] == "completed"
        new_tasks(conn, workflow, "completed")
        time.sleep(0.5)
        assert stream.events.empty()


def test_ids_are_checked(service):
    with service.client() as client:
        assert client.get("/api/v1/stream?id=x").status_code == 422
        assert client.get("/api/v1/stream", params={"id": [str(uuid4())] * 501}).status_code == 422
        assert client.get(path(uuid4())).json() == {"error": "Workflow not found"}


def test_nothing_falls_between_the_snapshot_and_the_changes(service, conn, service_dsn):
    """A hammer: tasks complete while clients connect; what each saw last is what the database holds."""
    workflows = [new_workflow(conn) for _ in range(5)]
    tasks = [task for workflow in workflows for task in new_tasks(conn, workflow, *["running"] * 40)]
    random.Random(4).shuffle(tasks)

    def complete() -> None:
        with psycopg.connect(service_dsn, autocommit=True) as agent:
            for task in tasks:
                set_status(agent, task, "completed")

    agents = threading.Thread(target=complete)
    agents.start()
    last: list[dict[str, Any]] = []

    def follow(stream: Any) -> None:
        wait_for(lambda: stream.next() and all(w["progress"] == 100 for w in stream.latest.values()))
        last.append(stream.latest)

    with service.client() as client:
        followers = []
        opened = []
        for n in range(12):
            where = "/api/v1/stream" if n % 2 else f"/api/v1/stream?id={workflows[n % 5]}&id={workflows[(n + 1) % 5]}"
            opened.append(following(service, where))
            followers.append(threading.Thread(target=follow, args=[opened[-1].__enter__()]))
            followers[-1].start()
        agents.join()
        for follower in followers:
            follower.join(20)
        truth = {workflow["id"]: workflow for workflow in client.get("/api/v1/workflows").json()}
        for one in opened:
            one.__exit__(None, None, None)
    assert len(last) == 12
    for seen in last:
        assert seen == {workflow_id: truth[workflow_id] for workflow_id in seen}
        assert len(seen) in (2, 5)


def test_there_is_a_heartbeat(service_dsn):
    run = (
        "import pyapp.cli, pyapp.web.stream as stream, sys; stream.HEARTBEAT = 0.2;"
        " sys.exit(pyapp.cli.main(['serve', '--port', '0', '--dsn', sys.argv[1]]))"
    )
    with (
        serving(None, run=[sys.executable, "-c", run, service_dsn]) as service,
        following(service, "/api/v1/stream") as stream,
    ):
        stream.next()
        assert stream.next() == ("comment", ": alive")


# --- Slow clients, many clients ---------------------------------------------------------------------------------


def request(service: Service, where: str) -> bytes:
    return f"GET {where} HTTP/1.1\r\nHost: 127.0.0.1:{service.port}\r\n\r\n".encode()


def test_a_client_that_does_not_read_blocks_nobody_and_is_caught_up(service, conn):
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
                    began = time.monotonic()
                    stream.until(progress_is((n + 1) * 2))
                    assert time.monotonic() - began < 3
        # By now it is far behind; what it reads skips states, and ends with the last one.
        slow.settimeout(10)
        received = b""
        while b'"progress":100,' not in received:
            received += slow.recv(1 << 20)
        assert received.count(b"event: workflow") < 25


def test_queries_do_not_grow_with_clients(service, conn):
    workflow = new_workflow(conn, status="running")
    tasks = new_tasks(conn, workflow, *["running"] * 10)

    async def follow(seen: list[float], ready: asyncio.Semaphore) -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", service.port, limit=1 << 20)
        where = path(workflow) if len(seen) % 2 else "/api/v1/stream"
        writer.write(request(service, where))
        try:
            while line := await reader.readline():
                if line.startswith(b"event: snapshot"):
                    ready.release()
                elif line.startswith(b"data: {") and json.loads(line[6:])["progress"] == 100:
                    seen.append(time.monotonic())
                    return
        finally:
            writer.close()

    def rate() -> float:
        before, began = queries(service), time.monotonic()
        time.sleep(1.5)
        return (queries(service) - before) / (time.monotonic() - began)

    async def many() -> tuple[float, list[float]]:
        seen: list[float] = []
        ready = asyncio.Semaphore(0)
        before, began = queries(service), time.monotonic()
        followers = [asyncio.create_task(follow(seen, ready)) for _ in range(CLIENTS)]
        for _ in range(CLIENTS):
            await ready.acquire()
        # Their coming is bounded as well, by time and not by their number.
        assert queries(service) - before < 30 * (time.monotonic() - began + 1)
        found = await asyncio.to_thread(rate)
        began = time.monotonic()
        await asyncio.to_thread(conn.execute, "update agent_task set status = 'completed' where id = any (%s)", [tasks])
        await asyncio.gather(*followers)
        return found, [when - began for when in seen]

    with following(service, "/api/v1/stream") as one, following(service, path(workflow)) as other:
        one.next()
        other.next()
        alone = rate()
        together, delays = asyncio.run(many())
    memory = int(Path(f"/proc/{service.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    print(
        f"{CLIENTS} clients: {together:.1f} queries/s ({alone:.1f} with two), all told after"
        f" {max(delays) * 1000:.0f} ms, resident {memory:.0f} MB"
    )
    assert together < alone * 1.3 + 1
    assert len(delays) == CLIENTS
    assert max(delays) < 5
    assert memory < 400


# --- The database goes away -------------------------------------------------------------------------------------


def test_streams_outlive_a_crash_of_the_database(own_server):
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

        for where in (
            "/api/v1/workflows",
            f"/api/v1/workflows/{workflow}",
            "/readyz",
            "/api/v1/stream",
            path(workflow),
        ):
            began = time.monotonic()
            response = client.get(where)
            assert (response.status_code, response.json()) == (503, {"error": "Database unavailable"}), where
            assert int(response.headers["retry-after"]) > 0
            assert time.monotonic() - began < 5
        assert client.get("/healthz").status_code == 200

        server = own_server()
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            set_status(conn, first, "completed")
        wait_for(lambda: client.get(f"/api/v1/workflows/{workflow}").status_code == 200, 5)
        for stream in (one, all_active):
            stream.until(lambda event: event.name == "snapshot", 5)
            wait_for(
                lambda stream=stream: stream.latest[str(workflow)]["progress"] == 50 or (stream.next() and False), 5
            )
        with psycopg.connect(server.dsn, autocommit=True) as conn:
            set_status(conn, second, "completed")
        one.until(progress_is(100), 5)
        all_active.until(progress_is(100), 5)
    assert service.said().count("the database is away") == service.said().count("the database is back") == 1


def test_streams_outlive_the_end_of_their_session(service, conn):
    workflow = new_workflow(conn, status="running")
    (task,) = new_tasks(conn, workflow, "running")
    with following(service, path(workflow)) as stream, service.client() as client:
        stream.next()
        conn.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where application_name = 'agent-progress serve' and datname = current_database()"
        )
        assert client.get("/api/v1/workflows").status_code == 200
        set_status(conn, task, "completed")
        stream.until(
            lambda event: event.name in ("snapshot", "workflow") and stream.latest[str(workflow)]["progress"] == 100
        )


# --- Notifications ----------------------------------------------------------------------------------------------


@pytest.fixture
def notifying(service_dsn, conn) -> Iterator[None]:
    assert main(["notify", "on", "--dsn", service_dsn]) == 0
    yield
    assert main(["notify", "off", "--dsn", service_dsn]) == 0


def test_notifications_are_one_per_workflow_and_transaction(service_dsn, conn, notifying):
    with psycopg.connect(service_dsn, autocommit=True) as listener:
        listener.execute("listen agent_progress")
        with conn.transaction():
            one, other = new_workflow(conn), new_workflow(conn)
            for workflow in (one, other):
                for task in new_tasks(conn, workflow, "running", "running", "running"):
                    set_status(conn, task, "completed")
        conn.execute("delete from workflow where id = %s", [one])
        said = [notice.payload for notice in listener.notifies(timeout=1)]
    assert sorted(said[:2]) == sorted([str(one), str(other)])
    assert said[2:] == [str(one)]


def test_with_notifications_a_change_is_told_before_the_interval_is_over(service_dsn, conn, notifying):
    workflow = new_workflow(conn)
    tasks = new_tasks(conn, workflow, *["running"] * 4)
    with serving(service_dsn, "--interval", "5") as service, following(service, path(workflow)) as stream:
        stream.next()
        for done, task in enumerate(tasks, 1):
            time.sleep(0.15)
            began = time.monotonic()
            set_status(conn, task, "completed")
            stream.until(progress_is(done * 25))
            assert time.monotonic() - began < 1
        with following(service, path(workflow)) as newcomer:
            began = time.monotonic()
            assert newcomer.next().name == "snapshot"
            assert time.monotonic() - began < 1
        # Without changes there is hardly a query.
        before = queries(service)
        time.sleep(1)
        assert queries(service) - before <= 3


def test_streams_go_on_when_notifications_are_switched_off(service_dsn, conn, notifying):
    workflow = new_workflow(conn)
    first, second = new_tasks(conn, workflow, "running", "running")
    with serving(service_dsn, "--interval", "0.3") as service, following(service, path(workflow)) as stream:
        stream.next()
        set_status(conn, first, "completed")
        stream.until(progress_is(50))
        assert main(["notify", "off", "--dsn", service_dsn]) == 0
        time.sleep(0.7)
        set_status(conn, second, "completed")
        stream.until(progress_is(100), 3)


def test_notify_can_be_switched_twice_and_leaves_nothing_behind(service_dsn, conn, capsys):
    for switch in ("on", "on", "off", "off"):
        assert main(["notify", switch, "--dsn", service_dsn]) == 0
        assert capsys.readouterr().out == f"notifications are {switch}\n"
    assert conn.execute("select to_regproc('notify_progress')").fetchone() == (None,)


# --- The end ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_it_ends_its_open_streams_when_it_ends(service_dsn, conn, number):
    workflow = new_workflow(conn)
    with serving(service_dsn) as service:
        streams = [following(service, where) for where in (path(workflow), "/api/v1/stream") for _ in range(5)]
        opened = [stream.__enter__() for stream in streams]
        for stream in opened:
            stream.next()
        service.process.send_signal(number)
        for stream in opened:
            assert stream.next() is None
        status = service.process.wait(20)
        for stream in streams:
            stream.__exit__(None, None, None)
    assert status == 0
    assert "Traceback" not in service.said()
    assert "graceful" not in service.said()  # what the server says of streams that it had to break off


def test_it_ends_also_when_a_client_does_not_read(service_dsn, conn):
    workflow = new_workflow(conn, description="x" * 5_000_000)
    with serving(service_dsn) as service, socket.socket() as slow:
        slow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        slow.connect(("127.0.0.1", service.port))
        slow.sendall(request(service, path(workflow)))
        assert slow.recv(100)
        time.sleep(0.3)
        status, seconds = service.signal(signal.SIGTERM)
    assert (status, seconds < 3) == (0, True)


def test_a_client_that_left_is_forgotten(service, conn):
    with httpx.Client(base_url=service.url, trust_env=False) as client:
        for _ in range(3):
            with following(service, "/api/v1/stream") as stream:
                stream.next()
        wait_for(lambda: "agent_progress_stream_clients 0.0" in client.get("/metrics").text, 5)
