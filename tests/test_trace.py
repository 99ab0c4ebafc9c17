"""Reading recorded runs: every file gives a sound Trace or a one-line TraceError, never anything else."""

from __future__ import annotations

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

from pyapp.replay.trace import SAMPLE_PATH, Trace, TraceError, TraceTask, read_trace

from .helpers import examples

FULL = "task_id;process;tag;name;status;exit;attempt;submit;start;complete;duration;realtime;error_action"
SHORT = "task_id\tname\tstatus\tsubmit\tduration\trealtime"
T0 = 1_700_000_000_000

REAL = {
    "wfinstances-nextflow-bacass-11.json.gz": (11, 0, 2150.0, "nextflow"),
    "cws-nextflow-mag-original-1-1132.trace.csv.gz": (1132, 6, 1268.885, "nextflow"),
    "wfinstances-pegasus-montage-2122.json.gz": (2122, 0, 989.458, "pegasus"),
}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run.trace.txt"


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
    fields = [
        str(task_id),
        name.partition(" (")[0].strip('"'),
        "-",
        name,
        status,
        "0",
        str(attempt),
        *times,
        "-",
        "-",
        action,
    ]
    return ";".join(fields)


def short(task_id: int, name: str, status: str, submit: str, duration: str = "10s", realtime: str = "9s") -> str:
    return f"{task_id}\t{name}\t{status}\t2024-05-06 07:{submit}\t{duration}\t{realtime}"


def instance(*tasks: tuple[str, list[str], list[str], float | None]) -> dict[str, Any]:
    """Return a WfFormat 1.5 file's content; a task is its id, parents, children and run time."""
    return {
        "name": "wf",
        "schemaVersion": "1.5",
        "workflow": {
            "specification": {
                "tasks": [{"name": i, "id": i, "parents": up, "children": down} for i, up, down, _ in tasks]
            },
            "execution": {"tasks": [{"id": i, "runtimeInSeconds": t} for i, _, _, t in tasks if t is not None]},
        },
    }


def by_key(trace: Trace) -> dict[str, TraceTask]:
    return {task.key: task for task in trace.tasks}


def spans(task: TraceTask) -> list[tuple[float, float, float, str]]:
    return [(a.submitted, a.started, a.finished, a.status) for a in task.attempts]


def assert_sound(trace: Trace) -> None:
    assert trace.tasks
    assert len(by_key(trace)) == len(trace.tasks)
    submitted = [task.attempts[0].submitted for task in trace.tasks]
    assert submitted == sorted(submitted)
    for task in trace.tasks:
        times = [time for a in task.attempts for time in (a.submitted, a.started, a.finished)]
        assert times == sorted(times)
        assert 0 <= times[0] <= times[-1] <= trace.duration < 10**9
    for text in (trace.name, trace.system, *trace.warnings, *by_key(trace)):
        assert "\n" not in text
        assert "\0" not in text
        text.encode()


# --- Nextflow -----------------------------------------------------------------------------------------------


def test_a_raw_row_gives_seconds_since_the_first_submission(path: Path) -> None:
    trace = read(path, FULL, row(1, "A:B:C (x)", submit=500, start=2000, end=3500), row(2, "D"))
    assert spans(by_key(trace)["1"]) == [(0.5, 2.0, 3.5, "completed")]
    assert [task.key for task in trace.tasks] == ["2", "1"]
    assert (trace.name, trace.system, trace.duration, trace.warnings) == ("run", "nextflow", 3.5, ())


def test_the_stage_is_the_subworkflow_and_the_agent_type_the_process(path: Path) -> None:
    trace = read(path, FULL, row(1, "NFCORE_MAG:MAG:BINNING:MAXBIN2 (s1)"), row(2, "FASTQC (s: 2 (b))"))
    assert [(t.stage, t.agent_type) for t in trace.tasks] == [("BINNING", "MAXBIN2"), ("FASTQC", "FASTQC")]


def test_readable_times_are_understood_and_missing_ones_derived(path: Path) -> None:
    trace = read(
        path,
        SHORT,
        short(1, "P (a)", "COMPLETED", "08:09.000", "1h 2m 3s", "1h"),
        short(2, "P (b)", "COMPLETED", "08:10.250", "12.5s", "850ms"),
        short(3, "P (c)", "COMPLETED", "08:11.000", "2m", "-"),
        short(4, "P (d)", "COMPLETED", "08:12.000", "1m 23s 4ms", "0"),
    )
    tasks = by_key(trace)
    assert spans(tasks["1"]) == [(0.0, 123.0, 3723.0, "completed")]
    assert spans(tasks["2"]) == [(1.25, 12.9, 13.75, "completed")]
    assert spans(tasks["3"]) == [(2.0, 2.0, 122.0, "completed")]
    assert spans(tasks["4"]) == [(3.0, 86.004, 86.004, "completed")]


@pytest.mark.parametrize("separator", ["\t", ";", ","])
def test_any_usual_separator_quotes_bom_and_crlf_are_understood(path: Path, separator: str) -> None:
    lines = ["\ufeff" + FULL, row(1, '"P (a)"', end=1000), row(2, 'P ("b")')]
    text = "\r\n".join(line.replace(";", separator) for line in lines)
    path.write_bytes(text.encode())
    trace = read_trace(path)
    assert [task.agent_type for task in trace.tasks] == ["P", "P"]
    assert trace.warnings == ()


def test_a_quoted_field_may_hold_the_separator(path: Path) -> None:
    trace = read(path, SHORT.replace("\t", ","), '1,"P (a,b)",COMPLETED,2024-05-06 07:08:09.000,1s,1s')
    assert trace.tasks[0].agent_type == "P"


def test_process_and_tag_stand_in_for_a_missing_name(path: Path) -> None:
    trace = read(path, "task_id,process,tag,status,submit,duration", f"1,X:Y,t,COMPLETED,{T0},5")
    assert (trace.tasks[0].stage, trace.tasks[0].agent_type) == ("X", "Y")


def test_statuses_become_ours(path: Path) -> None:
    names = ["COMPLETED", "FAILED", "ABORTED", "CACHED"]
    trace = read(path, FULL, *(row(i, f"P ({i})", s, end=9) for i, s in enumerate(names)))
    assert [t.attempts[-1].status for t in trace.tasks] == ["completed", "failed", "cancelled", "completed"]


def test_a_cached_task_takes_no_time_and_does_not_stretch_the_trace(path: Path) -> None:
    cached = row(1, "P (a)", "CACHED", submit=-86_400_000, start=-86_400_000, end=-80_000_000)
    trace = read(path, FULL, cached, row(2, "P (b)", submit=0, end=4000))
    assert spans(by_key(trace)["1"]) == [(0.0, 0.0, 0.0, "completed")]
    assert trace.duration == 4.0


def test_a_trace_of_only_cached_tasks_takes_no_time(path: Path) -> None:
    timeless = row(1, "P (a)", "CACHED", submit="-", end="-")
    trace = read(path, FULL, timeless, row(2, "P (b)", "CACHED", submit=70_000))
    assert (len(trace.tasks), trace.duration) == (2, 0.0)


def test_tasks_under_way_when_the_trace_ends_are_cancelled_then(path: Path) -> None:
    running = row(2, "P (b)", "RUNNING", submit=1000, start=2000, end="-")
    aborted = row(3, "P (c)", "ABORTED", submit=3000, start="0", end="-")
    trace = read(path, FULL, row(1, end=9000), running, aborted)
    assert spans(by_key(trace)["2"]) == [(1.0, 2.0, 9.0, "cancelled")]
    assert spans(by_key(trace)["3"]) == [(3.0, 3.0, 9.0, "cancelled")]
    assert trace.warnings == (f"{path}:3: still RUNNING when the trace ends, taken as cancelled",)


def test_clock_skew_is_clamped(path: Path) -> None:
    trace = read(path, FULL, row(1, submit=5000, start=4000, end=4500), row(2, "Q", start=9000, end=8000))
    assert spans(by_key(trace)["1"]) == [(5.0, 5.0, 5.0, "completed")]
    assert spans(by_key(trace)["2"]) == [(0.0, 8.0, 8.0, "completed")]
    assert trace.warnings == ()


# --- Retries ------------------------------------------------------------------------------------------------


def test_a_retry_with_a_new_task_id_is_an_attempt_of_the_same_task(path: Path) -> None:
    trace = read(
        path,
        FULL,
        row(1, status="FAILED", end=1000, action="RETRY"),
        row(7, status="FAILED", attempt=2, submit=1100, start=1200, end=2000, action="RETRY"),
        row(9, attempt=3, submit=2100, start=2200, end=3000),
    )
    assert [task.key for task in trace.tasks] == ["1"]
    assert [status for *_, status in spans(trace.tasks[0])] == ["failed", "failed", "completed"]


def test_tasks_sharing_a_name_stay_apart(path: Path) -> None:
    trace = read(path, FULL, row(1, end=1000), row(2, end=1000), row(3, submit=2000, end=3000))
    assert len(trace.tasks) == 3


def test_each_retry_joins_a_failed_task_of_its_name_and_no_other(path: Path) -> None:
    trace = read(
        path,
        FULL,
        row(1, status="FAILED", end=1000),
        row(2, status="FAILED", end=3000),
        row(3, end=500),
        row(4, attempt=2, submit=1000, end=2000),
        row(5, attempt=2, submit=3000, end=4000),
        row(6, submit=5000, end=6000),
    )
    ends = {key: [a.finished for a in task.attempts] for key, task in by_key(trace).items()}
    assert ends == {"1": [1.0, 2.0], "2": [3.0, 4.0], "3": [0.5], "6": [6.0]}


def test_a_numbered_retry_is_found_although_clocks_disagree(path: Path) -> None:
    failed = row(1, status="FAILED", end=9000)
    trace = read(path, FULL, failed, row(2, attempt=2, submit=4000, start=5000, end=12_000))
    assert spans(trace.tasks[0]) == [(0.0, 0.0, 9.0, "failed"), (9.0, 9.0, 12.0, "completed")]
    assert len(read(path, FULL, failed, row(2, attempt=3, submit=4000, end=12_000)).tasks) == 2


def test_an_ignored_failure_is_not_joined_with_a_later_task_of_its_name(path: Path) -> None:
    ignored = row(1, status="FAILED", end=1000, action="IGNORE")
    assert len(read(path, FULL, ignored, row(2, attempt=2, submit=2000, end=3000)).tasks) == 2
    assert len(read(path, FULL, row(1, status="FAILED", end=1), row(2, submit=2000, end=3000)).tasks) == 2


def test_a_retry_after_a_reclaimed_machine_keeps_its_attempt_number(path: Path) -> None:
    reclaimed = row(1, status="FAILED", end=1000, action="RETRY")
    assert len(read(path, FULL, reclaimed, row(2, submit=2000, end=3000)).tasks) == 1


def test_without_attempt_numbers_one_name_after_a_failure_is_a_retry(path: Path) -> None:
    failed = short(1, "P (a)", "FAILED", "00:00.000")
    # Durations are rounded, so the retry seems to be submitted a little before the failure.
    trace = read(path, SHORT, failed, short(2, "P (a)", "COMPLETED", "00:09.800"))
    assert [status for *_, status in spans(trace.tasks[0])] == ["failed", "completed"]
    assert_sound(trace)


def test_without_attempt_numbers_a_name_seen_twice_at_once_is_never_joined(path: Path) -> None:
    rows = [
        short(1, "P (a)", "FAILED", "00:00.000"),
        short(2, "P (a)", "COMPLETED", "00:01.000"),
        short(3, "P (a)", "COMPLETED", "00:30.000"),
    ]
    assert len(read(path, SHORT, *rows).tasks) == 3


def test_without_attempt_numbers_overlapping_rows_and_cached_rows_are_never_joined(path: Path) -> None:
    failed = short(1, "P (a)", "FAILED", "00:00.000")
    for other in (
        short(2, "P (a)", "COMPLETED", "00:05.000"),
        short(2, "P (a)", "CACHED", "00:30.000"),
    ):
        rows = [failed, other, short(3, "Q", "COMPLETED", "01:00.000")]
        assert len(read(path, SHORT, *rows).tasks) == 3


def test_attempts_under_one_task_id_that_do_not_follow_each_other_are_reported(path: Path) -> None:
    trace = read(path, FULL, row(1, end=1000), row(1, attempt=2, submit=2000, end=3000))
    assert spans(by_key(trace)["1"]) == [(0.0, 0.0, 1.0, "completed")]
    assert trace.warnings == (f"{path}:3: task_id '1' is taken, row skipped",)


def test_a_later_attempt_without_its_first_is_a_task_and_reported(path: Path) -> None:
    trace = read(path, FULL, row(4, attempt=2))
    assert len(trace.tasks) == 1
    assert trace.warnings == (f"{path}:2: attempt 2 comes first, taken as a task",)


# --- Rows that cannot be used -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ("2;P;too few", "3 fields instead of 13"),
        (row(2) + ";more", "14 fields instead of 13"),
        (row(2, status="DONE"), "unknown status 'DONE'"),
        (row(2, submit="-"), "no submit time"),
        (row(2, submit="soon"), "submit 'soon' is not a time"),
        (row(2, submit="2024-02-30 00:00:00.000"), "submit '2024-02-30 00:00:00.000' is not a time"),
        (row(2, submit="-5"), "submit '-5' is not a time"),
        (row(2, end="NaN"), "complete 'NaN' is not a time"),
        (row(2, end=10**12), "start or complete is more than a year from submit"),
        (row(2, end="-"), "COMPLETED without complete or duration"),
        (row(2, submit="5", start="5", end="5"), "submit is more than a year from the other rows'"),
        (row(2, attempt="one"), "attempt 'one' is not a number"),
        (row("-"), "task_id is empty"),
        (row(2, name="-").replace("P", "-", 1), "name is empty"),
        (row(2, name="P (\0)"), "name contains a control character"),
        (row(2, name="P" * 501), "name is longer than 500 characters"),
        (row(1, name="Q (another)"), "task_id '1' is there already"),
    ],
)
def test_a_bad_row_is_reported_with_its_line_and_skipped(path: Path, bad: str, reason: str) -> None:
    trace = read(path, FULL, row(1), "", bad, row(3, "P (c)"), row(4, "P (d)"))
    assert [task.key for task in trace.tasks] == ["1", "3", "4"]
    assert trace.warnings == (f"{path}:4: {reason}, row skipped",)


@pytest.mark.parametrize("duration", ["1.5", "5 parsecs", "-1s", "1m 5", "9999999d", "s"])
def test_a_bad_duration_is_reported(path: Path, duration: str) -> None:
    bad = short(2, "P (b)", "COMPLETED", "00:00.000", duration)
    trace = read(path, SHORT, short(1, "P (a)", "COMPLETED", "00:00.000"), bad)
    assert trace.warnings == (f"{path}:3: duration {duration!r} is not a duration, row skipped",)


def test_a_stray_quote_does_not_swallow_the_rows_after_it(path: Path) -> None:
    trace = read(path, FULL, row(1, '"P (a)'), row(2, "Q"))
    assert [task.agent_type for task in trace.tasks] == ['"P', "Q"]


def test_foreign_bytes_matter_only_in_the_columns_used(path: Path) -> None:
    lines = [FULL, row(1).replace(";0;1;", ";\xff;1;"), row(2, "P (\xff)")]
    path.write_bytes("\n".join(lines).encode("latin-1"))
    trace = read_trace(path)
    assert [task.key for task in trace.tasks] == ["1"]
    assert trace.warnings == (f"{path}:3: name is not valid UTF-8 text, row skipped",)


# --- Files that cannot be used ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "FILE: the file is empty"),
        (b"\xef\xbb\xbf \n\n", "FILE: the file is empty"),
        ("task_id\n".encode("utf-16"), "FILE:1: UTF-16 text; save it as UTF-8"),
        (
            "\na,b,status\n1,2,3",
            "FILE:2: neither WfFormat JSON nor a Nextflow trace: "
            "the header lacks task_id, submit, name or process, complete or duration",
        ),
        (FULL, "FILE:1: no usable row; first: there is no row below the header"),
        (FULL + "\n\n1;2", "FILE:3: no usable row; first: 2 fields instead of 13, row skipped"),
        (b'{"a": 1,\n}', "FILE:2: not valid JSON: Expecting property name enclosed in double quotes"),
        (b'{"a":\n"\xff"}', "FILE:2: not valid UTF-8 text"),
        (b"[1]", "FILE: not a WfFormat file: the JSON is not an object"),
        (b"[" * 100_000, "FILE: the JSON is nested too deeply"),
        (b'{"a": ' + b"9" * 5000 + b"}", "FILE: not usable JSON: Exceeds the limit (4300 digits)"),
        (b"{}", "FILE: schemaVersion is None, only '1.5' can be read"),
        (b'{"schemaVersion": "1.5"}', "FILE: not a WfFormat 1.5 file: workflow is missing or not an object"),
    ],
)
def test_an_unreadable_file_is_refused_in_one_line(path: Path, data: bytes | str, message: str) -> None:
    assert refusal(path, data).startswith(message)


def test_a_missing_file_and_a_directory_are_refused(tmp_path: Path) -> None:
    for path, reason in ((tmp_path / "no", "No such file or directory"), (tmp_path, "Is a directory")):
        with pytest.raises(TraceError, match=f"^{path}: {reason}$"):
            read_trace(path)


def test_an_odd_file_name_still_gives_one_line() -> None:
    for name in ("a\nb", "a\0b", "a\udcffb"):
        with pytest.raises(TraceError) as error:
            read_trace(Path("/nowhere") / name)
        assert str(error.value).isprintable()


def test_gzip_is_known_by_content_not_by_name(path: Path) -> None:
    path.write_bytes(gzip.compress("\n".join([FULL, row(1)]).encode()))
    assert len(read_trace(path).tasks) == 1


def test_damaged_and_truncated_gzip_is_refused(path: Path) -> None:
    data = gzip.compress(SAMPLE_PATH.read_bytes())
    assert refusal(path, data[:-20]) == "FILE: the gzip data ends early"
    assert refusal(path, data[:40] + b"\xff" * 40 + data[80:]).startswith("FILE: damaged gzip data: ")
    assert refusal(path, data + b"tail").startswith("FILE: damaged gzip data: ")


def test_a_gzip_bomb_stops_at_the_limit(path: Path) -> None:
    path.write_bytes(gzip.compress(b"a" * 50_000_000))
    with pytest.raises(TraceError, match=r": more than 1,000,000 bytes once unpacked$"):
        read_trace(path, max_bytes=1_000_000)


# --- WfFormat -----------------------------------------------------------------------------------------------


def test_a_task_starts_when_its_last_parent_has_finished(path: Path) -> None:
    graph = instance(("d", ["b", "c"], [], 1.0), ("a", [], ["b", "c"], 2), ("b", [], [], 3.5), ("c", [], [], 1))
    graph |= {"description": "two\nlines", "runtimeSystem": {"name": "Pegasus"}}
    trace = read(path, json.dumps(graph))
    assert [(t.key, t.stage, t.attempts[0].started, t.attempts[0].finished) for t in trace.tasks] == [
        ("a", "level 1", 0.0, 2.0),
        ("b", "level 2", 2.0, 5.5),
        ("c", "level 2", 2.0, 3.0),
        ("d", "level 3", 5.5, 6.5),
    ]
    assert (trace.name, trace.description, trace.system) == ("wf", "two lines", "pegasus")


def test_a_parent_that_took_no_time_comes_before_its_children(path: Path) -> None:
    trace = read(path, json.dumps(instance(("child", ["parent"], [], 0), ("parent", [], [], 0))))
    assert [task.key for task in trace.tasks] == ["parent", "child"]


def test_instance_numbers_are_not_part_of_the_agent_type(path: Path) -> None:
    trace = read(path, json.dumps(instance(("mProject_ID0000001", [], [], 1), ("blast_00000012", [], [], 1))))
    assert [task.agent_type for task in trace.tasks] == ["mProject", "blast"]


def test_a_task_without_run_time_takes_none_and_is_reported(path: Path) -> None:
    trace = read(path, json.dumps(instance(("a", [], [], None), ("b", [], [], 1), ("c", [], [], None))))
    assert spans(by_key(trace)["a"]) == [(0.0, 0.0, 0.0, "completed")]
    assert trace.warnings == (f"{path}: 2 times: no run time, taken as 0 s (first: 'a')",)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (instance(("a", ["x"], [], 1)), "task 'a': parents names unknown task 'x'"),
        (instance(("a", [], ["x"], 1)), "task 'a': children names unknown task 'x'"),
        (instance(("a", ["a"], [], 1)), "task 'a' depends on itself through a cycle"),
        (
            instance(("a", ["c"], [], 1), ("b", ["c"], ["c"], 1), ("c", [], [], 1)),
            "task 'c' depends on itself",
        ),
        (
            instance(("r", [], [], 1), ("a", ["r", "b"], [], 1), ("b", ["a"], [], 1)),
            "task 'a' depends on itself",
        ),
        (instance(("a", [], [], 1), ("a", [], [], 1)), "two tasks have the id 'a'"),
        (instance(("a", [], [], -1)), "task 'a': runtimeInSeconds is -1"),
        (instance(("a", [], [], float("nan"))), "task 'a': runtimeInSeconds is nan"),
        (instance(("a", [], [], float("inf"))), "task 'a': runtimeInSeconds is inf"),
        (instance(("a", [], [], 10**400)), "task 'a': runtimeInSeconds is 1000"),
        (instance(("a", [], [], True)), "task 'a': runtimeInSeconds is True"),
        (instance(("a\0", [], [], 1)), "task 'a\\x00': its id contains a control character"),
        (instance(("\ud800", [], [], 1)), "task '\\ud800': its id is not valid UTF-8 text"),
    ],
)
def test_a_broken_graph_is_refused_naming_the_task_and_line(path: Path, graph: Any, message: str) -> None:
    place, reason = refusal(path, json.dumps(graph, indent=1)).split(": ", 1)
    assert reason.startswith(message)
    assert place.startswith("FILE:") or "\\" in message  # an escaped id is not searched for


def test_the_line_named_is_the_task_s_own_record(path: Path) -> None:
    text = json.dumps(instance(("first", [], ["second"], 1), ("second", [], [], -4)), indent=1)
    line = int(refusal(path, text).split(":")[1])
    assert json.loads(text.splitlines()[line - 1].strip().rstrip(",").join("{}")) == {"id": "second"}
    assert "-4" in text.splitlines()[line]


def test_older_schema_versions_are_refused_with_the_way_out(path: Path) -> None:
    message = refusal(path, '{"schemaVersion": "1.4", "workflow": {"tasks": []}}')
    assert message.startswith("FILE: schemaVersion is '1.4', only '1.5' can be read; tools/wfcommons-migrate")


# --- Size ---------------------------------------------------------------------------------------------------


def test_long_chains_and_thousands_of_equal_names_are_read_in_linear_time(path: Path) -> None:
    number = 20_000
    chain = read(path, json.dumps(instance(*((f"t{i}", [f"t{i - 1}"] if i else [], [], 1) for i in range(number)))))
    assert (chain.duration, chain.tasks[0].stage) == (number, None)
    rows = [row(i, status="FAILED", submit=i, end=i + 5) for i in range(number)]
    rows += [row(i + number, attempt=2, submit=i + 5, end=i + 9) for i in range(number)]
    assert len(read(path, FULL, *rows).tasks) == number


# --- Real and invented runs ---------------------------------------------------------------------------------


def test_the_sample_shows_every_outcome() -> None:
    trace = read_trace(SAMPLE_PATH)
    assert_sound(trace)
    assert trace.warnings == ()
    assert Counter(task.stage for task in trace.tasks) == {
        "scaffold": 6,
        "validate": 5,
        "test": 6,
        "deploy": 7,
    }
    outcomes = Counter(task.attempts[-1].status for task in trace.tasks)
    assert outcomes == {"completed": 22, "failed": 1, "cancelled": 1}
    assert [t.agent_type for t in trace.tasks if len(t.attempts) == 2] == ["integration"]


@pytest.mark.parametrize("name", REAL)
def test_a_real_trace_is_read_whole(name: str) -> None:
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "traces"
    directory = Path(os.environ.get("AGENT_PROGRESS_TRACES", beside))
    if not (directory / name).is_file():
        pytest.skip(f"{name} is not in {directory}; set AGENT_PROGRESS_TRACES")
    trace = read_trace(directory / name)
    assert_sound(trace)
    assert trace.warnings == ()
    failed = sum(task.attempts[-1].status == "failed" for task in trace.tasks)
    assert (len(trace.tasks), failed, round(trace.duration, 3), trace.system) == REAL[name]


# --- Anything at all ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fuzzed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("fuzz") / "file"


def read_anything(path: Path, data: bytes) -> None:
    path.write_bytes(data)
    message = ""
    try:
        assert_sound(read_trace(path))
    except TraceError as error:
        message = str(error)
    assert message.startswith(str(path)) or not message
    assert message.isprintable()


GRAPH = instance(("a", [], ["b"], 1), ("b", ["a"], ["c"], 2.5), ("c", ["a"], [], 0))
VALID = [
    SAMPLE_PATH.read_bytes(),
    "\n".join([FULL, row(1, status="FAILED", end=9), row(2, attempt=2, submit=10, end=20), row(3)]).encode(),
    json.dumps(GRAPH, indent=1).encode(),
    gzip.compress("\n".join([SHORT, short(1, "P", "COMPLETED", "00:00.000")]).encode(), mtime=0),
]
SCRAP = st.binary(max_size=8) | st.sampled_from(
    [
        b"",
        b"-",
        b"\0",
        b'"',
        b"\t",
        b";",
        b"\n",
        b"\xff",
        b"\xed\xa0\x80",
        b"[" * 2000,
        b"1e999",
        b"NaN",
        b"9" * 5000,
    ]
)


@given(
    data=st.binary(max_size=300),
    start=st.sampled_from([b"", b"{", b"[", b"\x1f\x8b\x08", FULL.encode() + b"\n"]),
)
@settings(max_examples=examples(150), deadline=None)
def test_arbitrary_bytes_give_a_trace_or_a_trace_error(fuzzed: Path, data: bytes, start: bytes) -> None:
    read_anything(fuzzed, start + data)


@given(
    data=st.sampled_from(VALID),
    edits=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 12), SCRAP), min_size=1, max_size=6),
)
@settings(max_examples=examples(300), deadline=None)
def test_a_damaged_file_gives_a_trace_or_a_trace_error(
    fuzzed: Path, data: bytes, edits: list[tuple[float, int, bytes]]
) -> None:
    for place, length, scrap in edits:
        at = int(place * len(data))
        data = data[:at] + scrap + data[at + length :]
    read_anything(fuzzed, data)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=3) | st.sampled_from("abc"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "name", "tasks"]), inner),
    max_leaves=6,
)


@given(which=st.integers(0, 60), value=JSON)
@settings(max_examples=examples(300), deadline=None)
def test_a_json_file_with_one_value_replaced_gives_a_trace_or_a_trace_error(
    fuzzed: Path, which: int, value: object
) -> None:
    graph: Any = copy.deepcopy(GRAPH) | {"runtimeSystem": {"name": "x"}, "description": "d"}
    places: list[tuple[Any, Any]] = []
    stack = [graph]
    while stack:
        node = stack.pop()
        items = node.items() if isinstance(node, dict) else enumerate(node)
        for key, inner in items:
            places.append((node, key))
            if isinstance(inner, (dict, list)):
                stack.append(inner)
    node, key = places[which % len(places)]
    node[key] = value
    read_anything(fuzzed, json.dumps(graph).encode())


CELL = st.sampled_from(
    [
        "1",
        "2",
        "3",
        "P (a)",
        "Q:P",
        "-",
        "",
        "0",
        "FAILED",
        "COMPLETED",
        "CACHED",
        "RUNNING",
        "RETRY",
        "1s",
        "x",
    ]
) | st.integers(T0, T0 + 9999).map(str)
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


@given(rows=st.lists(ROW | st.lists(CELL, min_size=13, max_size=13).map(";".join), max_size=12))
@settings(max_examples=examples(300), deadline=None)
def test_rows_in_any_combination_give_a_trace_or_a_trace_error(fuzzed: Path, rows: list[str]) -> None:
    read_anything(fuzzed, "\n".join([FULL, *rows]).encode())
