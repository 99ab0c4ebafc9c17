"""Reading recorded runs: every file gives a sound Trace or a TraceError of one line, never anything else."""

import copy
import gzip
import json
import os
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pyapp.demo.files import SAMPLE, read_trace
from pyapp.demo.trace import Trace, TraceError, TraceTask

from .helpers import examples

FULL = "task_id;process;tag;name;status;exit;attempt;submit;start;complete;duration;realtime;error_action"
SHORT = "task_id\tname\tstatus\tsubmit\tduration\trealtime"
T0 = 1_700_000_000_000

REAL = {
    "wfinstances-nextflow-bacass-11.json.gz": (11, 0, 2150.0, "nextflow", 7),
    "cws-nextflow-mag-original-1-1132.trace.csv.gz": (1132, 6, 1268.885, "nextflow", 4),
    "wfinstances-pegasus-montage-2122.json.gz": (2122, 0, 989.458, "pegasus", 8),
}
"""What is in them: tasks, failed ones, seconds, system and stages."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace.txt"


def real_traces() -> list[Path]:
    """Find the real traces, or skip the test."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
    directory = Path(os.environ.get("AGENT_PROGRESS_TRACES", beside))
    found = [directory / name for name in REAL]
    if not all(file.is_file() for file in found):
        pytest.skip(f"the real traces are not in {directory}; set AGENT_PROGRESS_TRACES")
    return found


def read(path: Path, *lines: str) -> Trace:
    path.write_text("\n".join(lines) + "\n")
    return read_trace(path)


def refusal(path: Path, data: bytes | str) -> str:
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    with pytest.raises(TraceError) as error:
        read_trace(path)
    assert "\n" not in str(error.value)
    return str(error.value).replace(str(path), "FILE")


def row(
    task_id: int | str, name: str = "P (a)", status: str = "COMPLETED", attempt: int | str = 1,
    submit: int | str = 0, start: int | str = 0, end: int | str = 0, action: str = "-",
) -> str:  # fmt: skip
    """Return one full row; integer times are milliseconds after T0."""
    times = [str(T0 + time) if isinstance(time, int) else time for time in (submit, start, end)]
    fields = [str(task_id), name.partition(" (")[0], "-", name, status, "0", str(attempt), *times, "-", "-", action]
    return ";".join(fields)


def short(task_id: int, name: str, status: str, submit: str, duration: str = "10s", realtime: str = "9s") -> str:
    return f"{task_id}\t{name}\t{status}\t2024-05-06 07:{submit}\t{duration}\t{realtime}"


def instance(*tasks: tuple[str, list[str], float | None]) -> dict[str, Any]:
    """Return a WfFormat 1.5 file's content; a task is its id, its parents and its run time."""
    return {
        "name": "wf",
        "schemaVersion": "1.5",
        "workflow": {
            "specification": {"tasks": [{"name": i, "id": i, "parents": up, "children": []} for i, up, _ in tasks]},
            "execution": {"tasks": [{"id": i, "runtimeInSeconds": t} for i, _, t in tasks if t is not None]},
        },
    }


def by_key(trace: Trace) -> dict[str, TraceTask]:
    return {task.key: task for task in trace.tasks}


def spans(task: TraceTask) -> list[tuple[float, float, float, str]]:
    return [(a.submitted, a.started, a.finished, a.outcome) for a in task.attempts]


def assert_sound(trace: Trace) -> None:
    assert trace.tasks
    assert len(by_key(trace)) == len(trace.tasks)
    submitted = [task.attempts[0].submitted for task in trace.tasks]
    assert submitted == sorted(submitted)
    for task in trace.tasks:
        times = [time for a in task.attempts for time in (a.submitted, a.started, a.finished)]
        assert times == sorted(times)
        assert times[0] >= 0
        assert task.agent_type.isprintable()
        assert task.stage.isprintable()
    for text in (trace.name, trace.system, *trace.warnings, *by_key(trace)):
        assert "\n" not in text
        assert "\0" not in text
        text.encode()


# --- Nextflow -----------------------------------------------------------------------------------------------


TIMES: dict[str, tuple[list[str], dict[str, tuple[float, float, float, str]]]] = {
    "of a raw trace": (
        [FULL, row(1, submit=500, start=2000, end=3500), row(2, "D"), row(3, status="FAILED", end=9000)],
        {"1": (0.5, 2.0, 3.5, "completed"), "2": (0.0, 0.0, 0.0, "completed"), "3": (0.0, 0.0, 9.0, "failed")},
    ),
    "for people, missing ones derived": (
        [
            SHORT,
            short(1, "P (a)", "COMPLETED", "08:09.000", "1h 2m 3s", "1h"),
            short(2, "P (b)", "COMPLETED", "08:10.250", "12.5s", "850ms"),
            short(3, "P (c)", "COMPLETED", "08:11.000", "2m", "-"),
            short(4, "P (d)", "COMPLETED", "08:12.000", "1m 23s 4ms", "0"),
        ],
        {
            "1": (0.0, 123.0, 3723.0, "completed"),
            "2": (1.25, 12.9, 13.75, "completed"),
            "3": (2.0, 2.0, 122.0, "completed"),
            "4": (3.0, 86.004, 86.004, "completed"),
        },
    ),
    "of cached tasks, which take none and do not stretch the trace": (
        [
            FULL,
            row(1, "P (a)", "CACHED", submit=-86_400_000, start=-86_400_000, end=-80_000_000),
            row(2, "P (b)", end=4000),
            row(3, "P (c)", "CACHED", submit="-", end="-"),
        ],
        {key: (0.0, 0.0, end, "completed") for key, end in (("1", 0.0), ("2", 4.0), ("3", 0.0))},
    ),
    "of clocks that disagree, which never run backwards": (
        [FULL, row(1, submit=5000, start=4000, end=4500), row(2, "Q", start=9000, end=8000)],
        {"1": (5.0, 5.0, 5.0, "completed"), "2": (0.0, 8.0, 8.0, "completed")},
    ),
}


@pytest.mark.parametrize("times", TIMES)
def test_times_become_seconds_since_the_first_submission(path: Path, times: str) -> None:
    rows, expected = TIMES[times]
    trace = read(path, *rows)
    assert {task.key: spans(task) for task in trace.tasks} == {key: [span] for key, span in expected.items()}
    assert (trace.name, trace.system, trace.warnings) == ("run", "nextflow", ())
    assert_sound(trace)


def test_the_stage_is_the_subworkflow_and_the_agent_type_the_process(path: Path) -> None:
    trace = read(path, FULL, row(1, "NFCORE_MAG:MAG:BINNING:MAXBIN2 (s1)"), row(2, "FASTQC (s: 2 (b))"))
    assert [(t.stage, t.agent_type) for t in trace.tasks] == [("BINNING", "MAXBIN2"), ("FASTQC", "FASTQC")]
    trace = read(path, "task_id,process,tag,status,submit,duration", f"1,X:Y,t,COMPLETED,{T0},5")  # without a name
    assert [(t.stage, t.agent_type) for t in trace.tasks] == [("X", "Y")]


@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_any_usual_separator_a_byte_order_mark_and_crlf_are_understood(path: Path, separator: str) -> None:
    text = "\r\n".join(["\ufeff" + FULL, row(1, "P (a)", end=1000), row(2, 'P ("b)')])
    path.write_bytes(text.replace(";", separator).encode())
    trace = read_trace(path)
    assert [task.agent_type for task in trace.tasks] == ["P", "P"]
    assert trace.warnings == ()


def test_a_failed_task_tells_the_status_that_its_program_ended_with(path: Path) -> None:
    rows = ("1\tnative\tA\tFAILED\t137\t1000\t1000\t2000", "2\tnative\tB\tCOMPLETED\t0\t1000\t1000\t2000")
    path.write_text("\n".join(("task_id\tnative_id\tname\tstatus\texit\tsubmit\tstart\tcomplete", *rows)))
    assert {key: task.error for key, task in by_key(read_trace(path)).items()} == {"1": "exit status 137", "2": None}


def test_tasks_under_way_when_the_trace_ends_are_cancelled_then(path: Path) -> None:
    running = row(2, "P (b)", "RUNNING", submit=1000, start=2000, end="-")
    aborted = row(3, "P (c)", "ABORTED", submit=3000, start="0", end="-")
    trace = read(path, FULL, row(1, end=9000), running, aborted)
    assert spans(by_key(trace)["2"]) == [(1.0, 2.0, 9.0, "cancelled")]
    assert spans(by_key(trace)["3"]) == [(3.0, 3.0, 9.0, "cancelled")]
    assert trace.warnings == (f"{path}:3: still RUNNING when the trace ends, taken as cancelled",)


# --- Retries and resumed runs -------------------------------------------------------------------------------


def failed(task_id: int, attempt: int | str = 1, action: str = "-", **times: int) -> str:
    return row(task_id, "P (a)", "FAILED", attempt, action=action, **times)


@pytest.mark.parametrize(
    ("rows", "tasks"),
    [
        # A retry has a new task_id, or an attempt number under the same one.
        ([failed(1, end=1000), failed(7, 2, submit=1100, end=2000), row(9, attempt=3, submit=2100)], {"1": 3}),
        ([failed(1, end=1000), row(1, attempt=2, submit=1100, end=2000)], {"1": 2}),
        # It is found although clocks disagree, and after a lost machine it keeps its number.
        ([failed(1, end=9000), row(2, attempt=2, submit=4000, end=12_000)], {"1": 2}),
        ([failed(1, action="RETRY", end=1000), row(2, submit=2000, end=3000)], {"1": 2}),
        # Tasks that share a name stay apart, and each retry joins one that failed.
        ([row(1, end=1000), row(2, end=1000), row(3, submit=2000)], {"1": 1, "2": 1, "3": 1}),
        (
            [failed(1, end=1000), failed(2, end=3000), row(3, end=500), row(4, attempt=2, submit=1000),
             row(5, attempt=2, submit=3000), row(6, submit=5000)],
            {"1": 2, "2": 2, "3": 1, "6": 1},
        ),
        # A number is left out, the failure was ignored, or the number is that of another task.
        ([failed(1, end=1000), row(2, attempt=3, submit=2000)], {"1": 1, "2": 1}),
        ([failed(1, action="IGNORE", end=1000), row(2, attempt=2, submit=2000)], {"1": 1, "2": 1}),
        ([failed(1, end=1000), row(2, submit=2000)], {"1": 1, "2": 1}),
        # Without numbers, the times tell.
        ([failed(1, "-", end=1000), row(2, attempt="-", submit=900, end=2000)], {"1": 2}),
        ([failed(1, "-", end=9000), row(2, attempt="-", submit=900, end=2000)], {"1": 1, "2": 1}),
    ],
)  # fmt: skip
def test_a_retried_task_is_one_task_with_its_attempts(path: Path, rows: list[str], tasks: dict[str, int]) -> None:
    trace = read(path, FULL, *rows)
    assert {task.key: len(task.attempts) for task in trace.tasks} == tasks
    assert trace.warnings == ()
    assert_sound(trace)


def test_of_a_run_that_was_resumed_the_later_run_of_a_task_counts(path: Path) -> None:
    first = [row(1, "P (a)", end=1000), row(2, "P (b)", "FAILED", end=2000), row(3, "P (c)", "ABORTED", end="-")]
    other = "Task_ID;status;name;submit;duration"  # its columns may be others
    again = [
        f"{n};{status};P ({name});{T0 + 60_000};9"
        for n, status, name in ((1, "CACHED", "a"), (2, "COMPLETED", "d"), (3, "COMPLETED", "b"))
    ]
    trace = read(path, FULL, *first, other, *again)
    outcomes = {key: task.attempts[-1].outcome for key, task in by_key(trace).items()}
    assert outcomes == {"2-1": "completed", "2-2": "completed", "2-3": "completed", "3": "cancelled"}
    assert [len(task.attempts) for task in trace.tasks] == [1, 1, 1, 1]
    assert trace.warnings == ()


# --- Rows and files that cannot be used ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("2;P;too few", "3 fields instead of 13"),
        (row(2) + ";more", "14 fields instead of 13"),
        (row(2, status="DONE"), "unknown status 'DONE'"),
        (row(2, submit="-"), "no task_id or no submit time"),
        (row("-"), "no task_id or no submit time"),
        (row("two"), "task_id cannot be read: 'two'"),
        (row(2, submit="soon"), "submit cannot be read: 'soon'"),
        (row(2, submit="2024-02-30 00:00:00.000"), "submit cannot be read: '2024-02-30 00:00:00.000'"),
        (row(2, end="NaN"), "complete cannot be read: 'NaN'"),
        (row(2, end="-"), "COMPLETED without complete or duration"),
        (row(2, attempt="one"), "attempt cannot be read: 'one'"),
        (row(2, name="-"), "no name that can be shown"),
        (row(2, name="P (\0)"), "no name that can be shown"),
        (row(1, name="Q (another)"), "task_id 1 is there already"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_skipped(path: Path, bad: str, reason: str) -> None:
    trace = read(path, FULL, row(1), "", bad, row(3, "P (c)"), row(4, "P (d)"))
    assert [task.key for task in trace.tasks] == ["1", "3", "4"]
    assert trace.warnings == (f"{path}:4: {reason}, row skipped",)


@pytest.mark.parametrize("duration", ["1.5", "5 parsecs", "-1s", "1m 5", "s", "nans", "1e5s"])
def test_a_bad_duration_is_reported(path: Path, duration: str) -> None:
    bad = short(2, "P (b)", "COMPLETED", "00:00.000", duration)
    trace = read(path, SHORT, short(1, "P (a)", "COMPLETED", "00:00.000"), bad)
    assert trace.warnings == (f"{path}:3: duration cannot be read: {duration!r}, row skipped",)


def test_bytes_that_are_no_utf_8_are_replaced(path: Path) -> None:
    path.write_bytes("\n".join([FULL, row(1).replace(";0;1;", ";\xff;1;"), row(2, "P\xff")]).encode("latin-1"))
    trace = read_trace(path)
    assert [task.agent_type for task in trace.tasks] == ["P", "P\N{REPLACEMENT CHARACTER}"]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "FILE:1: no usable row; first: there is no row below the header"),
        ("\na,b,status\n1,2,3", "FILE:2: neither WfFormat JSON nor a Nextflow trace: no column submit, task_id"),
        (FULL, "FILE:1: no usable row; first: there is no row below the header"),
        (FULL + "\n\n1;2", "FILE:3: no usable row; first: 2 fields instead of 13, row skipped"),
        (FULL + "\nx" * 1_000_001, "FILE:1000001: more than 1,000,000 lines"),
        (b'{"a": 1,\n}', "FILE: not sound WfFormat 1.5: Expecting property name enclosed in double quotes: line 2"),
        (b'{"a":\n"\xff"}', "FILE: not sound WfFormat 1.5: 'utf-8' codec can't decode byte 0xff"),
        (b'{"a": ' + b"9" * 5000 + b"}", "FILE: not sound WfFormat 1.5: Exceeds the limit (4300 digits)"),
        (b"{}", "FILE: 'schemaVersion' is missing"),
        (b'{"schemaVersion": "1.4"}', "FILE: not sound WfFormat 1.5: the schemaVersion is another"),
        (b'{"schemaVersion": "1.5"}', "FILE: 'workflow' is missing"),
        (gzip.compress(SAMPLE.read_bytes())[:-20], "FILE: Compressed file ended before the end-of-stream marker"),
        (gzip.compress(SAMPLE.read_bytes()) + b"tail", "FILE: Not a gzipped file"),
        (gzip.compress(SAMPLE.read_bytes())[:40] + b"\xff" * 400, "FILE: Error -3 while decompressing data"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else "",
)
def test_an_unreadable_file_is_refused_in_one_line(path: Path, data: bytes | str, message: str) -> None:
    assert refusal(path, data).startswith(message)


def test_a_missing_file_a_directory_and_an_odd_name_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(TraceError, match=f": {reason}$"):
            read_trace(path)
    for name in ("a\0b", "a\udcffb"):
        with pytest.raises(TraceError):
            read_trace(Path("/nowhere") / name)


# --- WfFormat -----------------------------------------------------------------------------------------------


def test_a_task_starts_when_its_last_parent_has_ended(path: Path) -> None:
    graph = instance(("d", ["b", "c"], 1.0), ("a", [], 2), ("b", ["a"], 3.5), ("c", ["a"], 1))
    trace = read(path, json.dumps(graph | {"runtimeSystem": {"name": "Pegasus"}}))
    times = [(t.key, t.attempts[0].started, t.attempts[0].finished) for t in trace.tasks]
    assert times == [("a", 0.0, 2.0), ("b", 2.0, 5.5), ("c", 2.0, 3.0), ("d", 5.5, 6.5)]
    assert (trace.name, trace.system) == ("wf", "pegasus")


def test_tasks_come_in_order_of_time_and_parents_that_took_none_before_their_children(path: Path) -> None:
    slow = [("slow", [], 100), ("late", ["slow"], 0)]
    trace = read(path, json.dumps(instance(("c", ["b"], 0), ("b", ["a"], 0), ("a", [], 0), *slow)))
    assert [task.key for task in trace.tasks] == ["a", "slow", "b", "c", "late"]


def test_instance_numbers_are_not_part_of_the_agent_type(path: Path) -> None:
    trace = read(path, json.dumps(instance(("mProject_ID0000001", [], 1), ("blast_00000012", [], 1))))
    assert [(task.agent_type, task.stage) for task in trace.tasks] == [("mProject",) * 2, ("blast",) * 2]


@pytest.mark.parametrize("seconds", [None, -1, float("nan"), float("inf"), 10**400, True, "long"])
def test_a_task_without_a_usable_run_time_takes_none_and_is_reported(path: Path, seconds: Any) -> None:
    trace = read(path, json.dumps(instance(("a", [], seconds), ("b", [], 1))))
    assert spans(by_key(trace)["a"]) == [(0.0, 0.0, 0.0, "completed")]
    assert trace.warnings == (f"{path}: task 'a' has no usable run time, taken as 0 s",)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (instance(("a", ["x"], 1)), "'x' is missing, as a member or as a parent of a task"),
        (
            instance(("a", ["c"], 1), ("b", ["a"], 1), ("c", ["b"], 1)),
            "not sound WfFormat 1.5: ('nodes are in a cycle'",
        ),
        (instance(("a", [], 1), ("a", [], 1)), "not sound WfFormat 1.5: no tasks, or two with one id"),
        (instance(), "not sound WfFormat 1.5: no tasks, or two with one id"),
        (instance(("a\0", [], 1)), "not sound WfFormat 1.5: 'a\\x00' is no name that can be shown"),
        (instance(("a" * 501, [], 1)), "not sound WfFormat 1.5: 'aaa"),
    ],
)
def test_a_broken_graph_is_refused(path: Path, graph: Any, message: str) -> None:
    assert refusal(path, json.dumps(graph)).startswith(f"FILE: {message}")


# --- Real and invented runs ---------------------------------------------------------------------------------


def test_the_sample_shows_every_outcome() -> None:
    trace = read_trace(SAMPLE)
    assert_sound(trace)
    assert trace.warnings == ()
    assert Counter(task.stage for task in trace.tasks) == {"scaffold": 6, "validate": 5, "test": 6, "deploy": 7}
    outcomes = Counter(task.attempts[-1].outcome for task in trace.tasks)
    assert outcomes == {"completed": 22, "failed": 1, "cancelled": 1}
    assert [t.agent_type for t in trace.tasks if len(t.attempts) == 2] == ["integration"]


def test_the_real_traces_are_read_whole() -> None:
    for file in real_traces():
        trace = read_trace(file)
        assert_sound(trace)
        assert trace.warnings == ()
        ended = [task.attempts[-1] for task in trace.tasks]
        numbers = (len(ended), sum(last.outcome == "failed" for last in ended))
        seconds = round(max(last.finished for last in ended), 3)
        assert (*numbers, seconds, trace.system, len({task.stage for task in trace.tasks})) == REAL[file.name]


GRAPH = instance(("a", [], 1), ("b", ["a"], 2.5), ("c", ["a", "b"], 0)) | {"runtimeSystem": {"name": "x"}}
VALID = [
    SAMPLE.read_bytes(),
    "\n".join([FULL, row(1, status="FAILED", end=9), row(2, attempt=2, submit=10, end=20), FULL, row(3)]).encode(),
    json.dumps(GRAPH, indent=1).encode(),
    gzip.compress("\n".join([SHORT, short(1, "P", "COMPLETED", "00:00.000")]).encode(), mtime=0),
]
SCRAP = st.binary(max_size=8) | st.sampled_from(
    [b"", b"-", b"\0", b"\t", b";", b"\n", b"\xff", b"\xed\xa0\x80", b"[" * 2000, b"1e999", b"NaN", b"9" * 5000]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "tasks"]), inner),
    max_leaves=6,
)
ROW = st.builds(
    row,
    st.integers(1, 9),
    st.sampled_from(["P (a)", "Q:P (b)"]),
    st.sampled_from(["COMPLETED", "FAILED", "FAILED", "ABORTED", "CACHED", "RUNNING"]),
    st.sampled_from(["1", "2", "3", "-"]),
    st.integers(-9999, 9999),
    st.integers(-9999, 9999) | st.sampled_from(["-", "0", "1969-12-31 00:00:00.000"]),
    st.integers(-9999, 9999) | st.sampled_from(["-", "0"]),
    st.sampled_from(["-", "RETRY", "IGNORE"]),
)


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


def read_anything(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    told = ""
    try:
        assert_sound(read_trace(path))
    except TraceError as error:
        told = str(error)
    assert told.startswith(str(path)) or not told
    assert "\n" not in told


@given(
    data=st.sampled_from([*VALID, b"", b"{", b"\x1f\x8b\x08"]),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), SCRAP), min_size=1, max_size=6),
)
@settings(max_examples=examples(400))
def test_a_damaged_file_gives_a_trace_or_a_trace_error(
    fuzzed: Path, data: bytes, edits: list[tuple[float, int, bytes]]
) -> None:
    for place, length, scrap in edits:
        at = int(place * len(data))
        data = data[:at] + scrap + data[at + length :]
    read_anything(fuzzed, data)


@given(which=st.integers(0, 60), value=JSON)
@settings(max_examples=examples(300))
def test_a_graph_with_one_value_replaced_gives_a_trace_or_a_trace_error(
    fuzzed: Path, which: int, value: object
) -> None:
    graph = copy.deepcopy(GRAPH)
    places: list[tuple[Any, Any]] = []
    stack: list[Any] = [graph]
    while stack:
        node = stack.pop()
        for key, inner in node.items() if isinstance(node, dict) else enumerate(node):
            places.append((node, key))
            if isinstance(inner, (dict, list)):
                stack.append(inner)
    node, key = places[which % len(places)]
    node[key] = value
    read_anything(fuzzed, json.dumps(graph).encode())


@given(rows=st.lists(ROW | st.just(FULL), max_size=12))
@settings(max_examples=examples(300))
def test_rows_in_any_combination_give_a_trace_or_a_trace_error(fuzzed: Path, rows: list[str]) -> None:
    read_anything(fuzzed, "\n".join([FULL, *rows]).encode())
