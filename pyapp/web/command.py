"""serve and notify: the service from the command line."""

import argparse
import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from pyapp.cli.common import UsageError, database, say
from pyapp.db import connect
from pyapp.schema import resource


def add_commands(commands: Any, shared: argparse.ArgumentParser) -> None:
    """Add the commands of this module to the parser."""
    command = commands.add_parser(
        "serve",
        parents=[shared],
        help="serve the dashboard and the HTTP API",
        description="Serve the dashboard and the HTTP API, read-only. Without a database it uses the embedded server."
        " It listens on this machine only; anywhere else it wants a token in AGENT_PROGRESS_TOKEN.",
    )
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
    with database(args, or_embedded=True) as dsn:
        run(dsn, args.host, args.port, args.interval, tuple(args.cors_origin))
    return 0


def _notify(args: argparse.Namespace) -> int:
    script = (resource("sql") / "optional" / f"notify_{args.switch}.sql").read_text("utf-8")
    with database(args) as dsn, connect(dsn) as conn:
        conn.execute(script.encode())
    print(f"notifications are {args.switch}")
    return 0


def run(dsn: str, host: str, port: int, interval: float = 0.5, cors_origins: tuple[str, ...] = ()) -> None:
    """Serve until a signal ends it."""
    server, listening, where = _prepare(dsn, host, port, interval, cors_origins)
    say(f"serving {where}  (Ctrl-C ends)")
    server.run(sockets=[listening])


@contextmanager
def in_background(dsn: str, port: int) -> Iterator[str]:
    """Serve on this machine while the block lasts; yield the address."""
    server, listening, where = _prepare(dsn, "127.0.0.1", port, 0.5, ())
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        yield where
    finally:
        server.app_source.close_streams()
        server.should_exit = True
        thread.join()


def _prepare(dsn: str, host: str, port: int, interval: float, cors_origins: tuple[str, ...]) -> tuple[Any, Any, str]:
    try:
        import uvicorn

        from pyapp.web.app import create_app
        from pyapp.web.settings import Settings
    except ImportError as error:
        raise UsageError(f"{error.name} is missing: pip install 'agent-progress[web]'") from None

    settings = Settings(dsn, host, port, os.environ.get("AGENT_PROGRESS_TOKEN") or None, interval, cors_origins)
    if not settings.is_loopback and settings.token is None:
        raise UsageError(f"to listen on {host}, set AGENT_PROGRESS_TOKEN: whoever knows it may read")
    listening = _listen(host, port)
    app = create_app(settings)

    class Server(uvicorn.Server):
        """Ends the live streams first, which uvicorn would wait for."""

        app_source = app.state.source

        def handle_exit(self, sig: int, frame: Any) -> None:
            self.app_source.close_streams()
            super().handle_exit(sig, frame)

    config = uvicorn.Config(
        app, log_config=_LOGGING, access_log=False, server_header=False, timeout_graceful_shutdown=3, lifespan="on"
    )
    shown = f"[{host}]" if ":" in host else host
    return Server(config), listening, f"http://{shown}:{listening.getsockname()[1]}/"


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, _, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family, kind)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(address)
    except OSError as error:
        raise UsageError(f"cannot listen on {host} port {port}: {error.strerror or error}") from None
    return listening


_LOGGING: dict[str, Any] = {
    "version": 1,
    "disable_existing_loggers": False,
    "formatters": {"line": {"format": "%(asctime)s %(name)s %(message)s"}},
    "handlers": {"stderr": {"class": "logging.StreamHandler", "formatter": "line"}},
    "loggers": {
        "agent_progress": {"handlers": ["stderr"], "level": "INFO"},
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
