"""The benchmark: its verdicts, its table and its picture, and that each measurement runs and is right."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pyapp import embedded
from tests.benchmarks import catalogue, plot
from tests.benchmarks.__main__ import main, run
from tests.benchmarks.methods import Options
from tests.benchmarks.report import Measurement, Target, table
from tests.benchmarks.server import DRIFT, WAYS, Bench, Size

HEADER = {
    "PostgreSQL": "18.4 (somewhere)",
    "machine": "2 cores, A Processor, Linux 6",
    "commit latency": "0.31 ms (median, one session)",
    "rounds": "2, interleaved; pgbench runs of 1 s",
}
LIMIT, RECOUNT, VIEW = "no trigger (count on read)", "recount trigger", "maintained view (pg_ivm)"


def measured(
    name: str, unit: str, samples: dict[str, list[float]], *targets: Target, wrong: dict[str, int] | None = None
) -> Measurement:
    return Measurement(name, f"Title of {name}", unit, samples, next(iter(samples)), targets, wrong or {})


SAMPLES = [
    measured(
        "complete",
        "tps",
        {LIMIT: [1000.0, 1200.0], RECOUNT: [500.0, 600.0], VIEW: [], "ours": [900.0, 960.0]},
        Target("ours", 0.75, LIMIT),
        wrong={RECOUNT: 3},
    ),
    measured("bulk-one", "ms", {LIMIT: [100.0], "ours": [120.0]}, Target("ours", 1.1, LIMIT)),
    measured("read", "ms", {"ours, 10 tasks": [0.05], "ours, 1,000 tasks": [0.05], "count on read, 10 tasks": [0.04]}),
    *(measured(f"hot-{n}", "tps", {"updating any one row": [2e3], "ours": [1.5e3]}) for n in (1, 32)),
    measured("growth", "µs", {"ours, 10 tasks": [40.0, 41.0], "ours, 1,000 tasks": [40.5, 42.0]}),
    Measurement("command", "A command", "s", {"list": [0.25]}, None, (Target("list", 0.35),)),
]


def test_a_table_says_what_is_missing_what_is_wrong_and_whether_the_target_is_met() -> None:
    lines = table(SAMPLES[0]).splitlines()
    assert lines[2].split()[-3:] == ["1,100", "1.00", "1.00-1.00"]
    assert lines[3].endswith("WRONG: 3 workflows")
    assert lines[4].endswith("not installed")
    assert lines[6] == f"  target: ours ≥ 0.75 of {LIMIT}: 0.85, met"
    assert f"target: ours ≤ 1.10 of {LIMIT}: 1.20, MISSED" in table(SAMPLES[1])
    assert "target: list ≤ 0.35 s: 0.250, met" in table(SAMPLES[-1])


def test_a_target_inside_the_spread_is_within_the_noise() -> None:
    rounds = measured("x", "tps", {"a": [100.0] * 4, "b": [80.0, 88.0, 92.0, 99.0]}, Target("b", 0.91, "a"))
    assert table(rounds).count("MISSED, but within the noise") == 1
    assert "noise" not in table(measured("x", "tps", rounds.samples, Target("b", 0.5, "a")))


def test_the_minimum_counts_where_work_can_only_be_disturbed() -> None:
    both = {"a": [50.0, 10.0, 60.0], "b": [20.0, 70.0, 30.0]}
    assert measured("x", "µs", both).ratio("b", "a") == 2
    assert measured("x", "ms", both).ratio("b", "a") == 0.5


def test_the_picture_is_the_same_file_whenever_it_is_drawn(tmp_path: Path) -> None:
    first, second = tmp_path / "1.svg", tmp_path / "2.svg"
    for file in (first, second):
        assert plot.draw(HEADER, SAMPLES, file)
    assert first.read_bytes() == second.read_bytes()
    assert b"<dc:date>" not in first.read_bytes()
    assert not plot.draw(HEADER, SAMPLES[-1:], first)


def test_what_cannot_be_done_is_said_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for postgres in (str(tmp_path), "12"):
        assert main(["--postgres", postgres]) == 2
        error = capsys.readouterr().err
        assert (error.startswith("error: "), error.count("\n")) == (True, 1)
    for arguments in (["--plot", "x.pdf"], ["--rounds", "0"], ["--data", str(tmp_path / "no")]):
        with pytest.raises(SystemExit, match="2"):
            main(arguments)


@pytest.fixture
def bench(server: str, bin_dir: Path, tmp_path: Path) -> Iterator[Bench]:
    size = Size(
        workflows=20,
        tasks=20,
        hot=800,
        bulk=100,
        saved=50,
        copied=500,
        reads=(10, 50),
        listed=60,
        large=20,
        growing=(10, 30),
        adopted=(10, 100),
        whole=(80, 800),
    )
    bench = Bench(embedded.Server(f"{server} dbname=postgres", tmp_path / "data", bin_dir, 0), size)
    yield bench
    for database in (*WAYS, "base", "bare"):
        bench.drop(database)


def test_each_measurement_runs_and_each_transaction_moves_its_task(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    alike = {"cpu-start", "cpu-insert", "cpu-adopted", "bulk-each", "hot-1", "hot-32", "hot-64"}
    names = [name for name in catalogue.MEASUREMENTS if name not in alike]
    _, measurements = run(bench, Options(rounds=1, transactions=64, batch=5), names)
    assert [m.name for m in measurements] == names
    for m in measurements:
        for variant, samples in m.samples.items():
            assert all(sample >= 0 for sample in samples), (m.name, variant)
            assert samples or variant == VIEW, (m.name, variant)
            if variant.startswith("ours"):
                assert not m.wrong.get(variant), m.name
    said = capsys.readouterr()
    assert " moved" not in said.err
    assert said.out.count("target: ours") >= 8


def test_wrong_numbers_are_found_in_each_way_of_counting(bench: Bench) -> None:
    bench.create_templates()
    for way in filter(bench.ensure, DRIFT):
        assert bench.wrong(way) == 0, way
        with bench.connect(way) as conn:
            conn.execute("set session_replication_role = replica")
            conn.execute("update public.agent_task set status = 'completed' where id::text like '%00007'")
        assert (way, bench.moved(way), bench.wrong(way)) == (way, 1, 1)
        bench.reset(way)
        assert (way, bench.moved(way), bench.wrong(way)) == (way, 0, 0)
