"""Who may read, what a browser may do with it, and what the service never says."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote
from xml.etree import ElementTree

import httpx
import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from pyapp import grant
from pyapp.web import security
from pyapp.web.database import Database
from pyapp.web.wire import fetch_values
from tests.helpers import new_tasks, new_workflow
from tests.service import PATIENCE, Conn, Service, command, content, environment, following, serving, shared, wait_for

TOKEN = "correct-horse-battery"
HTML = {"Accept": "text/html,application/xhtml+xml"}
PASSWORD = "pa55-w0rd-nobody-may-see"


service_dsn, service, conn = shared()


@pytest.fixture(scope="module")
def guarded(service_dsn: str) -> Iterator[Service]:
    """A service with a token."""
    with serving(service_dsn, AGENT_PROGRESS_TOKEN=TOKEN) as running:
        yield running


def refused(*arguments: str, **env: str) -> str:
    """Run serve where it must refuse; return the one line that it says."""
    done = subprocess.run(
        command("serve", *arguments), env=environment(**env), capture_output=True, text=True, timeout=30
    )
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    return line


# --- Where it listens -------------------------------------------------------------------------------------------


def test_it_listens_on_this_machine_only(service: Service) -> None:
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/", service.url)
    listening = [line.split()[1] for line in Path("/proc/net/tcp").read_text().splitlines() if line.split()[3] == "0A"]
    assert [where for where in listening if where.endswith(f":{service.port:04X}")] == [f"0100007F:{service.port:04X}"]


@pytest.mark.parametrize(
    ("host", "token", "says"),
    [
        ("0.0.0.0", "", "to listen on 0.0.0.0, set AGENT_PROGRESS_TOKEN: whoever knows it may read"),
        ("::", " \n", "to listen on ::, set AGENT_PROGRESS_TOKEN: whoever knows it may read"),
        ("127.0.0.1", "schlüssel", "AGENT_PROGRESS_TOKEN has characters that a header cannot carry"),
        ("no.such.host.invalid", "", "cannot listen on no.such.host.invalid"),
        ("x" * 300, "", "cannot listen on xxx"),
    ],
)
def test_a_host_or_a_token_that_will_not_do_is_one_line(service_dsn: str, host: str, token: str, says: str) -> None:
    line = refused("--dsn", service_dsn, "--port", "0", "--host", host, AGENT_PROGRESS_TOKEN=token)
    assert line.startswith(f"agent-progress: {says}")


def test_with_a_token_it_listens_everywhere(service_dsn: str) -> None:
    with serving(service_dsn, "--host", "0.0.0.0", AGENT_PROGRESS_TOKEN=TOKEN) as service:
        url = f"http://127.0.0.1:{service.port}/api/v1/workflows"
        assert httpx.get(url, trust_env=False).status_code == 401
        assert httpx.get(url, trust_env=False, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200


def test_it_listens_on_the_loopback_of_ipv6(service_dsn: str) -> None:
    with serving(service_dsn, "--host", "::1") as service:
        assert service.url.startswith("http://[::1]:")
        assert service.get("/workflows") == []


def test_a_port_in_use_is_one_line(service: Service, service_dsn: str) -> None:
    line = refused("--dsn", service_dsn, "--port", str(service.port))
    why = "Address already in use (--port takes another)"
    assert line == f"agent-progress: cannot listen on 127.0.0.1 port {service.port}: {why}"


def test_a_missing_extra_is_one_line() -> None:
    run = "import sys; sys.modules['uvicorn'] = None; import pyapp.cli; sys.exit(pyapp.cli.main(['serve']))"
    done = subprocess.run([sys.executable, "-c", run], env=environment(), capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("agent-progress: uvicorn is missing: ")


def test_a_database_that_will_not_do_is_refused_in_one_line(service_dsn: str, empty: Callable[[], str]) -> None:
    line = refused("--dsn", make_conninfo(service_dsn, dbname="no_such_database"), "--port", "0")
    assert line == 'agent-progress: no connection to the database: FATAL:  database "..." does not exist'
    assert "migrate" in refused("--dsn", empty(), "--port", "0")


# --- The token --------------------------------------------------------------------------------------------------

OPENED_BY_TOKEN = ["/", "/workflows", "/api/v1/workflows", "/metrics", "/openapi.json", "/docs"]
CLOSED = [*OPENED_BY_TOKEN, "/api/v1/stream", "/favicon.ico"]


def test_without_the_token_all_but_the_probes_and_the_login_is_closed(guarded: Service) -> None:
    with guarded.client() as client:
        assert client.get("/healthz").status_code == client.get("/login").status_code == 200
        assert client.get("/readyz").json() == {"status": "ready"}
        for path in [*CLOSED, "/healthz/../metrics", "/login/../metrics", "//metrics", "/%6detrics", "/healthzz"]:
            response = client.get(path)
            assert response.status_code == 401, path
            assert response.headers["www-authenticate"] == "Bearer"
            assert content(response).keys() == {"error"}
        assert client.get("/static/../metrics").status_code in (401, 404)


def test_the_probes_tell_a_stranger_no_detail(guarded: Service, conn: Conn) -> None:
    conn.execute("alter view workflow_progress rename to elsewhere")
    with guarded.client() as client:
        stranger, known = (
            client.get("/readyz", headers=headers) for headers in ({}, {"Authorization": f"Bearer {TOKEN}"})
        )
    conn.execute("alter view elsewhere rename to workflow_progress")
    assert (stranger.status_code, content(stranger)) == (503, {"error": "Not ready"})
    assert (known.status_code, "agent-progress migrate" in known.json()["error"]) == (503, True)


def test_the_token_opens_as_bearer_and_nothing_else_does(guarded: Service) -> None:
    with guarded.client() as client:
        for header in (
            "Bearer wrong",
            f"Basic {TOKEN}",
            f"Bearer {TOKEN}x",
            f"Bearer {TOKEN[:-1]}",
            "Bearer",
            "",
            TOKEN,
        ):
            assert client.get("/api/v1/workflows", headers={"Authorization": header}).status_code == 401, header
        for path in OPENED_BY_TOKEN:
            assert client.get(path, headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 200, path
    with following(guarded, "/api/v1/stream", headers={"Authorization": f"bearer {TOKEN}"}) as stream:
        assert stream.next().name == "snapshot"


def test_a_browser_is_led_to_the_login_and_back(guarded: Service) -> None:
    with guarded.client(headers=HTML) as client:
        response = client.get("/workflows?status=failed&name=%2F")
        assert response.status_code == 303
        assert response.headers["location"] == "/login?next=%2Fworkflows%3Fstatus%3Dfailed%26name%3D%252F"
        escaped = client.get("/workflows/a%3Fb%2Fc%2525?x=1").headers["location"]
        assert escaped == f"/login?next={quote('/workflows/a%3Fb%2Fc%2525?x=1', safe='')}"
        wrong = client.post("/login", data={"token": "wrong", "next": "/workflows"})
        assert (wrong.status_code, "set-cookie" in wrong.headers) == (403, False)
        right = client.post("/login", data={"token": TOKEN, "next": "/workflows?status=failed"})
        assert (right.status_code, right.headers["location"]) == (303, "/workflows?status=failed")
        cookie = right.headers["set-cookie"].lower()
        assert "; httponly" in cookie
        assert re.search(r"; samesite=(strict|lax)", cookie)
        assert TOKEN not in cookie
        assert client.get("/workflows").status_code == 200
        assert client.get("/api/v1/workflows").status_code == 200
        client.cookies.set(security.COOKIE, "0" * 64, domain="127.0.0.1", path="/")
    with guarded.client(cookies={security.COOKIE: "0" * 64}) as client:
        assert client.get("/api/v1/workflows").status_code == 401


@pytest.mark.parametrize(
    "target",
    ["https://evil.example", "//evil.example", "/\\evil.example", "\\\\evil.example", "javascript:alert(1)", "/\t/evil",
     "/\n/evil.example", "", "evil", " //evil.example", "/\r\nSet-Cookie: a=b"],
)  # fmt: skip
def test_the_login_leads_nowhere_else(guarded: Service, target: str) -> None:
    with guarded.client() as client:
        assert client.post("/login", data={"token": TOKEN, "next": target}).headers["location"] == "/"
        assert "evil" not in client.get("/login", params={"next": target}).text


def test_a_long_body_is_refused(guarded: Service, service: Service) -> None:
    for running in (guarded, service):
        with running.client() as client:
            assert client.post("/login", content=b"x" * 20_000).status_code == 413


def test_a_signed_link_opens_one_workflow_for_a_while(guarded: Service, conn: Conn) -> None:
    mine, other = new_workflow(conn, name="mine"), new_workflow(conn)
    bearer = {"Authorization": f"Bearer {TOKEN}"}
    with guarded.client() as client:
        signed = client.get(f"/api/v1/workflows/{mine}/link", params={"seconds": 600}, headers=bearer).json()
        key = signed["key"]
        opened = [f"/api/v1/workflows/{mine}", f"/workflows/{mine}/badge.svg", f"/workflows/{mine}/embed"]
        for path in opened:
            assert client.get(path, params={"key": key}).status_code == 200, path
        with client.stream("GET", f"/api/v1/workflows/{mine}/stream", params={"key": key}) as stream:
            assert stream.status_code == 200
        for path in (
            *(path.replace(str(mine), str(other)) for path in opened),
            *(f"/api/v1/workflows/{mine}/{part}" for part in ("link", "tasks")),
            f"/workflows/{mine}",
            "/api/v1/workflows",
        ):
            assert client.get(path, params={"key": key}).status_code == 401, path
        until, _, proof = key.partition(".")
        late = security.key_of(TOKEN, str(mine), 1)
        for wrong in ("", late, proof, f"{int(until) + 1}.{proof}", f"{until}.{proof[:-1]}", f"²{key}", f"{key}x"):
            assert client.get(opened[0], params={"key": wrong}).status_code == 401, wrong
        assert client.get(f"/api/v1/workflows/{mine}/link", params={"key": key}).status_code == 401


def test_a_badge_and_a_bar_may_be_shown_elsewhere(service_dsn: str, conn: Conn) -> None:
    workflow = new_workflow(conn, name='<b>&"shop')
    new_tasks(conn, workflow, "completed", "pending")
    with serving(service_dsn, "--embed-origin", "https://board.example") as service, service.client() as client:
        badge = client.get(f"/workflows/{workflow}/badge.svg")
        bar = client.get(f"/workflows/{workflow}/embed")
        assert client.get("/workflows/00000000-0000-0000-0000-000000000000/badge.svg").status_code == 404
    assert badge.headers["content-type"].startswith("image/svg+xml")
    assert badge.headers["cross-origin-resource-policy"] == "cross-origin"
    assert "&lt;b&gt;&amp;&#34;shop: 50 %" in badge.text
    assert ElementTree.fromstring(badge.text).get("height") == "20"
    policy = bar.headers["content-security-policy"].split("; ")
    assert {"default-src 'none'", "frame-ancestors 'self' https://board.example"} <= set(policy)
    assert "x-frame-options" not in bar.headers
    for origin in ("board.example", "https://board.example; script-src *", "*"):
        assert "an origin that may embed" in refused("--dsn", service_dsn, "--port", "0", "--embed-origin", origin)


# --- Browsers ---------------------------------------------------------------------------------------------------


def test_it_answers_to_its_own_names_only(service: Service) -> None:
    with service.client() as client:
        for host in ("localhost", "LOCALHOST:1", f"127.0.0.1:{service.port}", "[::1]", "[::1]:8080"):
            assert client.get("/healthz", headers={"Host": host}).status_code == 200, host
        for host in ("evil.example", "evil.example:8080", "localhost.evil.example", "127.0.0.1.evil.example", ""):
            response = client.get("/api/v1/workflows", headers={"Host": host})
            assert (response.status_code, content(response).keys()) == (421, {"error"}), host


def test_every_answer_carries_the_headers(service: Service, guarded: Service) -> None:
    answers = []
    with service.client() as client:
        for path in (
            "/",
            "/workflows",
            "/healthz",
            "/metrics",
            "/openapi.json",
            "/docs",
            "/icons/running-40.svg",
            "/static/favicon.svg",
            "/favicon.ico",
            "/api/v1/workflows",
            "/api/v1/workflows/x",
            "/api/v1/nothing",
            "/static/nothing",
            "/workflows/x",
        ):
            answers += [client.get(path), client.get(path, headers=HTML)]
        answers.append(client.post("/api/v1/workflows"))
        answers.append(client.post("/login", content=b"x" * 20_000))
        answers.append(client.get("/", headers={"Host": "evil.example"}))
        with client.stream("GET", "/api/v1/stream") as stream:
            answers.append(stream)
    with guarded.client() as client:
        answers += [client.get("/"), client.get("/", headers=HTML), client.get("/login")]
    for response in answers:
        policy = response.headers["content-security-policy"]
        assert {"default-src 'none'", "frame-ancestors 'none'"} <= set(policy.split("; "))
        assert not re.search("unsafe|http", policy)
        expected = {
            "x-content-type-options": "nosniff",
            "x-frame-options": "DENY",
            "referrer-policy": "no-referrer",
            "cross-origin-resource-policy": "same-origin",
        }
        assert expected.items() <= dict(response.headers).items()
        assert not {"access-control-allow-origin", "server"} & set(response.headers)


def test_other_origins_may_read_only_where_configured(service: Service, service_dsn: str) -> None:
    theirs = {"Origin": "https://board.example"}
    preflight = {**theirs, "Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
    with service.client() as client:
        assert "access-control-allow-origin" not in client.get("/api/v1/workflows", headers=theirs).headers
        assert client.options("/api/v1/workflows", headers=preflight).status_code == 405
    configured = ("--cors-origin", "https://board.example", "--cors-origin", "https://other.example")
    with serving(service_dsn, *configured, AGENT_PROGRESS_TOKEN=TOKEN) as running, running.client() as client:
        for headers in (theirs, {**theirs, "Authorization": f"Bearer {TOKEN}"}):
            answer = client.get("/api/v1/workflows", headers=headers)
            assert answer.headers["access-control-allow-origin"] == "https://board.example"
            assert "access-control-allow-credentials" not in answer.headers
        assert client.options("/api/v1/workflows", headers=preflight).status_code == 200
        stranger = client.get("/api/v1/workflows", headers={"Origin": "https://evil.example"})
        assert "access-control-allow-origin" not in stranger.headers


# --- The database -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "insert into public.workflow (name, type) values ('x', 'x')",
        "create table public.x ()",
        "delete from public.workflow",
        "select nextval(pg_get_serial_sequence('public.workflow_event', 'id'))",
    ],
)
def test_its_sessions_cannot_write_whatever_the_dsn_says(service_dsn: str, conn: Conn, statement: str) -> None:
    options = "-c default_transaction_read_only=off -c TimeZone=Asia/Kolkata"

    async def ask() -> None:
        async with Database(make_conninfo(service_dsn, options=options)) as database:
            for setting, value in (("statement_timeout", "5s"), ("timezone", "UTC")):
                assert await database.ask(lambda session, _, name=setting: fetch_values(session, f"show {name}")) == [
                    value
                ]
            await database.ask(lambda session, _: session.execute(statement))

    with pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        asyncio.run(ask())


def test_a_query_that_takes_too_long_is_503(service_dsn: str, conn: Conn) -> None:
    with (
        psycopg.connect(service_dsn) as other,
        serving(make_conninfo(service_dsn, options="-c statement_timeout=300ms")) as service,
        service.client() as client,
    ):
        other.execute("lock table workflow")
        for path in ("/api/v1/workflows", "/api/v1/stats/overview", "/workflows", "/readyz"):
            response = client.get(path)
            assert (response.status_code, content(response)) == (503, {"error": "The database took too long"}), path
            assert int(response.headers["retry-after"]) > 0
        assert client.get("/api/v1/stream").status_code == 503
        other.rollback()
        assert client.get("/api/v1/workflows").status_code == 200


def test_slow_queries_do_not_use_up_the_service(service_dsn: str, conn: Conn) -> None:
    with (
        psycopg.connect(service_dsn) as other,
        serving(make_conninfo(service_dsn, options="-c statement_timeout=60s")) as service,
        service.client(limits=httpx.Limits(max_connections=200)) as client,
    ):
        assert client.get("/api/v1/workflows").status_code == 200
        other.execute("lock table workflow")
        statuses: list[int] = []
        asking = [
            threading.Thread(target=lambda: statuses.append(client.get("/api/v1/workflows").status_code))
            for _ in range(120)
        ]
        for thread in asking:
            thread.start()
        # Ten ask, and all others are told while these wait for the lock.
        wait_for(lambda: len(statuses) == 110)
        assert set(statuses) == {503}
        assert client.get("/healthz").status_code == 200
        other.rollback()
        for thread in asking:
            thread.join(PATIENCE)
        assert statuses[110:] == [200] * 10


def test_a_dashboard_needs_the_rights_of_a_reader_and_no_others(service_dsn: str, conn: Conn) -> None:
    conn.execute("drop role if exists reader_web")
    conn.execute("create role reader_web login")
    dsn = make_conninfo(service_dsn, user="reader_web")
    workflow = new_workflow(conn)
    try:
        assert refused("--dsn", dsn, "--port", "0").startswith("agent-progress: permission denied for")
        grant(conn, readers=["reader_web"])
        with serving(dsn) as service, service.client() as client:
            for path in ("", "/tasks", "/events", "/timeline", "/stages", "/burnup", "/forecast", "/metrics"):
                service.get(f"/workflows/{workflow}{path}")
            for path in ("/", "/workflows", f"/workflows/{workflow}", "/metrics", "/readyz", "/api/v1/stats/overview"):
                assert client.get(path).status_code == 200, path
            conn.execute("revoke select on workflow_trend from reader_web")
            assert "agent-progress grant --reader ROLE" in service.page("/trends", 503)
            conn.execute("revoke select on workflow from reader_web")
            assert client.get("/api/v1/workflows").status_code == 503
    finally:
        conn.execute("drop owned by reader_web")
        conn.execute("drop role reader_web")


# --- What it never says -----------------------------------------------------------------------------------------


def test_no_secret_is_ever_said(service_dsn: str, conn: Conn) -> None:
    """The database there, then away, then refusing; pages, errors, metrics and all that is written."""
    conn.execute("drop role if exists secretive_web")
    conn.execute(f"create role secretive_web login superuser password '{PASSWORD}'")
    dsn = make_conninfo(service_dsn, user="secretive_web", password=PASSWORD, application_name="hidden-name")
    said: list[str] = []
    paths = ("/", "/workflows", "/api/v1/workflows", "/api/v1/workflows/x", "/readyz", "/metrics", "/nothing", "/login")
    try:
        with serving(dsn, AGENT_PROGRESS_TOKEN=TOKEN) as service, service.client() as client:

            def ask_all() -> None:
                for path in paths:
                    for headers in ({}, HTML):
                        response = client.get(path, headers={**headers, "Authorization": f"Bearer {TOKEN}"})
                        said.append(f"{response.headers} {response.text}")
                    said.append(client.get(f"{path}?token={TOKEN}").text)
                said.append(client.post("/login", data={"token": TOKEN + "x"}).text)

            ask_all()
            with following(service, "/api/v1/stream", headers={"Authorization": f"Bearer {TOKEN}"}) as stream:
                stream.next()
                conn.execute("alter role secretive_web nologin")
                conn.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'secretive_web'")
                assert stream.next().name == "away"
                ask_all()
                assert client.get("/readyz", headers={"Authorization": f"Bearer {TOKEN}"}).status_code == 503
            conn.execute("alter table workflow rename to elsewhere")
            conn.execute("alter role secretive_web login")
            ask_all()
            conn.execute("alter table elsewhere rename to workflow")
            service.signal(signal.SIGINT)
            said.append(service.said())
        # Away from the beginning, and a connection string that cannot be read.
        away = f"postgresql://user:{PASSWORD}@127.0.0.1:1/hidden-name"
        with serving(away, AGENT_PROGRESS_TOKEN=TOKEN) as service, service.client() as client:
            headers = {"Authorization": f"Bearer {TOKEN}"}
            assert client.get("/api/v1/workflows", headers=headers).status_code == 503
            assert client.get("/api/v1/stream", headers=headers).status_code == 503
            said.append(service.said())
            assert "Connection refused" in service.said()
        said.append(refused("--dsn", f"postgresql://user:{PASSWORD}@host:port/hidden-name"))
        said.append(refused("--dsn", f"host=x password={PASSWORD} hidden-name"))
    finally:
        conn.execute("drop role secretive_web")
    everything = "\n".join(said)
    assert len(everything) > 10_000
    for secret in (PASSWORD, TOKEN, "hidden-name", security.session_of(TOKEN)):
        assert secret not in everything


# --- The command ------------------------------------------------------------------------------------------------


def processes(of: Path) -> list[str]:
    """The command lines of processes that know a directory."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/environ"):
        try:
            if str(of).encode() in entry.read_bytes():
                found.append((entry.parent / "cmdline").read_bytes().replace(b"\0", b" ").decode())
        except OSError:
            continue
    return found


@pytest.fixture
def data() -> Iterator[Path]:
    """A data directory for an embedded server of the test's own."""
    parent = Path(tempfile.mkdtemp(prefix="ap-"))
    parent.chmod(0o755)
    yield parent / "data"
    shutil.rmtree(parent, ignore_errors=True)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_without_a_database_it_serves_an_embedded_one_and_leaves_no_process(data: Path, number: int) -> None:
    with serving(None, AGENT_PROGRESS_DATA=str(data)) as service, service.client() as client:
        assert client.get("/api/v1/workflows").json() == []
        assert len(processes(data)) > 1
        status = service.signal(number)
    assert status == 0
    wait_for(lambda: not processes(data))


def test_the_demo_shows_a_live_dashboard_at_once_and_leaves_no_process(data: Path) -> None:
    run = command("demo", "--serve", "--port", "0", "--speed", "200")
    with serving(None, run=run, AGENT_PROGRESS_DATA=str(data)) as service:
        with service.client() as client, following(service, "/api/v1/stream") as stream:
            assert client.get("/").status_code == 200
            wait_for(lambda: stream.next() and any(0 < w["progress"] < 100 for w in stream.latest.values()))
            wait_for(lambda: "all keeps running until Ctrl-C" in service.said())
            overview = client.get("/api/v1/stats/overview").json()["overview"]
            assert (overview["total_workflows"], overview["running_workflows"]) == (4, 0)
        status = service.signal(signal.SIGINT)
    assert status == 0
    assert '"event": "request"' not in service.said()
    wait_for(lambda: not processes(data))


def test_a_port_in_use_ends_the_demo_in_one_line(service: Service, data: Path) -> None:
    done = subprocess.run(
        command("demo", "--serve", "--port", str(service.port)),
        env=environment(AGENT_PROGRESS_DATA=str(data)),
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("agent-progress: cannot listen on 127.0.0.1")
    assert not processes(data)
