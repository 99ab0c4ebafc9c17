"""Running the service: where it listens, what it logs, and how it ends."""

import asyncio
import errno
import ipaddress
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from typing import Any

import psycopg
import uvicorn

from pyapp.errors import AgentProgressError
from pyapp.web.address import PREFIX
from pyapp.web.app import Settings, create_app
from pyapp.web.database import arguments, reason
from pyapp.web.shape import LACKING, lacking, readable

_HOPELESS = "invalid |not supported|authentication failed|does not exist"
_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(name)s %(message)s"}, "bare": {"format": "%(message)s"}},
    "handlers": {name: {"class": "logging.StreamHandler", "formatter": name} for name in ("line", "bare")},
    "loggers": {
        "agent_progress": {"handlers": ["line"], "level": "INFO"},
        "agent_progress.access": {"handlers": ["bare"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["line"], "level": "WARNING"},
        # Tells of every failed attempt to connect, with where it tried; the service answers 503 meanwhile.
        "psycopg.pool": {"handlers": [], "level": "CRITICAL", "propagate": False},
    },
}


class CannotServe(AgentProgressError):
    """The service cannot start as it was told to; the message says why, in one line."""


class _Server(uvicorn.Server):
    """Ends the live streams first, which uvicorn would wait for."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        app: Any = self.config.app  # not as uvicorn has loaded it, in a wrapper
        app.state.feed.close_streams()
        await super().shutdown(sockets)


def run(settings: Settings, port: int, say: Callable[[str], None]) -> None:
    """Serve until SIGINT or SIGTERM; ``say`` is told the address, and whether the database is away.

    The token is that of ``AGENT_PROGRESS_TOKEN``; it is needed to listen on other than this machine. Port 0 is any.
    Raises CannotServe.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, an embedded server with it
    _look(settings, say)
    server, listening, where = _prepare(settings, port)
    say(f"serving {where}  (Ctrl-C ends)")
    with suppress(KeyboardInterrupt):
        server.run(sockets=[listening])


@contextmanager
def in_background(settings: Settings, port: int) -> Iterator[str]:
    """Serve while the block lasts; yield the address. Raises CannotServe."""
    server, listening, where = _prepare(settings, port)
    for name in ("agent_progress", "agent_progress.access"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the terminal shows something else
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield where
    finally:
        server.should_exit = True
        thread.join()


def _look(settings: Settings, say: Callable[[str], None]) -> None:
    """Refuse a database that lacks the schema; one that is away may come later."""
    try:
        asyncio.run(_read(settings))
    except LACKING:
        raise CannotServe(lacking(settings.schema)) from None
    except psycopg.OperationalError as error:
        why = reason(error)
        if "startup parameter" in why:  # libpq says which
            raise CannotServe(
                "the pooler refuses the parameter options, with which the service only reads, for 5 s at most: name the"
                " server itself, or let pgbouncer ignore it (ignore_startup_parameters = options) for a role that may"
                " only read"
            ) from None
        if re.search(_HOPELESS, why):  # it will not come by itself
            raise CannotServe(f"no connection to the database: {why}") from None
        say(f"the database is away, answers are 503 until it is there: {why}")


async def _read(settings: Settings) -> None:
    how = arguments(settings.read_dsn or settings.dsn) | {"connect_timeout": 5}
    async with await psycopg.AsyncConnection.connect(**how) as conn:
        await readable(conn, settings.schema, "workflow_forecast", "agent_task")


def _prepare(settings: Settings, port: int) -> tuple[_Server, socket.socket, str]:
    token = os.environ.get("AGENT_PROGRESS_TOKEN", "").strip() or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise CannotServe("AGENT_PROGRESS_TOKEN has characters that a header cannot carry: take printable ASCII")
    if settings.base_path and not PREFIX.fullmatch(settings.base_path):
        raise CannotServe(f"not a path to be found below, such as /progress: {settings.base_path}")
    if settings.trace_url and not re.fullmatch(r"https?://.*\{trace_id\}.*", settings.trace_url):
        raise CannotServe("the address of a trace begins with https:// and has {trace_id} in it")
    if not all(re.fullmatch(r"https?://[^\s;,'\"/]+", origin) for origin in settings.embed_origins):
        raise CannotServe("an origin that may embed is like https://board.example")
    host = settings.host
    listening = _listen(host, port, anywhere=token is not None)
    config = uvicorn.Config(
        create_app(replace(settings, token=token)),
        log_config=_LOGGING,
        access_log=False,
        server_header=False,
        timeout_graceful_shutdown=1,  # no more than what streams take whose clients do not read
    )
    shown = f"[{host}]" if ":" in host else host
    return _Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}/"


def _listen(host: str, port: int, *, anywhere: bool) -> socket.socket:
    """Listen, from which on a client may connect: it is answered once the service has started."""
    with ExitStack() as opened:
        try:
            family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
            if not anywhere and not ipaddress.ip_address(address[0]).is_loopback:
                raise CannotServe(f"to listen on {host}, set AGENT_PROGRESS_TOKEN: whoever knows it may read")
            # With the protocol: without it, asyncio takes a connection for no TCP, and each answer waits 40 ms (Nagle).
            listening = opened.enter_context(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(2048)
        except (OSError, UnicodeError) as error:
            why = getattr(error, "strerror", None) or "not an address"
            hint = " (--port takes another)" if isinstance(error, OSError) and error.errno == errno.EADDRINUSE else ""
            raise CannotServe(f"cannot listen on {host} port {port}: {why}{hint}") from None
        opened.pop_all()
        return listening
