"""Row-level security: tenants see their own by every way in, and counting misses nothing, or says why it cannot."""

from collections.abc import Callable
from uuid import uuid4

import pytest
from psycopg import Connection, errors

import pyapp
from pyapp.cli import main
from pyapp.shipped import resource
from tests.conftest import Role
from tests.helpers import as_replica, counters, give_away, new_tasks, progress, set_status
from tests.service import following, serving

NewRole = Callable[..., Role]
TABLES = ("workflow", "agent_task", "workflow_stage", "workflow_event")


class Tenant:
    """A tenant's role, a session of it, and its workflow: one task is completed, two are not."""

    def __init__(self, conn: Connection, role: Role) -> None:
        pyapp.grant(conn, operators=[role.name])
        self.name, self.dsn, self.session = role.name, role.dsn, role.connect()
        self.workflow = pyapp.create_workflow(self.session, role.name, "bugfix").workflow_id
        pyapp.transition(self.session, self.workflow, "running", stage="validation")
        self.tasks = new_tasks(self.session, self.workflow, "completed", "running", "failed")


@pytest.fixture
def tenants(conn: Connection, new_role: NewRole) -> list[Tenant]:
    """Two tenants in one database, made as the example says."""
    conn.execute((resource("sql") / "optional" / "tenants.sql").read_bytes())
    return [Tenant(conn, new_role()), Tenant(conn, new_role())]


def test_every_table_and_view_shows_a_tenant_its_own_rows_only(conn: Connection, tenants: list[Tenant]) -> None:
    one, other = tenants
    conn.execute("update agent_task set completed_at = now() - interval '1 hour' where status = 'completed'")
    columns = "select table_name from information_schema.columns where column_name = 'workflow_id' order by 1"
    relations = [("id", "workflow"), *(("workflow_id", name) for (name,) in conn.execute(columns))]
    assert len(relations) > 10
    # Something for the view of what is wrong to show.
    as_replica(conn, "update workflow set progress = 99")
    for key, relation in relations:
        query = f"select distinct {key} from {relation}"
        assert one.session.execute(query).fetchall() == [(one.workflow,)], relation
        assert other.session.execute(query).fetchall() == [(other.workflow,)], relation
    assert len(pyapp.repair(conn)) == 2


def test_helpers_and_commands_of_a_tenant_reach_its_own_only(
    conn: Connection, tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = tenants
    assert [found.workflow_id for found in pyapp.list_workflows(one.session)] == [one.workflow]
    for reach in (
        pyapp.get_workflow,
        pyapp.list_tasks,
        pyapp.list_timeline,
        pyapp.list_burnup,
        pyapp.list_stages,
        pyapp.stage_progress,
        pyapp.get_state,
        pyapp.advance,
        lambda session, workflow: pyapp.transition(session, workflow, "cancelled"),
        lambda session, workflow: pyapp.add_tasks(session, workflow, ["a"]),
    ):
        with pytest.raises(pyapp.WorkflowNotFound):
            reach(one.session, other.workflow)
    with pytest.raises(pyapp.WorkflowNotFound):
        pyapp.report_task(one.session, other.workflow, other.tasks[1], "completed")
    assert main(["list", "--dsn", one.dsn]) == 0
    assert other.name not in capsys.readouterr().out
    assert main(["show", str(other.workflow), "--dsn", one.dsn]) == 1


def test_a_tenant_writes_its_own_only(conn: Connection, tenants: list[Tenant]) -> None:
    one, other = tenants
    for foreign in (other.workflow, uuid4()):  # there or not, the answer is the same
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
            new_tasks(one.session, foreign, "completed")
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        one.session.execute("update agent_task set workflow_id = %s", [other.workflow])
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        one.session.execute("update workflow set tenant = %s", [other.name])
    with pytest.raises(errors.InsufficientPrivilege, match="row-level security"):
        one.session.execute("insert into workflow (name, type, tenant) values ('w', 'app', %s)", [other.name])
    before = (counters(conn, other.workflow), pyapp.get_state(conn, other.workflow))
    one.session.execute("update agent_task set status = 'completed'")
    one.session.execute("delete from agent_task where status = 'failed'")
    one.session.execute("update workflow set status = 'completed'")
    one.session.execute("set row_security = off")
    with pytest.raises(errors.InsufficientPrivilege):
        one.session.execute("select from workflow")
    assert progress(conn, one.workflow) == (100, 3, 3)
    assert (counters(conn, other.workflow), pyapp.get_state(conn, other.workflow)) == before


def test_the_service_of_a_tenant_shows_its_own_only(conn: Connection, tenants: list[Tenant]) -> None:
    one, other = tenants
    with serving(one.dsn) as service, service.client() as client:
        assert [row["id"] for row in client.get("/api/v1/workflows").json()] == [str(one.workflow)]
        for path in ("", "/tasks", "/events", "/timeline", "/stages", "/burnup", "/forecast", "/metrics", "/stream"):
            assert client.get(f"/api/v1/workflows/{other.workflow}{path}").status_code == 404, path
        for path in ("", "/tasks", "/events", "/timeline", "/stages", "/burnup", "/forecast", "/metrics"):
            assert client.get(f"/api/v1/workflows/{one.workflow}{path}").status_code == 200, path
        assert client.get(f"/workflows/{other.workflow}").status_code == 404
        for page in ("/", "/workflows"):
            text = client.get(page).text
            assert (one.name in text, other.name in text) == (True, False), page
        overview = client.get("/api/v1/stats/overview").text
        assert '"total_workflows":1' in overview.replace(" ", "")
        with following(service, "/api/v1/stream") as stream:
            stream.until(lambda event: event.name == "snapshot")
            assert set(stream.latest) == {str(one.workflow)}
            set_status(conn, other.tasks[1], "completed")
            set_status(conn, one.tasks[1], "completed")
            stream.until(lambda event: event.name == "workflow" and event.data["agents_completed"] == 2)
            assert set(stream.latest) == {str(one.workflow)}


def test_check_says_that_it_sees_a_part_only(
    conn: Connection, dsn: str, tenants: list[Tenant], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["check", "--dsn", tenants[0].dsn]) == 0
    out, err = capsys.readouterr()
    assert out == "1 workflow checked, stored equals counted\n"
    assert err == "row-level security applies to this role: only what it may see was checked\n"
    assert main(["check", "--dsn", dsn]) == 0
    assert capsys.readouterr() == ("2 workflows checked, stored equals counted\n", "")


# --- Where it is forced on the owner as well ----------------------------------------------------------------


def force(conn: Connection) -> None:
    for table in TABLES:
        conn.execute(f"alter table {table} force row level security")


def test_counters_are_exact_under_forced_row_security_where_the_owner_sees_all_rows(
    conn: Connection, tenants: list[Tenant], new_role: NewRole
) -> None:
    owner = new_role("bypassrls")
    give_away(conn, owner.name)
    force(conn)
    for tenant in tenants:
        pyapp.report_task(tenant.session, tenant.workflow, tenant.tasks[1], "completed")
        new_tasks(tenant.session, tenant.workflow, "pending", "completed")
        tenant.session.execute("delete from agent_task where status = 'failed'")
        assert progress(conn, tenant.workflow) == (75, 3, 4)
        workflow = pyapp.create_workflow(tenant.session, "new", "feature").workflow_id
        pyapp.advance(tenant.session, workflow)
        assert len(pyapp.list_timeline(tenant.session, workflow)) > 2
    assert pyapp.repair(owner.connect()) == []


def test_an_owner_that_does_not_see_all_rows_makes_writes_fail_aloud_and_miscounts_nothing(
    conn: Connection, tenants: list[Tenant], new_role: NewRole
) -> None:
    tenant, frozen = tenants
    frozen.session.execute("update workflow set progress_frozen_at = now()")
    give_away(conn, new_role().name)
    force(conn)
    pyapp.grant(conn, operators=[tenant.name, frozen.name])
    for session, statement in [
        (frozen.session, "update workflow set progress_frozen_at = null"),
        (tenant.session, "insert into agent_task (workflow_id, agent_type) select id, 'a' from workflow"),
        (tenant.session, "update agent_task set status = 'completed' where status = 'running'"),
        (tenant.session, "update agent_task set status = 'completed'"),
        (tenant.session, "delete from agent_task"),
        (tenant.session, "insert into workflow (name, type) values ('w', 'app')"),
        (tenant.session, "update workflow set status = 'paused'"),
        (tenant.session, "select transition_workflow(id, 'cancelled') from workflow"),
        (tenant.session, "select repair_progress()"),
    ]:
        with pytest.raises(errors.InsufficientPrivilege, match="row-level security") as refused:
            session.execute(statement)
        # PostgreSQL says it to the one whose statement failed; the other way, BYPASSRLS, is in the README.
        assert "NO FORCE ROW LEVEL SECURITY" in (refused.value.diag.message_hint or ""), statement
    assert [counters(conn, each.workflow) for each in tenants] == [(3, 1, 1, 0)] * 2
    assert conn.execute("select count(*) from workflow").fetchone() == (2,)
