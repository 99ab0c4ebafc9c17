"""Prefect, really run: flows whose tasks succeed, fail, are retried; one flow is retried as a whole."""

import json
import sys

from prefect import flow, task

tried: dict[int, int] = {}


@task(task_run_name="load-{n}", retries=1, retry_delay_seconds=0)
def load(n: int) -> int:
    tried[n] = tried.get(n, 0) + 1
    if n % 10 == 3 or (n % 10 == 4 and tried[n] == 1):
        raise ValueError("no")
    return n


@task
def once(n: int) -> int:
    return n


@flow
def pipeline(base: int, many: int) -> None:
    for future in [load.submit(base + n) for n in range(many)]:
        future.wait()


passes = []


@flow(retries=1, retry_delay_seconds=0)
def twice() -> None:
    passes.append(1)
    for n in range(4):
        once(n)
    if len(passes) == 1:
        raise ValueError("once more")


@flow
def cancelled() -> None:
    once(1)


counts = {}
for w, many in enumerate((10, 20)):
    state = pipeline(1000 * w, many, return_state=True)
    counts[str(state.state_details.flow_run_id)] = (many - many // 10, many, many // 10, 0)
state = twice(return_state=True)
counts["twice"] = str(state.state_details.flow_run_id)
print(json.dumps({"counts": counts}), flush=True)
sys.exit(0)
