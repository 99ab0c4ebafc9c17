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
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import psycopg

_REPOSITORY = Path(__file__).parents[1]


@dataclass
class Service:
    """A service that runs."""

    process: subprocess.Popen[bytes]
    output: Path
    url: str = ""
    last_words: str = ""

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rstrip("/").rpartition(":")[2])

    def client(self, **options: Any) -> httpx.Client:
        # Not from the environment: no proxy between us.
        return httpx.Client(base_url=self.url, trust_env=False, timeout=20, **options)

    def said(self) -> str:
        """All that it has written so far."""
        return self.output.read_text() if self.output.exists() else self.last_words

    def signal(self, number: int) -> tuple[int, float]:
        """Send a signal and wait for the end; return the exit status and the seconds that it took."""
        began = time.monotonic()
        self.process.send_signal(number)
        return self.process.wait(20), time.monotonic() - began


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
                        process.wait(20)
                    except subprocess.TimeoutExpired:
                        process.kill()
                service.last_words = service.said()


@contextmanager
def emptied(dsn: str) -> Iterator[psycopg.Connection]:
    """Connect to a database that tests share: it is emptied first and has no drift in the end."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("truncate workflow cascade")
        yield connection
        assert connection.execute("select * from workflow_progress_drift").fetchall() == []


def wait_for(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until something holds; return it."""
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        if (found := condition()) not in (None, False):
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s")


class Event(NamedTuple):
    """A server-sent event; ``data`` is decoded, and a comment is an event of that name."""

    name: str
    data: Any


class Stream:
    """Follows a live stream in a thread of its own."""

    def __init__(self, client: httpx.Client, path: str) -> None:
        self.events: queue.Queue[Event | None] = queue.Queue()
        self.latest: dict[str, Any] = {}
        self._request = client.stream("GET", path, timeout=httpx.Timeout(20, read=60))
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
        except httpx.HTTPError:
            pass
        self.events.put(None)

    def next(self, seconds: float = 10) -> Event | None:
        """Wait for the next event; None is the end. Keeps the latest state of each workflow."""
        event = self.events.get(timeout=seconds)
        if event is not None:
            if event.name == "snapshot":
                self.latest = {workflow["id"]: workflow for workflow in event.data}
            elif event.name == "workflow":
                self.latest[event.data["id"]] = event.data
            elif event.name == "deleted":
                self.latest.pop(event.data["workflow_id"], None)
        return event

    def until(self, holds: Callable[[Event], Any], seconds: float = 10) -> Event:
        """Wait for an event of which something holds."""
        give_up = time.monotonic() + seconds
        while True:
            event = self.next(max(0.01, give_up - time.monotonic()))
            assert event is not None, "the stream ended"
            if holds(event):
                return event

    def close(self) -> None:
        """Leave."""
        # The reader holds the connection; shutting it down wakes it.
        network = self.response.extensions["network_stream"].get_extra_info("socket")
        if network is not None:
            with suppress(OSError):
                network.shutdown(socket.SHUT_RDWR)
        self._thread.join(5)
        self._request.__exit__(None, None, None)


@contextmanager
def following(service: Service, path: str, **options: Any) -> Iterator[Stream]:
    """Follow a live stream until the block ends."""
    with service.client(**options) as client:
        stream = Stream(client, path)
        try:
            yield stream
        finally:
            stream.close()
