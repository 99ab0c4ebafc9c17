"""serve and notify: the service from the command line."""

import argparse
import ipaddress
import logging
import os
import re
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from importlib.util import find_spec
from typing import Any

import psycopg

from pyapp.cli.common import UsageError, add_name, add_read_dsn, database, find_source, reads_from, say
from pyapp.db import connect, find_dsn
from pyapp.schema import resource
from pyapp.web.queries import readable
from pyapp.web.settings import Settings, incomplete


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "serve",
        parents=[shared],
        help="serve the dashboard and the HTTP API",
        description="Serve the dashboard and the HTTP API, read-only. Without a database it uses the embedded server."
        " It listens on this machine only; anywhere else it wants a token in AGENT_PROGRESS_TOKEN. With --read-dsn it"
        " reads from a standby, and from --dsn it only hears of changes, where notifications are on.",
    )
    add_name(command)
    add_read_dsn(command)
    command.add_argument("--host", default="127.0.0.1", help="address to listen on (default 127.0.0.1)")
    command.add_argument("--port", type=port, default=8080, help="port to listen on, 0 for any (default 8080)")
    command.add_argument(
        "--interval", type=interval, default=0.5, metavar="SECONDS", help="time between two looks (default 0.5)"
    )
    command.add_argument(
        "--cors-origin",
        action="append",
        default=[],
        metavar="ORIGIN",
        help="let pages of this origin read the API (may be repeated)",
    )
    command.set_defaults(run=_serve)

    command = commands.add_parser(
        "notify",
        parents=[shared],
        help="turn notifications on or off",
        description="Turn the trigger on or off that notifies of each change, on channel agent_progress: live pages are"
        " quicker then, and every commit that counts costs a little more. Off by default.",
    )
    command.add_argument("switch", choices=("on", "off"), help="on or off")
    command.set_defaults(run=_notify)


def _serve(args: argparse.Namespace) -> int:
    _require_extra()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does, the embedded server with it
    read_dsn = reads_from(args)
    if read_dsn is not None and find_dsn(args.dsn) is None:
        args.dsn, read_dsn = read_dsn, None  # there is no primary to listen to
    with database(args, or_embedded=args.name is None) as dsn:
        _require_schema(read_dsn or dsn, args)
        settings = Settings(dsn, args.host, None, args.interval, tuple(args.cors_origin), args.name, read_dsn)
        server, listening, where = _prepare(settings, args.port)
        say(f"serving {where}  (Ctrl-C ends)")
        with suppress(KeyboardInterrupt):
            server.run(sockets=[listening])
    return 0


def _require_extra() -> None:
    # Found, not imported: that takes a second, which nobody should wait to be told of a wrong option.
    for name in ("fastapi", "jinja2", "prometheus_client", "psycopg_pool", "uvicorn"):
        if find_spec(name) is None:
            raise UsageError(f"{name} is missing: pip install 'agent-progress[web]'")


def _require_schema(dsn: str, args: argparse.Namespace) -> None:
    """Refuse a database that lacks the schema, or what was adopted; one that is away may come later."""
    try:
        with connect(dsn, connect_timeout=5) as conn:
            if args.name is None:
                conn.execute("select from public.workflow_forecast, public.workflow_stage_progress limit 0")
            else:
                readable(conn, find_source(conn, args))
    except psycopg.errors.UndefinedTable:
        if args.name is None:
            raise
        raise UsageError(incomplete(args.name)) from None
    except psycopg.OperationalError as error:
        from pyapp.web.database import reason

        why = reason(error)
        if re.search("invalid |not supported|authentication failed|does not exist", why):  # it will not come by itself
            raise UsageError(f"no connection to the database: {why}") from None
        say(f"the database is away, answers are 503 until it is there: {why}")


def _notify(args: argparse.Namespace) -> int:
    script = (resource("sql") / "optional" / f"notify_{args.switch}.sql").read_text("utf-8")
    with database(args) as dsn, connect(dsn) as conn:
        conn.execute(script.encode())
    print(f"notifications are {args.switch}")
    return 0


@contextmanager
def in_background(dsn: str, port: int) -> Iterator[str]:
    """Serve on this machine while the block lasts; yield the address."""
    server, listening, where = _prepare(Settings(dsn), port)
    for name in ("agent_progress", "agent_progress.access"):
        logging.getLogger(name).setLevel(logging.ERROR)  # the terminal shows something else
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield where
    finally:
        server.should_exit = True
        thread.join()


def _prepare(settings: Settings, port: int) -> tuple[Any, Any, str]:
    _require_extra()
    host = settings.host
    token = os.environ.get("AGENT_PROGRESS_TOKEN", "").strip() or None
    if token is not None and not (token.isascii() and token.isprintable()):
        raise UsageError("AGENT_PROGRESS_TOKEN has characters that a header cannot carry: take printable ASCII")
    family, address = _resolve(host, port)
    if token is None and not ipaddress.ip_address(address[0]).is_loopback:
        raise UsageError(f"to listen on {host}, set AGENT_PROGRESS_TOKEN: whoever knows it may read")
    listening = _listen(family, address, host, port)

    import uvicorn

    from pyapp.web.app import create_app

    app = create_app(replace(settings, token=token))

    class Server(uvicorn.Server):
        """Ends the live streams first, which uvicorn would wait for."""

        async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
            app.state.feed.close_streams()
            await super().shutdown(sockets)

    # A second: no more than what streams take whose clients do not read.
    config = uvicorn.Config(
        app, log_config=_LOGGING, access_log=False, server_header=False, timeout_graceful_shutdown=1
    )
    shown = f"[{host}]" if ":" in host else host
    return Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}/"


def _resolve(host: str, port: int) -> tuple[socket.AddressFamily, Any]:
    try:
        family, _, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
    except (OSError, UnicodeError) as error:
        raise UsageError(f"cannot listen on {host}: {getattr(error, 'strerror', None) or 'not an address'}") from None
    return family, address


def _listen(family: socket.AddressFamily, address: Any, host: str, port: int) -> socket.socket:
    # With the protocol: without it, asyncio takes a connection for no TCP, and each answer waits 40 ms (Nagle).
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
        # From here on, a client may connect; it is answered once the service has started.
        listening.listen(2048)
    except OSError as error:
        listening.close()
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listening


_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(name)s %(message)s"}, "bare": {"format": "%(message)s"}},
    "handlers": {
        "stderr": {"class": "logging.StreamHandler", "formatter": "line"},
        "bare": {"class": "logging.StreamHandler", "formatter": "bare"},
    },
    "loggers": {
        "agent_progress": {"handlers": ["stderr"], "level": "INFO"},
        "agent_progress.access": {"handlers": ["bare"], "level": "INFO", "propagate": False},
        "uvicorn": {"handlers": ["stderr"], "level": "WARNING"},
        # Tells of every failed attempt to connect, with where it tried; the service answers 503 meanwhile.
        "psycopg.pool": {"handlers": [], "level": "CRITICAL", "propagate": False},
    },
}


def port(text: str) -> int:
    """Read a port number from the command line."""
    if text.isascii() and text.isdigit() and int(text) < 65536:
        return int(text)
    raise argparse.ArgumentTypeError(f"{text!r} is not a port (0 to 65535)")


def interval(text: str) -> float:
    """Read an interval in seconds from the command line."""
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if 0.05 <= seconds <= 60:
        return seconds
    raise argparse.ArgumentTypeError(f"{text!r} is not a number of seconds (0.05 to 60)")
