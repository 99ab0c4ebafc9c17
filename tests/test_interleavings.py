"""Every interleaving of two and three transactions ends with the right numbers, at each isolation level.

By default every third pair of the transactions in the catalogue meets in one way in turn at READ COMMITTED, every
twelfth at each other level, and a choice of three there, half of it at another level too. ``INTERLEAVINGS=pairs``, as
in CI, runs all pairs and that choice at each level, in each way at READ COMMITTED. How many ran and how they ended
stands in the summary of the run.
"""

import os
from collections.abc import Callable, Iterator, Sequence

import pytest

from pyapp import migrate

from .catalogue import CASCADE, CHANGE_AN_ID, DATA, KINDS, MEETINGS, THREES, TRANSACTIONS, scenario, scenarios
from .interleave import Figures, Harness, Shape, Transaction

EXTENT = os.environ.get("INTERLEAVINGS", "few")
FEW = EXTENT == "few"
# With which of twelve pairs in turn the short form tries a level.
MET = {"read committed": (0, 3, 6, 9), "repeatable read": (1,), "serializable": (7,)}
LEVELS = list(MET)
NAMES = list(KINDS)


@pytest.fixture(scope="module")
def harness(empty: Callable[[], str]) -> Iterator[Harness]:
    """Sessions on a database of their own, kept for all scenarios."""
    dsn = empty()
    migrate(dsn)
    opened = Harness(dsn, DATA)
    yield opened
    opened.close()


@pytest.fixture
def figures(record_property: Callable[[str, object], None]) -> Iterator[Figures]:
    """What a test adds to the figures in the summary of the run."""
    added = Figures()
    yield added
    record_property("figures: interleavings", dict(added.counts))


@pytest.fixture
def scratch(dsn: str) -> Iterator[Harness]:
    """Sessions on a database that may be broken."""
    opened = Harness(dsn, DATA)
    yield opened
    opened.control.execute("truncate agent_task; delete from workflow", prepare=False)
    opened.close()


def levels(number: int) -> list[str]:
    """Return the levels at which a choice of three is tried."""
    if not FEW:
        return LEVELS
    return ["read committed"] if number % 2 else ["read committed", LEVELS[1 + number // 2 % 2]]


def ways(names: Sequence[str], level: str, number: int) -> list[list[Transaction]]:
    """Return all ways in which these can meet, or one in turn where old snapshots end most of them the same way."""
    all_ways = scenarios(*names)
    return all_ways if level == "read committed" and not FEW else [all_ways[number % len(all_ways)]]


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", NAMES)
def test_any_two_transactions_leave_exact_numbers(harness: Harness, figures: Figures, name: str, level: str) -> None:
    here = NAMES.index(name)
    for distance in range(len(NAMES) // 2 + 1):
        if FEW and (here + distance) % 12 not in MET[level]:
            continue
        names = [name, NAMES[(here + distance) % len(NAMES)]]
        for transactions in ways(names, level, here + distance):
            figures += harness.explore(transactions, level)
    assert figures.failures == []


@pytest.mark.parametrize(
    ("names", "level"),
    [(names, level) for number, names in enumerate(THREES) for level in levels(number)],
    ids=lambda value: value if isinstance(value, str) else ", ".join(value),
)
def test_three_transactions_leave_exact_numbers(
    harness: Harness, figures: Figures, names: Sequence[str], level: str
) -> None:
    for transactions in ways(names, level, THREES.index(tuple(names))):
        figures += harness.explore(transactions, level)
    assert figures.failures == []


@pytest.mark.parametrize("level", LEVELS)
def test_a_changed_id_that_cascades_to_the_tasks_leaves_exact_numbers(
    scratch: Harness, figures: Figures, level: str
) -> None:
    scratch.control.execute(CASCADE)
    [first, second, _] = MEETINGS["same tasks"]
    for partner in TRANSACTIONS:
        figures += scratch.explore([partner.bind(first), CHANGE_AN_ID.bind(second)], level)
    assert figures.failures == []


@pytest.mark.parametrize(
    ("shape", "meeting", "names"),
    [
        (Shape.WORKFLOW_FIRST, 0, ["change the workflow, then a task", "complete one"]),
        (Shape.DELETION, 0, ["start one", "delete the workflow", "complete one"]),
        (Shape.TWO_TASKS, 1, ["complete two", "complete one"]),
        (Shape.MIXED, 2, ["plan", "upsert over two", "upsert over two"]),
        (Shape.MIXED, 2, ["plan", "merge", "merge"]),
        (Shape.MIXED, 2, ["plan", "writable CTE", "writable CTE"]),
        (Shape.TREE, 2, ["put below the other", "put below the other", "plan"]),
        (Shape.TRUNCATE, 0, ["truncate", "freeze and thaw"]),
        (Shape.ORDER, 1, ["complete one", "complete many", "transition to cancelled"]),
    ],
    ids=lambda value: value.value if isinstance(value, Shape) else str(value),
)
def test_each_deadlock_that_is_admitted_is_found(
    harness: Harness, shape: Shape, meeting: int, names: Sequence[str]
) -> None:
    # Of two sessions that one commit releases, either may come first: some need more than one attempt.
    figures = Figures()
    for _ in range(30):
        figures += harness.explore(scenario(list(MEETINGS)[meeting], *names), "read committed")
        if figures.counts[f"deadlock: {shape.value}"]:
            break
    assert figures.failures == []
    assert figures.counts[f"deadlock: {shape.value}"] > 0
