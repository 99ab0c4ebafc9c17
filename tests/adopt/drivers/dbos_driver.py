"""DBOS, really run: workflows that put children into a queue; some fail, one is cancelled."""

import json
import sys
import time
from contextlib import suppress

from dbos import DBOS, SetWorkflowID

DBOS(config={"name": "driver", "system_database_url": sys.argv[1], "run_admin_server": False, "log_level": "WARNING"})
tried: dict[str, int] = {}


@DBOS.step(retries_allowed=True, max_attempts=3, interval_seconds=0.01)
def fetch(n: int) -> int:
    key = DBOS.workflow_id or ""
    tried[key] = tried.get(key, 0) + 1
    if n % 10 == 3 or (n % 10 == 4 and tried[key] == 1):
        raise ValueError("no")
    return n


@DBOS.workflow()
def page(n: int) -> int:
    return fetch(n)


@DBOS.workflow()
def crawl(many: int) -> None:
    handles = [DBOS.enqueue_workflow("pages", page, n) for n in range(many)]
    for handle in handles:
        with suppress(Exception):
            handle.get_result()


@DBOS.workflow()
def waits() -> None:
    while True:  # until it is cancelled, which a step tells
        DBOS.sleep(0.2)


@DBOS.workflow()
def parent() -> None:
    handle = DBOS.start_workflow(waits)
    time.sleep(0.5)
    DBOS.cancel_workflow(handle.workflow_id)
    with suppress(Exception):
        handle.get_result()


DBOS.launch()
DBOS.register_queue("pages", worker_concurrency=5, polling_interval_sec=0.1)
if sys.argv[2:] == ["prune"]:
    ids = [w.workflow_id for w in DBOS.list_workflows() if w.parent_workflow_id and w.status == "SUCCESS"]
    for id in ids:
        DBOS.delete_workflow(id)
else:
    counts = {}
    for w, many in enumerate((10, 20)):
        with SetWorkflowID(f"crawl-{w}"):
            crawl(many)
        counts[f"crawl-{w}"] = (many - many // 10, many, many // 10, 0)
    with SetWorkflowID("parent"):
        parent()
    counts["parent"] = (0, 1, 0, 1)
    print(json.dumps({"counts": counts}), flush=True)
DBOS.destroy()
