"""Dagster, really run: runs that fail and are executed again, one that is cancelled; and its own count of them all.

`dagster job backfill` launches the backfill; runs of it that succeeded are deleted afterwards.
"""

import json
import sys
from collections import Counter, defaultdict

from dagster import (
    DagsterInstance,
    Definitions,
    OpExecutionContext,
    ReexecutionOptions,
    execute_job,
    in_process_executor,
    job,
    op,
    reconstructable,
    static_partitioned_config,
)

BEFORE = "63d7a8ec641a"  # the revision below the index on runs.backfill_id


@op
def load(context: OpExecutionContext) -> None:
    if context.run_tags.get("dagster/partition") == "2026-01-03" or context.run_tags.get("fails") == "yes":
        raise ValueError("no")


@static_partitioned_config(partition_keys=["2026-01-01", "2026-01-02", "2026-01-03"])
def day(partition: str) -> dict[str, object]:
    return {}


@job(config=day, executor_def=in_process_executor)
def daily() -> None:
    load()


@job(executor_def=in_process_executor)
def alone() -> None:
    load()


defs = Definitions(jobs=[daily, alone])


def execute(instance: DagsterInstance, fails: str, again: str | None = None) -> str:
    options = ReexecutionOptions(parent_run_id=again) if again else None
    tags = {"fails": fails}
    with execute_job(
        reconstructable(alone), instance, tags=tags, raise_on_error=False, reexecution_options=options
    ) as result:
        return result.run_id


def count(instance: DagsterInstance) -> dict[str, list[int]]:
    seen: dict[str, Counter[str]] = defaultdict(Counter)
    for run in instance.get_runs():
        seen[run.tags.get("dagster/backfill") or run.root_run_id or run.run_id][run.status.value] += 1
    return {key: [of["SUCCESS"], of.total(), of["FAILURE"], of["CANCELED"]] for key, of in seen.items()}


def main(what: str) -> None:
    with DagsterInstance.get() as instance:
        if what == "run":
            failed = execute(instance, "yes")
            execute(instance, "no", again=execute(instance, "yes", again=failed))
            cancelled = instance.create_run_for_job(alone)
            instance.report_run_canceling(cancelled)
            instance.report_run_canceled(cancelled)
            print(json.dumps({"counts": count(instance)}), flush=True)
        elif what == "delete":
            for run in instance.get_runs():
                if "dagster/backfill" in run.tags and run.status.value == "SUCCESS":
                    instance.delete_run(run.run_id)
        else:
            # Dagster has no command for it; its migrations know the way back.
            import dagster_postgres.run_storage.run_storage as postgres
            from dagster._core.storage.sql import run_alembic_downgrade

            with instance.run_storage.connect() as conn:
                run_alembic_downgrade(postgres.pg_alembic_config(postgres.__file__), conn, BEFORE)


if __name__ == "__main__":
    main(sys.argv[1])
