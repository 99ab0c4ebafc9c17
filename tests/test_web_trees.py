"""Trees in the service: lists of roots, the tree of a workflow, its stream, and its page in a real browser."""

from typing import Any
from uuid import uuid4

import pytest

from tests.helpers import as_replica, new_tasks, new_workflow
from tests.service import Conn, Service, following, shared
from tests.test_dashboard import DESK, PHONE, Visit, live
from tests.test_dashboard import browser as browser
from tests.test_dashboard import visit as visit

service_dsn, service, conn = shared("--interval", "0.1")


@pytest.fixture
def tree(conn: Conn) -> dict[str, Any]:
    """Insert a root with two children, one of which has a child, and a workflow beside them."""
    made: dict[str, Any] = {}
    for name, parent in (("root", None), ("plan", "root"), ("build", "root"), ("deep", "build"), ("alone", None)):
        made[name] = new_workflow(conn, name=name, status="running", parent_id=made.get(parent or ""))
        new_tasks(conn, made[name], "completed", "running")
    return made


def names(rows: list[dict[str, Any]]) -> list[str]:
    return [row["name"] for row in rows]


# --- The API --------------------------------------------------------------------------------------------------


def test_a_list_is_of_all_of_roots_or_of_what_one_started(service: Service, tree: dict[str, Any]) -> None:
    assert names(service.get("/workflows")) == ["alone", "deep", "build", "plan", "root"]
    assert names(service.get("/workflows", parent="none")) == ["alone", "root"]
    assert names(service.get("/workflows", parent=str(tree["root"]), sort="name")) == ["build", "plan"]
    assert service.get("/workflows", parent=str(uuid4())) == []
    service.get("/workflows", 422, parent="x")
    with service.client() as client:
        first = client.get("/api/v1/workflows", params={"parent": "none", "limit": 1})
        assert names(client.get(first.links["next"]["url"]).json()) == ["root"]


def test_a_workflow_tells_how_far_all_below_it_is(service: Service, conn: Conn, tree: dict[str, Any]) -> None:
    new_tasks(conn, tree["deep"], "completed", "failed")
    root = service.get(f"/workflows/{tree['root']}")
    assert (root["progress"], root["parent_id"], root["tree_workflows"], root["tree_progress"]) == (50, None, 4, 50)
    assert (root["tree_completed"], root["tree_total"], root["tree_failed"]) == (5, 10, 1)
    alone = service.get(f"/workflows/{tree['alone']}")
    assert (alone["tree_workflows"], alone["tree_total"]) == (1, 2)
    assert service.get(f"/workflows/{tree['deep']}")["parent_id"] == str(tree["build"])


def test_a_tree_is_its_sum_the_path_to_it_and_its_workflows(service: Service, tree: dict[str, Any]) -> None:
    found = service.get(f"/workflows/{tree['build']}/tree")
    assert (found["progress"]["workflows"], found["progress"]["depth"], found["progress"]["agents_total"]) == (2, 2, 4)
    assert found["path"] == [{"workflow_id": str(tree["root"]), "name": "root"}]
    assert [(one["name"], one["level"]) for one in found["workflows"]] == [("build", 1), ("deep", 2)]
    assert found["workflows"][1]["parent_id"] == str(tree["build"])
    assert len(service.get(f"/workflows/{tree['root']}/tree", limit=3)["workflows"]) == 3
    service.get(f"/workflows/{uuid4()}/tree", 404)


# --- Streams --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/workflows/{}/stream?tree=true", "/stream?tree={}"])
def test_a_followed_tree_tells_of_any_workflow_in_it(
    service: Service, conn: Conn, tree: dict[str, Any], path: str
) -> None:
    with following(service, "/api/v1" + path.format(tree["root"])) as stream:
        assert set(names(stream.next().data)) == {"root", "plan", "build", "deep"}
        new_tasks(conn, tree["alone"], "failed")
        new_tasks(conn, tree["deep"], "completed", "completed")
        assert stream.until(lambda event: event.data.get("name") == "deep").data["progress"] == 75
        late = new_workflow(conn, name="late", parent_id=tree["deep"])
        assert stream.until(lambda event: event.data.get("name") == "late").data["workflow_id"] == str(late)
        conn.execute("delete from workflow where id = %s", [late])
        assert stream.until(lambda event: event.name == "deleted").data == {"workflow_id": str(late)}


def test_without_an_id_roots_are_followed_and_what_moves_below_them_is_told(
    service: Service, conn: Conn, tree: dict[str, Any]
) -> None:
    with following(service, "/api/v1/stream") as stream:
        assert set(names(stream.next().data)) == {"root", "alone"}
        new_tasks(conn, tree["deep"], "completed", "completed")
        told = stream.until(lambda event: event.name == "workflow").data
        assert (told["name"], told["progress"], told["tree_progress"]) == ("root", 50, 60)


# --- The dashboard --------------------------------------------------------------------------------------------


def twigs(page: Any) -> list[str]:
    """Return the names in the tree of a page, as they are seen."""
    return [name.strip() for name in page.locator("#tree .twig-name a:visible").all_inner_texts()]


def test_a_list_says_that_sub_workflows_are_hidden_where_there_are_some(service: Service, conn: Conn) -> None:
    root, said = new_workflow(conn), "Sub-workflows are not listed"
    assert said not in service.page("/workflows")
    new_workflow(conn, parent_id=root)
    assert f'{said}, but counted in what started them: <a href="/workflows?sort=-created&amp;parent=all">' in (
        service.page("/workflows")
    )
    for path in ("?parent=all", f"?parent={root}", "?match=w"):
        assert said not in service.page(f"/workflows{path}")


def test_lists_show_roots_with_all_below_them_and_move(
    service: Service, conn: Conn, tree: dict[str, Any], visit: Visit
) -> None:
    pages = [live(visit(service, path)) for path in ("/", "/workflows")]
    for page in pages:
        page.wait_for_selector("tr >> text=with all below: 3 sub-workflows")
        assert page.locator("tbody .name").all_inner_texts() == ["alone", "root"]
        page.wait_for_selector("text=4 of 8 agents complete")
    new_tasks(conn, tree["deep"], "completed", "failed")
    for page in pages:
        page.wait_for_selector("text=5 of 10 agents complete")
        page.wait_for_selector("tr >> text=1 failed")
        assert page.locator("[data-f=below]", has_text="with all below: 3 sub-workflows").count() == 1
    page = visit(service, "/workflows?parent=all")
    assert page.locator("tbody .name").count() == 5
    page.locator("tr:has-text('deep') >> text=sub-workflow").first.click()
    page.wait_for_selector("h1 >> text=build")


@pytest.mark.parametrize("js", [True, False])
def test_a_page_has_its_tree_and_the_path_up(service: Service, tree: dict[str, Any], visit: Visit, js: bool) -> None:
    page = visit(service, f"/workflows/{tree['root']}", js=js)
    assert twigs(page) == ["plan", "build", "deep"]
    assert "50 %" in page.locator("#tree .headline").inner_text().replace("\xa0", " ")
    page.click("#tree >> text=deep")
    page.wait_for_selector("h1 >> text=deep")
    assert page.locator("#tree").count() == 0
    assert page.locator(".crumb a").all_inner_texts() == ["Workflows", "root", "build"]
    page.click(".crumb >> text=build")
    page.wait_for_selector("h1 >> text=build")
    assert twigs(page) == ["deep"]


def test_a_tree_is_live_and_stays_folded_as_it_was(
    service: Service, conn: Conn, tree: dict[str, Any], visit: Visit
) -> None:
    page = live(visit(service, f"/workflows/{tree['root']}"))
    page.evaluate("window.sameDocument = true")
    fold = page.locator("#tree summary", has_text="build")
    fold.focus()
    page.keyboard.press("Enter")
    assert twigs(page) == ["plan", "build"]
    new_workflow(conn, name="late", parent_id=tree["root"])
    new_tasks(conn, tree["deep"], "completed", "completed")
    page.wait_for_selector("#tree >> text=late")
    page.wait_for_selector("#tree .headline >> text=6 of 10 agents complete")
    assert twigs(page) == ["plan", "build", "late"]
    assert page.evaluate("document.activeElement.nodeName") == "SUMMARY"
    page.keyboard.press("Enter")
    assert twigs(page) == ["plan", "build", "deep", "late"]
    conn.execute("update workflow set status = 'failed' where id = %s", [tree["plan"]])
    page.wait_for_selector("#tree .status[data-status=failed]")
    conn.execute("delete from workflow where id = %s", [tree["build"]])
    page.wait_for_selector("#tree >> text=build", state="detached")
    assert twigs(page) == ["plan", "late"]
    assert page.evaluate("window.sameDocument")


def test_what_needs_attention_comes_first_and_is_unfolded(service: Service, conn: Conn, visit: Visit) -> None:
    root = new_workflow(conn, name="root", status="running")
    made = {n: new_workflow(conn, name=f"w{n}", status="running", parent_id=root) for n in range(12)}
    below = {n: new_workflow(conn, name=f"b{n}", status="running", parent_id=made[n]) for n in range(12)}
    for n in range(12):
        for more in range(2):
            new_workflow(conn, name=f"c{n}.{more}", status="completed", parent_id=below[n])
    new_tasks(conn, below[7], "failed")
    new_tasks(conn, made[9], "running")
    late = [made[9]]
    as_replica(conn, "update workflow set progress_updated_at = now() - interval '1 hour' where id = any (%s)", [late])
    old = "now() - interval '1 hour'"
    as_replica(conn, f"update agent_task set started_at = {old}, assigned_at = null where workflow_id = %s", late)
    as_replica(conn, f"update workflow_event set occurred_at = {old} where workflow_id = %s", late)
    for key in conn.execute("select id from workflow where parent_id in (%s, %s)", [made[9], below[9]]).fetchall():
        as_replica(conn, f"update workflow set progress_updated_at = {old} where id = %s", key)
        as_replica(conn, f"update workflow_event set occurred_at = {old} where workflow_id = %s", key)
    page = visit(service, f"/workflows/{root}")
    shown = twigs(page)
    assert [name for name in shown if name.startswith("w")][:3] == ["w9", "w7", "w0"]
    assert "b7" in shown
    assert "b0" not in shown
    assert page.locator(".twig[data-stalled]").first.inner_text().startswith("running")
    page.locator("#tree summary", has_text="w0").press("Enter")
    assert "b0" in twigs(page)


@pytest.mark.parametrize("size", [PHONE, DESK], ids=["phone", "desk"])
def test_a_tree_of_thousands_is_a_page_that_can_be_read(
    service: Service, conn: Conn, visit: Visit, size: dict[str, int]
) -> None:
    root = new_workflow(conn, name="root", status="running")
    conn.execute(
        "insert into workflow (name, type, parent_id) select 'child ' || i, 'app', %s from generate_series(1, 60) as i",
        [root],
    )
    conn.execute(
        "insert into workflow (name, type, parent_id) select w.name || '.' || i, 'app', w.id"
        " from workflow as w, generate_series(1, 33) as i where w.parent_id = %s",
        [root],
    )
    page = visit(service, f"/workflows/{root}", size=size)
    assert page.locator("#tree-title").inner_text().split() == ["Sub-workflows", "2,040"]
    assert len(twigs(page)) == 25
    assert page.locator("#tree .twig").count() <= 150
    assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    page.click("#tree >> text=35 more")
    page.wait_for_selector("h1 >> text=Started by root")
    assert page.locator("tbody .name").count() == 50


def test_the_deepest_tree_is_no_wider_than_a_phone(service: Service, conn: Conn, visit: Visit) -> None:
    root = parent = new_workflow(conn, name="level 1", status="running")
    for level in range(2, 65):
        parent = new_workflow(conn, name=f"level {level}", parent_id=parent, status="running")
        new_tasks(conn, parent, "failed")
    page = visit(service, f"/workflows/{root}", size=PHONE)
    assert page.locator("#tree .twig:visible").count() >= 20
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    deepest = visit(service, f"/workflows/{parent}", size=PHONE)
    assert deepest.locator(".crumb a").count() == 64
    assert deepest.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


def test_a_screen_reader_is_told_the_number_of_each_and_what_can_be_unfolded(
    service: Service, tree: dict[str, Any], visit: Visit
) -> None:
    page = visit(service, f"/workflows/{tree['root']}")
    told = page.locator("#tree").aria_snapshot()
    assert "1 of 2 agents complete" in told.replace("\xa0", " ")
    assert 'link "plan"' in told
    assert 'progressbar "Progress with all sub-workflows"' in told
    page.locator("#tree summary").first.press("Enter")
    assert page.locator("#tree details[open]").count() == 0
