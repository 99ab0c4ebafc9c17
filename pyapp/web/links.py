"""Links between pages of the API, as a header (RFC 8288)."""

from urllib.parse import urlencode

from starlette.requests import Request

from pyapp.web.address import base_of


def page_links(request: Request, **cursors: str | None) -> dict[str, str]:
    """Write the header Link: the same request with other cursors, by what they lead to (``next``, ``prev``)."""
    kept = [(name, value) for name, value in request.query_params.multi_items() if name != "cursor"]
    here = f"{base_of(request)}{request.url.path}"
    links = [
        f'<{here}?{urlencode([*kept, ("cursor", cursor)])}>; rel="{relation}"'
        for relation, cursor in cursors.items()
        if cursor is not None
    ]
    return {"Link": ", ".join(links)} if links else {}
