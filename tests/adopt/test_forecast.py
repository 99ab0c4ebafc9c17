"""When an adopted workflow will be done: nothing tells of its pauses but gaps far out of the ordinary."""

import psycopg
import pytest

from pyapp import get_forecasts

from .application import succeed


@pytest.mark.parametrize(
    ("ago", "seconds"),
    [
        ((50_900, 50_800, 50_700, 50_600, 100), 500),  # 14 hours in which nobody worked
        ((50_600, 50_500, 50_400), 300),  # nothing was completed since then
        ((1500, 1490, 1480), 30),  # far out of the ordinary
        ((7200, 3600, 1200), 7200),  # slow, and always
        ((40, 30, 20, 0), 40),
    ],
)
def test_the_forecast_of_an_adopted_workflow_leaves_out_gaps_far_out_of_the_ordinary(
    conn: psycopg.Connection, dsn: str, ago: tuple[int, ...], seconds: int
) -> None:
    conn.execute(
        "create table run (id bigint primary key, status text);"
        "create table step (id serial primary key, run_id bigint references run, status text, finished_at timestamptz);"
        "create index on step (run_id); insert into run values (1, 'running')"
    )
    succeed(dsn, "adopt", "--workflows", "run", "--tasks", "step", "--key", "run_id", "--yes")
    with conn.transaction():
        conn.execute(
            "insert into step (run_id, status, finished_at)"
            " select 1, 'completed', now() - make_interval(secs => s) from unnest(%s::float[]) as s",
            [list(ago)],
        )
        forecast = get_forecasts(conn, [1], schema="agent_progress")[1]
    assert (forecast.basis_completions, forecast.basis_seconds) == (len(ago), seconds)
