"""The web service as a process of its own, and a client that reads its live streams."""

import json
import os
import queue
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg
import pytest
from prometheus_client.parser import text_string_to_metric_families

from pyapp import migrate

from .helpers import PATIENCE as PATIENCE
from .helpers import wait_for

Conn = psycopg.Connection[Any]
_REPOSITORY = Path(__file__).parents[1]


@dataclass
class Service:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""
    last_words: str = ""

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        # No proxy between us, and no connection that the service may close just when it is used again.
        options = {"limits": httpx.Limits(max_keepalive_connections=0), **options}
        return httpx.Client(base_url=self.url, trust_env=False, timeout=PATIENCE, **options)

    def get(self, path: str, expected: int = 200, /, **parameters: Any) -> Any:
        """Ask the API; return what it answers."""
        return content(self._ask(f"/api/v1{path}", expected, params=parameters or None))

    def page(self, path: str, expected: int = 200) -> str:
        """Ask for a page as a browser does; return its HTML."""
        return self._ask(path, expected, headers={"Accept": "text/html"}).text

    def _ask(self, path: str, expected: int, **options: Any) -> httpx.Response:
        with self.client() as client:

            def answer() -> httpx.Response | None:
                response = client.get(path, **options)
                # Which it answers where its database takes too long, on a machine with much to do.
                return None if response.status_code == 503 and expected != 503 else response

            response: httpx.Response = wait_for(answer)
        assert response.status_code == expected, response.text[:500]
        return response

    def walk(self, path: str, relation: str = "next", **parameters: Any) -> Iterator[httpx.Response]:
        """Follow the Link header of a list to its end."""
        address: Any = httpx.URL(path, params=parameters) if parameters else path
        with self.client() as client:
            while address:
                response = client.get(address)
                assert response.status_code == 200, response.text[:500]
                yield response
                address = response.links.get(relation, {}).get("url")

    def metrics(self) -> dict[tuple[str, ...], float]:
        """Read all samples by name and label values; those of the service without agent_progress_ in front."""
        with self.client() as client:
            said = client.get("/metrics")
        assert said.status_code == 200
        return {
            (sample.name.removeprefix("agent_progress_"), *sample.labels.values()): sample.value
            for family in text_string_to_metric_families(said.text)
            for sample in family.samples
        }

    def said(self) -> str:
        """All that it has written so far."""
        return self.output.read_text() if self.output.exists() else self.last_words

    def signal(self, number: int) -> int:
        """Send a signal and wait for the end; return the exit status."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def content(response: httpx.Response) -> Any:
    """Return the JSON of an answer; of a problem, that what it says stands in it twice and that is what is returned."""
    found = response.json()
    if response.headers["content-type"] == "application/json":
        return found
    assert response.headers["content-type"] == "application/problem+json"
    assert (found["status"], found["detail"], found["type"]) == (response.status_code, found["error"], "about:blank")
    return {"error": found["error"]}


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "pyapp", *arguments]


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PG", "AGENT_PROGRESS"))}
    return {**kept, "PYTHONPATH": str(_REPOSITORY), "PYTHONWARNINGS": "default", **more}


@contextmanager
def serving(dsn: str | None, *arguments: str, run: list[str] | None = None, **env: str) -> Iterator[Service]:
    """Run the service on a free port until the block ends; ``run`` replaces the command."""
    line = run or command("serve", "--port", "0", *(["--dsn", dsn] if dsn else []), *arguments)
    with tempfile.TemporaryDirectory(prefix="ap-web-") as directory:
        output = Path(directory, "output")
        with (
            output.open("wb") as file,
            subprocess.Popen(line, stdout=file, stderr=file, cwd=_REPOSITORY, env=environment(**env)) as process,
        ):
            service = Service(process, output)
            try:
                found = wait_for(
                    lambda: re.search(r"(?:serving|dashboard:) +(http\S+)", service.said()) or process.poll()
                )
                assert isinstance(found, re.Match), service.said()
                service.url = found[1]
                yield service
            finally:
                if process.poll() is None:
                    process.send_signal(signal.SIGTERM)
                    try:
                        process.wait(PATIENCE)
                    except subprocess.TimeoutExpired:
                        process.kill()
                service.last_words = service.said()


def shared(*arguments: str) -> tuple[Any, Any, Any]:
    """Make the fixtures of a module: a DSN, a service and a connection, of a database that is emptied for each test."""

    @pytest.fixture(scope="module")
    def service_dsn(empty: Callable[[], str]) -> str:
        dsn = empty()
        migrate(dsn)
        return dsn

    @pytest.fixture(scope="module")
    def service(service_dsn: str) -> Iterator[Service]:
        with serving(service_dsn, *arguments) as running:
            yield running

    @pytest.fixture
    def conn(service_dsn: str) -> Iterator[Conn]:
        with psycopg.connect(service_dsn, autocommit=True) as connection:
            connection.execute("truncate workflow cascade")
            yield connection
            assert connection.execute("select * from workflow_progress_drift").fetchall() == []

    return service_dsn, service, conn


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with service.client() as opened:
        yield opened


class Event(NamedTuple):
    """A server-sent event; ``data`` is decoded, and a comment is an event of that name."""

    name: str
    data: Any


class Stream:
    """Follows a live stream in a thread of its own."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.events: queue.Queue[Event | None] = queue.Queue()
        self.latest: dict[str, Any] = {}
        self.hears_pings = False  # they come wherever the machine is slow
        self._end: Exception | None = None
        self._request = client.stream("GET", path)
        self.response = self._request.__enter__()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        name = ""
        try:
            for line in self.response.iter_lines():
                if line.startswith(":"):
                    self.events.put(Event("comment", line))
                elif line.startswith("event: "):
                    name = line[7:]
                elif line.startswith("data: "):
                    self.events.put(Event(name, json.loads(line[6:])))
        except httpx.HTTPError as error:
            self._end = error
        self.events.put(None)

    def next(self) -> Event | None:
        """Wait for the next event; None is the end. Keeps the latest state of each workflow."""
        event = self.events.get(timeout=PATIENCE)
        while event is not None and event.name in ("ping", "comment") and not self.hears_pings:
            event = self.events.get(timeout=PATIENCE)
        if event is not None:
            if event.name == "snapshot":
                self.latest = {workflow["id"]: workflow for workflow in event.data}
            elif event.name == "workflow":
                self.latest[event.data["id"]] = event.data
            elif event.name == "deleted":
                self.latest.pop(event.data["workflow_id"], None)
        return event

    def until(self, holds: Callable[[Event], Any]) -> Event:
        """Wait for an event of which something holds."""
        while (event := self.next()) is not None:
            if holds(event):
                return event
        raise AssertionError("the stream ended") from self._end

    def close(self) -> None:
        """Leave."""
        # The reader holds the connection; shutting it down wakes it.
        network = self.response.extensions["network_stream"].get_extra_info("socket")
        if network is not None:
            with suppress(OSError):
                network.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE)
        self._request.__exit__(None, None, None)


@contextmanager
def following(service: Service, path: str, **options: Any) -> Iterator[Stream]:
    """Follow a live stream until the block ends."""
    with service.client(**options) as client:

        def opened() -> Stream | None:
            stream = Stream(client, path)
            if stream.response.status_code != 503:  # which it answers where its database takes too long
                return stream
            stream.close()
            return None

        stream = wait_for(opened)
        try:
            yield stream
        finally:
            stream.close()
