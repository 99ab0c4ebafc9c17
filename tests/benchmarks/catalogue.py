"""All that can be measured, by name, and how much of it a quick or a full run takes."""

from collections.abc import Callable
from functools import partial

from tests.benchmarks.adopted import adopt, adopted, cpu_adopted
from tests.benchmarks.bulk import bulk_each, bulk_many, bulk_one, copy, growth_bulk, savepoints
from tests.benchmarks.growth import growth
from tests.benchmarks.hot import CLIENTS, hot, siblings
from tests.benchmarks.methods import Options
from tests.benchmarks.python import command, helpers
from tests.benchmarks.reads import list_page, read
from tests.benchmarks.report import Measurement
from tests.benchmarks.reporter import reporter
from tests.benchmarks.server import Bench, Size
from tests.benchmarks.single import complete_away, processor, rate
from tests.benchmarks.whole import whole

MEASUREMENTS: dict[str, Callable[[Bench, Options], Measurement]] = {
    **{kind: partial(rate, kind=kind) for kind in ("complete", "start", "insert")},
    **{f"cpu-{kind}": partial(processor, kind=kind) for kind in ("complete", "start", "insert")},
    "complete-away": complete_away,
    "bulk-one": bulk_one,
    "bulk-many": bulk_many,
    "bulk-each": bulk_each,
    "growth-bulk": growth_bulk,
    "copy": copy,
    "savepoints": savepoints,
    **{f"hot-{clients}": partial(hot, clients=clients) for clients in CLIENTS},
    "reporter": reporter,
    "siblings": siblings,
    "read": read,
    "list": list_page,
    "growth": growth,
    "adopt": adopt,
    "adopted": adopted,
    "cpu-adopted": cpu_adopted,
    "helpers": helpers,
    "command": command,
    "whole": whole,
}
# What a first impression makes do with: the targets.
QUICK = (
    "complete",
    "complete-away",
    "start",
    "bulk-one",
    "bulk-many",
    "hot-32",
    "siblings",
    "read",
    "growth",
)

DEFAULT_SIZE = Size()
FULL_SIZE = Size(reads=(*Size.reads, 10_000_000), adopted=(50_000, 5_000_000))
QUICK_SIZE = Size(
    workflows=2_000,
    tasks=100,
    bulk=5_000,
    copied=100_000,
    reads=(10, 1_000, 100_000),
    listed=10_000,
    growing=(10, 1_000, 10_000),
    adopted=(5_000, 500_000),
    whole=(10_000, 1_000_000),
)


# What the published figures and the picture leave out.
_UNPUBLISHED = ("whole", "adopt", "reporter", "cpu-adopted")


def chosen(*, quick: bool, full: bool, renew: bool) -> list[str]:
    """Return what is measured where no names are given."""
    if quick:
        return list(QUICK)
    left_out = () if full else _UNPUBLISHED if renew else ("whole",)
    return [name for name in MEASUREMENTS if name not in left_out]
