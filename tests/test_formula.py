"""The percentage and the total that it is taken of, against a table and against exact fractions."""

from fractions import Fraction

import psycopg
import pytest

from .helpers import new_workflow

# completed, total, percentage
PERCENTAGES = [
    (2**31 - 2, 2**31 - 1, 99),
    (1, 2**31 - 1, 1),
    # What should not come is kept within bounds.
    (7, 5, 100),
    (1, 0, 0),
    (-1, 5, 0),
    (-1, -5, 0),
    (3, -5, 0),
    # Far beyond any count of tasks.
    (2**31 - 1, 2**31 - 1, 100),
    (10**16, 2 * 10**16, 50),
    (10**16 - 1, 10**16, 99),
    # What is not counted stays null.
    (None, None, None),
    (None, 5, None),
    (3, None, None),
]

# status, created, planned, total
TOTALS = [
    ("running", 0, None, 0),
    ("running", 3, None, 3),
    ("running", 3, 5, 5),
    ("running", 7, 5, 7),
    ("initiated", 0, 5, 5),
    ("paused", 3, 5, 5),
    ("failed", 3, 5, 5),
    ("cancelled", 3, 5, 5),
    ("completed", 3, 5, 3),
    ("completed", 7, 5, 7),
    ("completed", 3, None, 3),
    ("completed", 0, 5, 0),
    ("running", None, 5, None),
    ("completed", None, 5, None),
]


def test_percentage_is_honest_and_bounded_whatever_it_is_given(conn: psycopg.Connection) -> None:
    call = "select progress_percentage(%s, %s)"
    rows = [(*given, *conn.execute(call, given).fetchone()) for *given, _ in PERCENTAGES]
    assert rows == PERCENTAGES


def test_total_is_the_larger_of_plan_and_created_until_the_workflow_is_completed(conn: psycopg.Connection) -> None:
    call = "select progress_total(%s, %s, %s)"
    rows = [(*given, *conn.execute(call, given).fetchone()) for *given, _ in TOTALS]
    assert rows == TOTALS


def exact(completed: int, total: int) -> int:
    if completed <= 0 or total <= 0:
        return 0
    if completed >= total:
        return 100
    return max(1, min(99, int(Fraction(100 * completed, total) + Fraction(1, 2))))


def test_percentage_agrees_with_exact_fractions_for_every_small_count(conn: psycopg.Connection) -> None:
    rows = conn.execute(
        "select c, t, progress_percentage(c, t)"
        " from unnest(array(select generate_series(0, 210)) || '{400,1000}') as t, generate_series(0, t) as c"
    ).fetchall()
    assert [row for row in rows if row[2] != exact(row[0], row[1])] == []


@pytest.mark.parametrize(
    "call",
    [
        "progress_percentage(agents_completed, agents_total)",
        "progress_total(status, agents_created, agents_planned)",
    ],
)
def test_the_formula_is_inlined(conn: psycopg.Connection, call: str) -> None:
    new_workflow(conn)
    plan = conn.execute(f"explain (verbose) select {call} from workflow").fetchall()
    output = next(line for (line,) in plan if "Output:" in line)
    assert "CASE WHEN" in output
    assert "progress_percentage" not in output
    assert "progress_total" not in output
