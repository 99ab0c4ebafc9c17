"""One task at a time: completed, started, created."""

from collections.abc import Sequence

from tests.benchmarks import work
from tests.benchmarks.methods import Options, Variant, processor_times, rates
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench
from tests.benchmarks.work import Work

# Nothing is kept when a task is written, all is counted when somebody asks: the limit of what can be reached.
LIMIT = Variant("no trigger (count on read)", "untriggered", work.COMPLETE)
TWO_STATEMENTS = Variant("application, two statements", "app", work.COMPLETE_TWO)
ONE_CTE = Variant("application, one CTE", "app", work.COMPLETE_CTE)
ROW_LEVEL = Variant("row-level trigger", "row", work.COMPLETE)
RECOUNT = Variant("recount trigger", "recount", work.COMPLETE)
IVM = Variant("maintained view (pg_ivm)", "ivm", work.COMPLETE)
OURS = Variant("ours", "ours", work.COMPLETE)
NO_TIMES = Variant("ours, without task times", "no_times", work.COMPLETE)
EMPTY = Variant("empty statement trigger", "empty", work.START)

COMPLETING = (LIMIT, TWO_STATEMENTS, ONE_CTE, ROW_LEVEL, RECOUNT, IVM, NO_TIMES, OURS)


def _of(variants: Sequence[Variant], sent: Work) -> tuple[Variant, ...]:
    return tuple(Variant(variant.name, variant.way, sent) for variant in variants)


_AWAY = (LIMIT, TWO_STATEMENTS, ONE_CTE, ROW_LEVEL, OURS)
_STARTING = (LIMIT, EMPTY, ROW_LEVEL, RECOUNT, IVM, NO_TIMES, OURS)
_INSERTING = (ROW_LEVEL, RECOUNT, IVM, OURS)
_KINDS: dict[str, tuple[str, tuple[Variant, ...], tuple[Target, ...]]] = {
    "complete": (
        "Completing one task",
        COMPLETING,
        (Target(OURS.name, 1.00, TWO_STATEMENTS.name), Target(OURS.name, 0.95, ROW_LEVEL.name)),
    ),
    "start": (
        "An update that settles nothing",
        _of(_STARTING, work.START),
        (Target(NO_TIMES.name, 0.92, EMPTY.name), Target(OURS.name, 0.92, EMPTY.name)),
    ),
    "insert": (
        "Creating one task",
        (*_of((LIMIT,), work.INSERT), *_of((ONE_CTE,), work.INSERT_CTE), *_of(_INSERTING, work.INSERT)),
        (),
    ),
}


def rate(bench: Bench, options: Options, kind: str) -> Measurement:
    """Transactions per second of 4 clients over a socket."""
    called, variants, targets = _KINDS[kind]
    title = f"{called}, 4 clients over many workflows"
    samples, wrong = rates(bench, title, variants, options, rounds=options.rounds if targets else options.few)
    return Measurement(kind, title, "tps", samples, LIMIT.name, targets, wrong)


def processor(bench: Bench, options: Options, kind: str) -> Measurement:
    """Processor time of the server."""
    called, variants, _ = _KINDS[kind]
    title = f"{called}, inside the server"
    return Measurement(f"cpu-{kind}", title, "µs", processor_times(bench, title, variants, options), LIMIT.name)


def complete_away(bench: Bench, options: Options) -> Measurement:
    """The same from a client that each statement takes half a millisecond to reach the server and back."""
    title = "Completing one task, 4 clients over many workflows, each round trip 0.5 ms longer"
    samples, wrong = rates(bench, title, _AWAY, options, delay=500, rounds=options.few)
    targets = (Target(OURS.name, 1.00, TWO_STATEMENTS.name), Target(OURS.name, 0.95, ROW_LEVEL.name))
    return Measurement("complete-away", title, "tps", samples, LIMIT.name, targets, wrong)
