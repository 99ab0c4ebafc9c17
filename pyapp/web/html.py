"""Pages of what a query reads, as HTML."""

import hashlib
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader
from starlette.requests import Request
from starlette.responses import Response

from pyapp.web import charts, text
from pyapp.web.address import base_of
from pyapp.web.database import Read
from pyapp.web.parameters import ask
from pyapp.web.shape import OURS, Shape
from pyapp.web.wire import Conn, error

STATIC = Path(__file__).with_name("static")
_ADDRESS = re.compile(r'(?<= )(href|action|src)="/')
_MARK = hashlib.blake2b(b"".join(file.read_bytes() for file in sorted(STATIC.iterdir())), digest_size=6).hexdigest()


def _asset(name: str) -> str:
    """Return where a file is, with a mark of what all contain, so that browsers do not mix old ones and new ones."""
    return f"/static/{_MARK}/{name}"


_FILES = FileSystemLoader(Path(__file__).with_name("templates"))
# All is escaped, in icons and badges too.
_templates = Environment(loader=_FILES, autoescape=True, trim_blocks=True, lstrip_blocks=True)
_templates.globals |= {"asset": _asset, "called": text.called, **charts.FUNCTIONS}
_templates.filters |= text.FILTERS


def load_templates() -> None:
    """Compile the templates, which the first reader of each page would wait for."""
    for name in _templates.list_templates():
        _templates.get_template(name)


async def show(request: Request, template: str, query: Read[dict[str, Any]]) -> Response:
    """Answer with a page of what is read, all of it as of one moment, so that its numbers agree."""

    async def read(conn: Conn, shape: Shape) -> dict[str, Any]:
        async with conn.transaction():
            found = await query(conn, shape)
        standby = await request.app.state.database.meter.measure(conn)
        return {"shape": shape, "words": shape.words, "standby": standby, **found}

    return render(request, template, await ask(request, read))


def render(
    request: Request, template: str, context: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    """Answer with a page, or a picture."""
    schema = request.app.state.settings.schema
    known = {"now": datetime.now(UTC), "schema": None if schema == "public" else schema, "words": OURS}
    written = _templates.get_template(template).render(known | context)
    if base := base_of(request):
        # Every quote in a text is escaped: this is found in markup only.
        written = _ADDRESS.sub(rf'\1="{base}/', written)
    kind = "image/svg+xml" if template.endswith(".svg") else "text/html"
    return Response(written, status, {"Cache-Control": "no-store", **(headers or {})}, kind)


def failure(request: Request, status: int, message: str, headers: dict[str, str]) -> Response:
    """Answer with an error: a page where a browser asks for one, else JSON."""
    is_api = request.url.path.startswith(("/api/", "/metrics", "/readyz"))
    if is_api or "text/html" not in request.headers.get("accept", ""):
        return error(message, status, headers)
    return render(request, "error.html", {"status": status, "message": message}, status, headers)
