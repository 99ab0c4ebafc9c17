"""serve: the dashboard and the HTTP API."""

from typing import Any

import click

from pyapp.cli.common import Target, command, database, reads_from, require_extra, say
from pyapp.cli.options import interval_option
from pyapp.db import find_dsn, find_schema

_MODULES = ("fastapi", "jinja2", "prometheus_client", "psycopg_pool", "uvicorn")


@command(reads=True)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8080, show_default=True, help="Port to listen on, 0 for any."
)
@interval_option(0.05, 60)
@click.option(
    "--cors-origin",
    "cors_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin read the API. May be repeated.",
)
@click.option("--base-path", default="", metavar="PATH", help="What a proxy puts before all addresses: /progress.")
@click.option("--trace-url", metavar="URL", help="Where traces are shown: 'https://traces.example/{trace_id}'.")
@click.option(
    "--embed-origin",
    "embed_origins",
    multiple=True,
    metavar="ORIGIN",
    help="Let pages of this origin frame the bar of a workflow. May be repeated.",
)
def serve(target: Target, port: int, base_path: str, **settings: Any) -> None:
    """Serve the dashboard and the HTTP API, read-only.

    Without a database it uses the embedded server. It listens on this machine only; anywhere else it wants a token in
    AGENT_PROGRESS_TOKEN. With --read-dsn it reads from a standby, and from --dsn it only hears of changes, where
    notifications are on.

    Example:
      agent-progress serve --dsn postgresql://localhost/mydb --port 8080
    """
    require_extra("web", *_MODULES)
    from pyapp.web import Settings, run

    read_dsn = reads_from(target)
    if read_dsn is not None and find_dsn(target.dsn) is None:
        target.dsn, read_dsn = read_dsn, None  # there is no primary to listen to
    with database(target, or_embedded=True) as dsn:
        schema = find_schema(target.schema)
        run(Settings(dsn, schema, read_dsn=read_dsn, base_path=base_path.rstrip("/"), **settings), port, say)
