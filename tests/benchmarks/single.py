"""One task at a time: completed, started, created."""

from tests.benchmarks import work
from tests.benchmarks.methods import Options, Variant, processor_times, rates
from tests.benchmarks.report import Measurement, Target
from tests.benchmarks.server import Bench

# Nothing is kept when a task is written, all is counted when somebody asks: the limit of what can be reached.
LIMIT = Variant("no trigger (count on read)", "untriggered", work.COMPLETE)
TWO_STATEMENTS = Variant("application, two statements", "app", work.COMPLETE_TWO)
ONE_CTE = Variant("application, one CTE", "app", work.COMPLETE_CTE)
ROW_LEVEL = Variant("row-level trigger", "row", work.COMPLETE)
RECOUNT = Variant("recount trigger", "recount", work.COMPLETE)
IVM = Variant("maintained view (pg_ivm)", "ivm", work.COMPLETE)
OURS = Variant("ours", "ours", work.COMPLETE)
NO_TIMES = Variant("ours, without task times", "no_times", work.COMPLETE)

COMPLETING = (LIMIT, TWO_STATEMENTS, ONE_CTE, ROW_LEVEL, RECOUNT, IVM, OURS)
STARTING = (
    Variant(LIMIT.name, "untriggered", work.START),
    Variant("empty statement trigger", "empty", work.START),
    Variant(ROW_LEVEL.name, "row", work.START),
    Variant(RECOUNT.name, "recount", work.START),
    Variant(IVM.name, "ivm", work.START),
    Variant(NO_TIMES.name, "no_times", work.START),
    Variant(OURS.name, "ours", work.START),
)
INSERTING = (
    Variant(LIMIT.name, "untriggered", work.INSERT),
    Variant(ONE_CTE.name, "app", work.INSERT_CTE),
    Variant(ROW_LEVEL.name, "row", work.INSERT),
    Variant(RECOUNT.name, "recount", work.INSERT),
    Variant(IVM.name, "ivm", work.INSERT),
    Variant(OURS.name, "ours", work.INSERT),
)


def complete(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task, 4 clients over many workflows"
    samples, wrong = rates(bench, title, COMPLETING, options)
    targets = (Target(OURS.name, 0.90, ONE_CTE.name), Target(OURS.name, 1.00, TWO_STATEMENTS.name))
    return Measurement("complete", title, "tps", samples, LIMIT.name, targets, wrong)


def cpu_complete(bench: Bench, options: Options) -> Measurement:
    title = "Completing one task, inside the server"
    return Measurement("cpu-complete", title, "µs", processor_times(bench, title, COMPLETING, options), LIMIT.name)


def start(bench: Bench, options: Options) -> Measurement:
    title = "An update that settles nothing, 4 clients over many workflows"
    samples, wrong = rates(bench, title, STARTING, options)
    empty = "empty statement trigger"
    targets = (Target(NO_TIMES.name, 0.95, empty), Target(OURS.name, 0.95, empty))
    return Measurement("start", title, "tps", samples, LIMIT.name, targets, wrong)


def cpu_start(bench: Bench, options: Options) -> Measurement:
    title = "An update that settles nothing, inside the server"
    return Measurement("cpu-start", title, "µs", processor_times(bench, title, STARTING, options), LIMIT.name)


def insert(bench: Bench, options: Options) -> Measurement:
    title = "Creating one task, 4 clients over many workflows"
    samples, wrong = rates(bench, title, INSERTING, options, rounds=options.few)
    return Measurement("insert", title, "tps", samples, LIMIT.name, (), wrong)


def cpu_insert(bench: Bench, options: Options) -> Measurement:
    title = "Creating one task, inside the server"
    return Measurement("cpu-insert", title, "µs", processor_times(bench, title, INSERTING, options), LIMIT.name)
