"""The dashboard in a real browser, served by a real process."""

import os
import re
import shutil
import signal
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Protocol

import pytest

from pyapp import web
from pyapp.web import charts
from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import Conn, Service, command, serving, shared, wait_for

CHROMIUM = os.environ.get("CHROMIUM") or next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1280, "height": 900}
PAYLOAD = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'>\"'&amp;"


class Visit(Protocol):
    """Opens a page of a service."""

    def __call__(
        self, service: Service, path: str = "/", *, js: bool = True, size: dict[str, int] = DESK, **options: Any
    ) -> Any: ...


# One database and one service serve all tests here: they take longer to start than a test takes.
service_dsn, service, conn = shared("--interval", "0.1")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed: pip install -e .[browser]"
    )
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed; where it is, can be said in CHROMIUM")
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield opened
        opened.close()


@pytest.fixture
def visit(browser: Any) -> Iterator[Visit]:
    """Open pages; at the end none of them may have complained, neither of script errors nor of the security policy."""
    contexts: list[Any] = []
    complaints: list[str] = []

    def hear(message: Any) -> None:
        # A page that answers 404 is one that a test asked for; a stream that ends is one that a test ended.
        if message.type in ("error", "warning") and not message.text.startswith("Failed to load resource"):
            complaints.append(message.text)

    def open_page(
        service: Service, path: str = "/", *, js: bool = True, size: dict[str, int] = DESK, **options: Any
    ) -> Any:
        context = browser.new_context(viewport=size, java_script_enabled=js, reduced_motion="reduce", **options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("console", hear)
        page.on("pageerror", lambda error: complaints.append(str(error)))
        page.goto(service.url.rstrip("/") + path)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def live(page: Any) -> Any:
    page.wait_for_selector("#live[data-live=on]")
    return page


def now_at(page: Any, percentage: int) -> None:
    page.wait_for_selector(f"[data-bar][aria-valuenow='{percentage}']")


def bar_of(page: Any) -> list[tuple[str, str]]:
    rects: list[tuple[str, str]] = page.eval_on_selector_all(
        "[data-bar] rect", "rects => rects.map(r => [r.getAttribute('x'), r.getAttribute('width')])"
    )
    return [rect for rect in rects if rect[1] != "0%"]


def shop(conn: Conn) -> tuple[Any, list[Any]]:
    """Create a running workflow with five tasks."""
    workflow = new_workflow(conn, name="shop")
    tasks = new_tasks(conn, workflow, *["pending"] * 5)
    conn.execute("update workflow set status = 'running' where id = %s", [workflow])
    return workflow, tasks


def test_bars_move_in_open_pages_while_another_connection_completes_tasks(
    service: Service, conn: Conn, visit: Visit
) -> None:
    workflow, tasks = shop(conn)
    pages = [live(visit(service, path)) for path in ("/", "/workflows", f"/workflows/{workflow}")]
    for page in pages:
        now_at(page, 0)
        page.evaluate("window.sameDocument = true")

    conn.execute("update agent_task set status = 'completed' where id = any (%s)", [tasks[:2]])
    set_status(conn, tasks[2], "failed")

    for page in pages:
        now_at(page, 40)
        page.wait_for_selector("text=2 of 5 agents complete")
        page.wait_for_selector("[data-bar] .seg-failed[width='20%']", state="attached")
    overview, _, details = pages
    overview.wait_for_selector("[data-agents=completed]:has-text('2')")
    details.wait_for_selector("#tasks tr[data-status=failed]")
    assert details.locator("#tasks tr[data-status=completed]").count() == 2
    assert details.title().startswith("40 % · shop")

    conn.execute("update workflow set status = 'failed' where id = %s", [workflow])
    for page in pages[1:]:
        page.wait_for_selector(".status[data-status=failed] >> text=failed")
        page.wait_for_selector("[data-bar][data-state=ended]")
    overview.wait_for_selector("#failures >> text=shop")
    overview.wait_for_selector("[data-tile=failed_workflows]:has-text('1')")
    for page in pages:
        assert page.evaluate("window.sameDocument")


def test_the_script_draws_bars_as_the_server_does(service: Service, conn: Conn, visit: Visit) -> None:
    workflow = new_workflow(conn, name="w", agents_planned=700)
    new_tasks(conn, workflow, *["pending"] * 3)
    page = live(visit(service, "/workflows?name=w"))
    new_tasks(conn, workflow, *["completed"] * 391, "failed", *["cancelled"] * 7, *["pending"] * 100)
    now_at(page, 56)
    drawn = bar_of(page)
    spoken = page.get_attribute("[data-bar]", "aria-valuetext")
    page.reload()
    assert len(drawn) == 5
    assert drawn == bar_of(page)
    assert page.get_attribute("[data-bar]", "aria-valuetext") == spoken
    assert "56 %: 391 of 700 agents complete, 1 failed, 7 cancelled" in spoken


def test_the_three_pages_and_the_api_show_the_same_numbers(service: Service, conn: Conn, visit: Visit) -> None:
    for name, planned, statuses in (
        ("none", None, []),
        ("early", 12, ["completed", "running", "pending"]),
        ("nearly", None, ["completed"] * 199 + ["failed"]),
        ("mixed", None, ["completed", "failed", "cancelled", "assigned", "pending", "pending", "completed"]),
    ):
        new_tasks(conn, new_workflow(conn, name=name, agents_planned=planned), *statuses)

    def row(page: Any, workflow: str) -> tuple[str, str, str]:
        place = page.locator(f"tr[data-workflow='{workflow}']")
        bar = place.get_by_role("progressbar")
        return (
            place.locator("[data-f=progress]").text_content(),
            place.locator("[data-f=agents]").text_content(),
            bar.get_attribute("aria-valuenow"),
        )

    overview, listed = visit(service, js=False), visit(service, "/workflows", js=False)
    workflows = service.get("/workflows")
    assert len(workflows) == 4
    for w in workflows:
        percentage = str(w["progress_percentage"])
        agents = f"{w['agents_completed']} of {w['agents_total']} agents complete"
        share, settled = percentage, str(w["settled_percentage"])
        if w["name"] == "none":
            share, settled, agents = "\N{EN DASH}", "\N{EN DASH}", "no agents"
        assert row(overview, w["id"]) == row(listed, w["id"]) == (share, agents, percentage)
        page = visit(service, f"/workflows/{w['id']}", js=False)
        counts = {
            name: int(page.locator(f"#legend [data-f={name}]").text_content())
            for name in ("completed", "failed", "cancelled", "running", "open", "planned")
        }
        assert page.locator("#agents [data-f=progress]").text_content() == share
        assert page.locator("#agents [data-f=settled]").text_content() == settled
        assert page.locator("#agents [data-f=agents]").text_content() == agents
        for name in ("completed", "failed", "cancelled"):
            assert counts[name] == w[f"agents_{name}"]
        assert counts["running"] + counts["open"] == w["agents_open"]
        assert sum(counts.values()) == w["agents_total"]
    agents = service.get("/stats/overview")["agents"]
    for name, count in agents.items():
        assert overview.locator(f"[data-agents={name}]").text_content() == str(count)


def test_markup_in_names_stays_text_and_never_runs(service: Service, conn: Conn, visit: Visit) -> None:
    workflow = new_workflow(conn, name=PAYLOAD, type=PAYLOAD, description=PAYLOAD, trace_id=PAYLOAD)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, stage, external_id, status, result)"
        " values (%(w)s, %(p)s, %(p)s, %(p)s, 'failed', to_jsonb(%(p)s::text))",
        {"w": workflow, "p": PAYLOAD},
    )
    conn.execute(
        "insert into workflow_event (workflow_id, event_type, payload)"
        " values (%(w)s, %(p)s, jsonb_build_object(%(p)s::text, 1))",
        {"w": workflow, "p": PAYLOAD},
    )
    pages = [live(visit(service, path)) for path in ("/", "/workflows", f"/workflows/{workflow}")]
    for page in pages:
        assert page.locator("[data-f=name]").first.text_content() == PAYLOAD
    other = f"later {PAYLOAD}\x1b[31m\nnext"
    conn.execute("update workflow set name = %s, current_stage = %s where id = %s", [other, PAYLOAD, workflow])
    for page in pages:
        name = page.locator("[data-f=name]", has_text="later").first
        assert name.text_content() == f"later {PAYLOAD}\N{REPLACEMENT CHARACTER}[31m next"
    pages[2].wait_for_selector("#events >> text=stage")
    for page in pages:
        assert page.evaluate("window.hacked") is None
        assert page.locator("main img, main script").count() == 0


def test_a_bar_looks_finished_only_when_the_workflow_is(service: Service, conn: Conn, visit: Visit) -> None:
    cases = {
        "done": ("completed", ["completed"] * 5),
        "one left": ("running", ["completed"] * 1999 + ["pending"]),
        "more may come": ("running", ["completed"] * 5),
        "one failed": ("completed", ["completed"] * 4 + ["failed"]),
        "failed at the end": ("failed", ["completed"] * 5),
        "all failed": ("failed", ["failed"] * 5),
    }
    for name, (status, tasks) in cases.items():
        workflow = new_workflow(conn, name=name)
        new_tasks(conn, workflow, *tasks)
        conn.execute("update workflow set status = %s where id = %s", [status, workflow])
    for size in (DESK, PHONE):
        page = visit(service, "/workflows", size=size)
        looks = page.eval_on_selector_all(
            "tr[data-workflow]",
            """rows => rows.map(row => {
                const part = row.querySelector(".bar .seg-completed"), bar = row.querySelector(".bar");
                const left = bar.getBoundingClientRect().right - part.getBoundingClientRect().right;
                return [row.querySelector(".name").textContent,
                        [getComputedStyle(part).fill, part.getAttribute("width") !== "0%" && left < 2]];
            })""",
        )
        found = dict(looks)
        done, full = found["done"]
        assert full
        assert not found["one left"][1]
        assert not found["one failed"][1]
        assert not found["all failed"][1]
        assert [name for name, (colour, is_full) in found.items() if is_full and colour == done] == ["done"]


def test_the_keyboard_reaches_the_filter_and_every_workflow(service: Service, conn: Conn, visit: Visit) -> None:
    workflow, _ = shop(conn)
    page = visit(service, "/workflows")
    reached = []
    for _ in range(40):
        page.keyboard.press("Tab")
        reached.append(page.evaluate("document.activeElement.name || document.activeElement.textContent.trim()"))
        if reached[-1] == "shop":
            break
    assert reached[0] == "Skip to the content"
    places = [reached.index(name) for name in ("match", "type", "priority", "status", "Filter", "shop")]
    assert places == sorted(places)
    assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert page.locator("tr .tip").first.is_visible()
    page.keyboard.press("Escape")
    assert not page.locator("tr .tip").first.is_visible()
    page.keyboard.press("Enter")
    page.wait_for_url(f"{service.url}workflows/{workflow}")


def test_bars_say_what_they_show_to_a_screen_reader(service: Service, conn: Conn, visit: Visit) -> None:
    workflow, tasks = shop(conn)
    set_status(conn, tasks[0], "completed")
    set_status(conn, tasks[1], "failed")
    for path in ("/", "/workflows", f"/workflows/{workflow}"):
        bar = visit(service, path, js=False).get_by_role("progressbar", name="Progress of shop")
        said = [bar.get_attribute(f"aria-value{name}") for name in ("min", "max", "now", "text")]
        assert said == ["0", "100", "20", "20 %: 1 of 5 agents complete, 1 failed, workflow running"]
    page = visit(service, "/workflows?sort=name", js=False)
    assert page.get_by_role("columnheader", name="Name").get_attribute("aria-sort") == "ascending"


def test_without_javascript_the_pages_filter_sort_and_page(service: Service, conn: Conn, visit: Visit) -> None:
    conn.execute("insert into workflow (name, type) select 'job ' || n, 'app' from generate_series(100, 160) as n")
    conn.execute("insert into workflow (name, type) values ('other', 'bugfix')")
    page = visit(service, "/workflows", js=False)

    def follow(role: Any, name: str) -> None:
        with page.expect_navigation():  # a click does not wait for it
            page.get_by_role(role, name=name).click()

    page.get_by_label("Search").fill("job")
    page.get_by_label("Type").fill("app")
    follow("button", "Filter")
    with page.expect_navigation():
        page.get_by_role("columnheader", name="Name").get_by_role("link").click()
    names = page.locator(".name").all_text_contents()
    follow("link", "Next")
    names += page.locator(".name").all_text_contents()
    assert names == [f"job {n}" for n in range(100, 161)]
    follow("link", "Previous")
    assert page.locator(".name").all_text_contents() == names[:50]
    assert page.get_by_role("link", name="Previous").count() == 0
    follow("link", "First")
    assert page.locator(".name").first.text_content() == "job 100"
    page.get_by_label("Search").fill("OTHER")
    page.get_by_label("Type").fill("")
    page.get_by_text("More filters").click()
    page.get_by_label("initiated").check()
    page.get_by_label("paused").check()
    page.get_by_label("Created from").fill("2020-01-01")
    page.get_by_label("Took less than").fill("1 h")
    follow("button", "Filter")
    assert page.locator(".name").all_text_contents() == ["other"]
    assert page.get_by_label("paused").is_checked()
    assert page.get_by_label("Took less than").input_value() == "1 h"
    assert page.get_by_text("names of all workflows").is_visible()
    page.goto(f"{service.url}workflows?name=nothing")
    assert page.get_by_text("No workflow is like that").is_visible()


def test_a_phone_needs_no_scrolling_sideways(service: Service, conn: Conn, visit: Visit) -> None:
    long = "w" * 500
    workflow = new_workflow(conn, name=long, type=long, description=long, current_stage=long, trace_id=long)
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, stage, external_id, status, result)"
        " select %(w)s, %(l)s, %(l)s, %(l)s || n, 'failed', to_jsonb(%(l)s::text) from generate_series(1, 3) as n",
        {"w": workflow, "l": long},
    )
    new_workflow(conn, name="مرحبا بالعالم 👩‍💻 \u202e desrever")
    shop(conn)
    for path in ("/", "/workflows", f"/workflows/{workflow}", "/workflows/nonsense"):
        page = visit(service, path, size=PHONE)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"], path


def test_focus_scroll_and_what_is_open_survive_an_update(service: Service, conn: Conn, visit: Visit) -> None:
    workflow, tasks = shop(conn)
    conn.execute("update agent_task set status = 'failed', result = '\"no memory\"' where id = %s", [tasks[0]])
    page = live(visit(service, f"/workflows/{workflow}"))
    page.get_by_text("result").click()
    page.evaluate("scrollTo(0, 333)")
    set_status(conn, tasks[1], "completed")
    page.wait_for_selector("#tasks tr[data-status=completed]")
    assert page.locator("pre", has_text="no memory").is_visible()
    assert page.evaluate("document.activeElement.nodeName") == "SUMMARY"
    assert page.evaluate("scrollY") == 333


def test_the_first_workflow_appears_by_itself(service: Service, conn: Conn, visit: Visit) -> None:
    pages = [live(visit(service, path)) for path in ("/", "/workflows")]
    for page in pages:
        assert page.get_by_text("insert into workflow").is_visible()
    shop(conn)
    for page in pages:
        page.wait_for_selector("tr >> text=0 of 5 agents complete")


def test_a_page_says_that_it_has_lost_the_service_and_catches_up(service_dsn: str, conn: Conn, visit: Visit) -> None:
    workflow, tasks = shop(conn)
    with serving(service_dsn, "--interval", "0.1") as address:
        page = live(visit(address, f"/workflows/{workflow}"))
    page.wait_for_selector("#live[data-live=away] >> text=reconnecting")
    set_status(conn, tasks[0], "completed")
    with serving(None, run=command("serve", "--dsn", service_dsn, "--port", str(address.port))):
        live(page)
        now_at(page, 20)
        page.wait_for_selector("#tasks tr[data-status=completed]")
        page.close()


def test_the_login_form_lets_in_whoever_knows_the_token(service_dsn: str, conn: Conn, visit: Visit) -> None:
    workflow, _ = shop(conn)
    with serving(service_dsn, AGENT_PROGRESS_TOKEN="open sesame") as address:
        page = visit(address, f"/workflows/{workflow}")
        page.get_by_label("Token").fill("open barley")
        page.get_by_role("button", name="Log in").click()
        assert page.get_by_role("alert").text_content() == "That is not the token."
        page.get_by_label("Token").fill("open sesame")
        page.keyboard.press("Enter")
        page.wait_for_url(f"{address.url}workflows/{workflow}")
        live(page)
        page.close()


def clients(service: Service) -> float:
    return service.metrics()["stream_clients",]


def tab(page: Any, service: Service, path: str) -> Any:
    """Open another tab of the same browser."""
    opened = page.context.new_page()
    opened.goto(service.url.rstrip("/") + path)
    return opened


# Makes a page hidden, as a tab behind another is, which no tab of a browser without a screen ever is.
HIDDEN = """
    let hidden = true;
    Object.defineProperty(document, "hidden", { get: () => hidden });
    window.turn = (now) => { hidden = now; document.dispatchEvent(new Event("visibilitychange")); };
"""


def test_a_server_that_falls_silent_is_not_live(service_dsn: str, conn: Conn, visit: Visit) -> None:
    workflow = new_workflow(conn, name="shop")
    new_tasks(conn, workflow, *["completed"] * 5, *["pending"] * 500)
    conn.execute("update workflow set status = 'running' where id = %s", [workflow])
    conn.execute("alter table agent_task disable trigger user")
    conn.execute("update agent_task set completed_at = now() - '10 s'::interval * ordinal where status = 'completed'")
    conn.execute("alter table agent_task enable trigger user")
    with serving(service_dsn, "--interval", "0.1") as address:
        pages = [live(visit(address, path)) for path in ("/", f"/workflows/{workflow}")]
        address.process.send_signal(signal.SIGSTOP)
        for page in pages:
            page.wait_for_selector("#live[data-live=silent] >> text=no word since")
            assert page.evaluate("'stale' in document.documentElement.dataset")
        assert pages[1].get_attribute("link[rel=icon]", "href").endswith("/icons/silent-1.svg")
        was = [page.locator("[data-until]").first.text_content() for page in pages]
        pages[0].wait_for_timeout(2500)
        assert [page.locator("[data-until]").first.text_content() for page in pages] == was
        address.process.send_signal(signal.SIGCONT)
        for page in pages:
            live(page)
            assert not page.evaluate("'stale' in document.documentElement.dataset")
            page.close()


@pytest.mark.parametrize("worker", [True, False])
def test_tabs_share_one_connection_and_hidden_ones_hold_none(
    service: Service, conn: Conn, visit: Visit, worker: bool
) -> None:
    workflow, tasks = shop(conn)
    before = clients(service)
    page = visit(service, "/nowhere")
    page.context.add_init_script("" if worker else "delete window.SharedWorker")
    paths = ["/", "/workflows", f"/workflows/{workflow}"] * (3 if worker else 1)
    tabs = [live(tab(page, service, path)) for path in paths]
    assert clients(service) - before == (1 if worker else 3)
    set_status(conn, tasks[0], "completed")
    for one in tabs:
        now_at(one, 20)
        one.close()
    wait_for(lambda: clients(service) == before)
    page.context.add_init_script(HIDDEN)
    behind = tab(page, service, f"/workflows/{workflow}")
    set_status(conn, tasks[1], "completed")
    wait_for(lambda: behind.title().startswith("40 %") or None)
    assert behind.get_attribute("link[rel=icon]", "href").endswith("/icons/running-40.svg")
    assert (clients(service), behind.get_attribute("#live", "data-live")) == (before, "off")
    behind.evaluate("turn(false)")
    live(behind)
    assert clients(service) - before == 1
    behind.evaluate("turn(true)")
    wait_for(lambda: clients(service) == before)


def test_what_a_page_ranks_first_is_followed_among_hundreds(service: Service, conn: Conn, visit: Visit) -> None:
    workflow, tasks = shop(conn)
    set_status(conn, tasks[0], "failed")
    conn.execute(
        "insert into workflow (name, type, status) select 'w' || n, 'app', 'running' from generate_series(1, 210) as n"
    )
    page = live(visit(service))
    assert page.locator("#active .name").first.text_content() == "shop"
    page.route(service.url, lambda route: route.abort())  # so that nothing but the stream tells
    set_status(conn, tasks[1], "completed")
    page.wait_for_selector(f"tr[data-workflow='{workflow}'] [data-bar][aria-valuenow='20']")


def test_a_filtered_list_says_what_has_come_and_what_no_longer_matches(
    service: Service, conn: Conn, visit: Visit
) -> None:
    one, other, third = (new_workflow(conn, name=name, status="running") for name in ("one", "other", "third"))
    page = live(visit(service, "/workflows?status=running"))
    set_status_of = "update workflow set status = %s where id = %s"
    conn.execute(set_status_of, ["paused", one])
    page.wait_for_selector("#news >> text=1 no longer match")
    new_workflow(conn, name="fourth", status="running")
    new_workflow(conn, name="elsewhere", status="completed")
    conn.execute("delete from workflow where id = %s", [third])
    page.wait_for_selector("#news >> text=1 new, 1 no longer match, 1 deleted")
    assert page.get_by_text("no longer matches").locator("visible=true").count() == 1
    assert page.locator(f"tr[data-workflow='{one}'][data-unlike]").count() == 1
    conn.execute(set_status_of, ["running", one])
    page.wait_for_selector("#news >> text=1 new, 1 deleted")
    conn.execute(set_status_of, ["failed", other])
    page.get_by_role("link", name="Show").click()
    page.wait_for_selector("tr >> text=fourth")
    assert page.locator(".name").all_text_contents() == ["fourth", "one"]
    page.locator("#news").wait_for(state="hidden")


def test_the_example_of_a_bar_in_another_page_runs(service_dsn: str, conn: Conn, browser: Any) -> None:
    text = Path(web.__file__).with_name("README.md").read_text()
    example = next(block for block in re.findall(r"^```html\n(.*?)^```", text, re.M | re.S))
    assert example.count("\n") <= 16
    workflow, tasks = shop(conn)
    shown: list[str] = []

    class Board(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(f"<!doctype html>{shown[0] if self.path == '/' else ''}".encode())

        def log_message(self, *_: Any) -> None:
            pass

    board = ThreadingHTTPServer(("127.0.0.1", 0), Board)
    threading.Thread(target=board.serve_forever, daemon=True).start()
    there = f"http://localhost:{board.server_port}"
    options = ("--interval", "0.1", "--cors-origin", there, "--embed-origin", there)
    with serving(service_dsn, *options, AGENT_PROGRESS_TOKEN="open") as address:
        with address.client(headers={"Authorization": "Bearer open"}) as client:
            key = client.get(f"/api/v1/workflows/{workflow}/link").json()["key"]
        body = example.replace("http://host:8080/", address.url).replace("/ID/", f"/{workflow}/").replace("KEY", key)
        frame = f"<iframe src='{address.url}workflows/{workflow}/embed?key={key}'></iframe>"
        badge = f"<img src='{address.url}workflows/{workflow}/badge.svg?key={key}'>"
        page = browser.new_page()
        page.set_default_timeout(60_000)
        shown.append(body + frame + badge)
        page.goto(f"{there}/")
        page.wait_for_selector("#said >> text=shop: 0 %, running")
        set_status(conn, tasks[0], "completed")
        page.wait_for_selector("#said >> text=shop: 20 %, running")
        page.frame_locator("iframe").locator("#said >> text=20 %, running").wait_for()
        assert page.evaluate("document.querySelector('img').naturalHeight") == 20
        page.close()
    board.shutdown()
    board.server_close()


def test_times_are_in_the_zone_of_the_browser_or_in_utc(service: Service, conn: Conn, visit: Visit) -> None:
    workflow = new_workflow(conn, name="shop", created_at="2026-01-01 23:30Z")
    conn.execute("insert into workflow_event (workflow_id, event_type, payload) values (%s, 'noted', '{}')", [workflow])
    conn.execute("update workflow_event set occurred_at = '2026-01-02 03:04:05Z'")
    page = live(visit(service, f"/workflows/{workflow}", timezone_id="Asia/Tokyo"))
    for zone, created, occurred in (
        ("GMT+9", "2026-01-02 08:30:00 GMT+9", "2026-01-02 12:04"),
        ("UTC", "2026-01-01 23:30:00 UTC", "2026-01-02 03:04"),
    ):
        assert page.locator("#zone b").text_content() == zone
        assert page.locator("#about time").first.text_content() == created
        assert page.locator("#events time").first.text_content() == occurred
        page.locator("#zone").click()
    page.locator("#zone").click()
    page.reload()
    assert page.locator("#about time").first.text_content() == "2026-01-01 23:30:00 UTC"
    plain = visit(service, f"/workflows/{workflow}", js=False)
    assert plain.locator("#about time").first.text_content() == "2026-01-01 23:30:00 UTC"
    assert plain.locator("#events time").first.text_content() == "2026-01-02 03:04"


def test_a_stage_that_runs_is_as_full_as_its_agents_are_done(service: Service, conn: Conn, visit: Visit) -> None:
    workflow, tasks = shop(conn)
    conn.execute("update agent_task set stage = 'build' where workflow_id = %s", [workflow])
    set_status(conn, tasks[0], "completed")
    conn.execute(
        "insert into workflow_stage (workflow_id, name, position, status, started_at)"
        " values (%s, 'build', 0, 'running', now() - interval '1 hour')",
        [workflow],
    )
    page = visit(service, f"/workflows/{workflow}", js=False)
    widths = page.eval_on_selector_all(
        ".timeline li:first-child .run", "runs => runs.map((run) => run.getAttribute('width'))"
    )
    assert widths == ["100.0%", "20.0%"]


def test_print_is_light_and_tooltips_have_what_is_cut_off(service: Service, conn: Conn, visit: Visit) -> None:
    new_workflow(conn, name="w" * 300, type="t" * 300)
    page = live(visit(service, "/workflows", color_scheme="dark"))
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.querySelector('.panel')).backgroundColor") == "rgb(255, 255, 255)"
    for letter in "wt":
        assert page.locator(f"tr bdi[title={letter * 300}]").count() == 1
    page.emulate_media(media="screen", forced_colors="active")
    assert page.evaluate("getComputedStyle(document.querySelector('.seg-completed')).fill") != "rgb(0, 0, 0)"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_all_text_is_readable(service: Service, conn: Conn, visit: Visit, scheme: str) -> None:
    for status in ("initiated", "running", "paused", "completed", "failed", "cancelled"):
        workflow = new_workflow(conn, name=status, agents_planned=9, priority="high")
        new_tasks(conn, workflow, "completed", "failed", "cancelled", "pending", "running", "assigned")
        if status != "initiated":
            conn.execute("update workflow set status = %s where id = %s", [status, workflow])
    conn.execute("alter table workflow disable trigger user")
    conn.execute("update workflow set progress_updated_at = now() - interval '1 hour' where status = 'running'")
    conn.execute("update agent_task set started_at = null, assigned_at = null")
    conn.execute("update workflow_event set occurred_at = now() - interval '1 hour'")
    conn.execute("alter table workflow enable trigger user")
    page = visit(service, color_scheme=scheme)
    page.get_by_text("stalled, quiet for").wait_for()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]")
    assert (int(dark) < 60) == (scheme == "dark")
    for path in ("/", "/workflows?status=running", "/workflows?name=x", f"/workflows/{workflow}", "/nowhere", "/login"):
        page.goto(service.url.rstrip("/") + path)
        assert page.evaluate(_FAINT) == []


# Lists the texts whose contrast to what they stand on is below 4.5 (WCAG AA).
_FAINT = """() => {
    const channel = (value) => (value /= 255) <= .04045 ? value / 12.92 : ((value + .055) / 1.055) ** 2.4;
    const luminance = ([r, g, b]) => .2126 * channel(r) + .7152 * channel(g) + .0722 * channel(b);
    const colour = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
    const ground = (element) => {
        for (; element; element = element.parentElement) {
            const found = colour(getComputedStyle(element).backgroundColor);
            if (found.length === 3) return found;
        }
        return [255, 255, 255];
    };
    const faint = [];
    for (const element of document.querySelectorAll("body *")) {
        const text = [...element.childNodes].filter((node) => node.nodeType === 3).map((node) => node.data).join("");
        if (!text.trim() || !element.checkVisibility({ visibilityProperty: true })) continue;
        const [one, other] = [luminance(colour(getComputedStyle(element).color)), luminance(ground(element))];
        const ratio = (Math.max(one, other) + .05) / (Math.min(one, other) + .05);
        if (ratio < 4.5) faint.push([text.trim(), ratio]);
    }
    return faint;
}"""


def test_completed_agents_fill_a_bar_only_when_all_are_completed() -> None:
    assert [segment.width for segment in charts.bar({"completed": 0, "open": 0})] == [0, 0]
    for total in (1, 2, 3, 40, 2000, 1_000_000):
        for completed in {0, 1, total // 2, total - 1, total}:
            for failed in {0, 1, (total - completed) // 3} & set(range(total - completed + 1)):
                counts = {"completed": completed, "failed": failed, "open": total - completed - failed}
                segments = {segment.name: segment for segment in charts.bar(counts)}
                assert sum(segment.width for segment in segments.values()) == pytest.approx(100, abs=0.01)
                assert (segments["completed"].width == 100) == (completed == total)
                assert all((segments[name].width >= 2) == (count > 0) for name, count in counts.items())
