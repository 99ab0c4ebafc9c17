"""The pages of tasks in a real browser."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers import new_tasks, new_workflow, set_status
from tests.service import Conn, Service, shared, wait_for
from tests.test_dashboard import _FAINT, PAYLOAD, Visit, browser, live, visit  # noqa: F401 (fixtures)

WIDTHS = (390, 768, 1440)
service_dsn, service, conn = shared("--interval", "0.1")


def fill(conn: Conn, number: int) -> tuple[Any, list[str]]:
    """Make a workflow with tasks in all statuses; return it with the paths of its pages."""
    workflow = new_workflow(conn, name="shop", status="running")
    conn.execute(
        "insert into agent_task (workflow_id, agent_type, external_id, stage, status, started_at, completed_at, result)"
        " select %s, 'agent-' || n %% 3, 'job-' || n, (array['build', 'test'])[1 + n %% 2],"
        " (array['failed', 'running', 'pending', 'cancelled', 'assigned', 'completed'])[1 + least(n %% 9, 5)]"
        "::task_status,"
        " now() - n * interval '1 s', now() - n * interval '0.5 s',"
        " jsonb_build_object('error', repeat('too long a line ', 9) || %s) from generate_series(1, %s) as n",
        [workflow, PAYLOAD, number],
    )
    here = f"/workflows/{workflow}"
    task = conn.execute("select id from agent_task order by status = 'failed' desc limit 1").fetchone()
    return workflow, [
        f"{here}/tasks",
        f"{here}/timeline",
        "/trends",
        *([f"{here}/tasks/{task[0]}"] if task else []),
        here,
    ]


@pytest.mark.parametrize("number", [0, 40, 5000])
def test_no_screen_is_too_narrow(service: Service, conn: Conn, visit: Visit, number: int) -> None:  # noqa: F811
    _, paths = fill(conn, number)
    page = visit(service, paths[0])
    for path in [*paths, f"{paths[0]}?text=nothing"]:
        page.goto(service.url.rstrip("/") + path)
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            assert page.evaluate("document.documentElement.scrollWidth") <= width, (path, width)
            assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("number", [0, 40])
def test_axe_finds_no_fault(service: Service, conn: Conn, visit: Visit, number: int) -> None:  # noqa: F811
    axe = pytest.importorskip("axe_playwright_python", reason="axe is not installed: pip install -e .[browser]")
    script = Path(axe.__file__).with_name("axe.min.js").read_text()
    _, paths = fill(conn, number)
    for scheme in ("light", "dark"):
        page = visit(service, paths[0], bypass_csp=True, color_scheme=scheme)
        for path in [*paths, "/", "/workflows", "/docs", "/nothing", "/login"]:
            page.goto(service.url.rstrip("/") + path)
            page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
            page.evaluate(script)
            found = page.evaluate(
                "axe.run({ runOnly: ['wcag2a', 'wcag2aa', 'wcag21aa', 'wcag22aa', 'best-practice'] })"
            )
            said = [(rule["id"], node["target"]) for rule in found["violations"] for node in rule["nodes"]]
            assert said == [], (path, scheme)
            assert page.evaluate(_FAINT) == [], (path, scheme)


def test_the_keyboard_alone_finds_a_task(service: Service, conn: Conn, visit: Visit) -> None:  # noqa: F811
    workflow, _ = fill(conn, 900)
    page = visit(service, f"/workflows/{workflow}", js=False)

    def press(element: Any) -> None:
        with page.expect_navigation():
            element.press("Enter")

    press(page.get_by_role("link", name="all 900 agents"))
    page.get_by_role("checkbox", name="completed").press("Space")
    text = page.get_by_label("Text in agent, id or error")
    text.press_sequentially("JOB")
    press(text)
    assert page.get_by_role("row").count() == 101
    for link in ("Next", "Next", "Previous"):
        press(page.get_by_role("link", name=link, exact=True))
    first = page.locator(".jobs .name").first
    name = first.inner_text()
    assert page.get_by_role("checkbox", name="completed").is_checked()
    press(first)
    assert page.get_by_role("heading", level=1).inner_text() == name
    press(page.get_by_role("link", name="Timeline"))
    page.get_by_text("As a table").press("Enter")
    assert page.get_by_role("region", name="Tasks as a table").get_by_role("row").count() > 50


def test_open_pages_of_tasks_follow_the_database(service: Service, conn: Conn, visit: Visit) -> None:  # noqa: F811
    workflow = new_workflow(conn, name="shop", status="running")
    one, _ = new_tasks(conn, workflow, "running", "pending")
    listed, drawn = (visit(service, f"/workflows/{workflow}/{page}") for page in ("tasks", "timeline"))
    for page in (live(listed), live(drawn)):
        assert page.title().startswith(("Tasks", "Timeline"))
    set_status(conn, one, "failed")
    listed.locator(f'[data-key="{one}"] [data-status="failed"]').wait_for()
    drawn.locator(".task-failed").wait_for(state="attached")
    assert listed.title() == "Tasks · shop · agent-progress"
    listed.get_by_text("0 of 2 agents complete").wait_for()


def test_bars_differ_by_pattern_and_lead_to_their_task(service: Service, conn: Conn, visit: Visit) -> None:  # noqa: F811
    workflow, _ = fill(conn, 40)
    for options in ({"forced_colors": "active"}, {"color_scheme": "dark"}):
        page = visit(service, f"/workflows/{workflow}/timeline", **options)
        fills = page.evaluate(
            "['completed', 'failed', 'cancelled', 'running'].map((status) => {"
            " const one = document.querySelector(`.task-${status}`);"
            " return one.getAttribute('fill') ?? getComputedStyle(one).fill; })"
        )
        assert len(set(fills)) == 4
        assert fills[1:] == ["url(#p-failed)", "url(#p-cancelled)", "url(#p-running)"]
    page.locator(".plan a:has(.task-failed)").first.click()
    page.get_by_role("heading", name="Error").wait_for()
    assert "hacked" in page.locator("#error pre").inner_text()


def test_ids_of_a_task_can_be_copied(service: Service, conn: Conn, visit: Visit) -> None:  # noqa: F811
    workflow = new_workflow(conn)
    (task,) = new_tasks(conn, workflow, "pending")
    page = visit(service, f"/workflows/{workflow}/tasks/{task}", permissions=["clipboard-read", "clipboard-write"])
    page.get_by_role("button", name="Copy the id").click()
    assert wait_for(lambda: page.evaluate("navigator.clipboard.readText()")) == str(task)
