"""A bounded soak of the counters; ``SOAK_SECONDS`` says how long (default 5)."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest

from .conftest import TEST_DATABASE_URL
from .interleave import RECOUNT
from .soak import Soak, private_server

SECONDS = float(os.environ.get("SOAK_SECONDS") or 5)
Target = tuple[str, Path | None]


@pytest.fixture
def target(request: pytest.FixtureRequest, bin_dir: Path) -> Iterator[Target]:
    """A migrated database, and the log of its server where that is ours to read."""
    if TEST_DATABASE_URL:
        yield request.getfixturevalue("dsn"), None
    else:
        with private_server(bin_dir) as running:
            yield running


def test_every_snapshot_is_exact_under_load_faults_and_attack(
    target: Target, record_property: Callable[[str, object], None]
) -> None:
    dsn, log = target
    soak = Soak(dsn, SECONDS, log=log)
    print(f"seed {soak.seed}")
    figures = soak.run().report()
    record_property(f"figures: soak of {SECONDS:g} s, seed {soak.seed}", figures)
    assert soak.failures == []
    assert figures["wrong numbers"] == 0
    assert figures["ledger: tasks"] > 0
    assert figures["snapshots compared"] > 0
    for met in ("fault: backend terminated", "fault: statement cancelled", "fault: deadlock", "truncations"):
        assert figures[met] > 0
    assert "deadlock: unexplained" not in figures, soak.deadlocks


def test_the_soak_finds_a_trigger_that_recounts(target: Target) -> None:
    dsn, _ = target
    with psycopg.connect(dsn) as conn:
        conn.execute(RECOUNT)
    soak = Soak(dsn, SECONDS, connections=8).run()
    assert soak.counts["wrong numbers"] > 0
    with psycopg.connect(dsn) as conn:
        conn.execute("truncate agent_task cascade; delete from workflow")
