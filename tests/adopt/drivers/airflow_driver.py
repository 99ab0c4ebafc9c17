"""Airflow, really run: a DAG with retries, a failure, a skipped branch and mapped tasks."""

from datetime import timedelta

from airflow.sdk import dag, task


@dag(schedule=None, dag_id="letters", default_args={"retries": 1, "retry_delay": timedelta(seconds=0)})
def letters() -> None:
    @task
    def names() -> list[int]:
        return list(range(10))

    @task
    def write(n: int) -> int:
        from pathlib import Path

        first = Path(f"/tmp/airflow-driver-{n}")
        if n == 4 and not first.exists():
            first.touch()
            raise ValueError("no")
        first.unlink(missing_ok=True)
        if n == 3:
            raise ValueError("no")
        return n

    @task.branch
    def choose() -> str:
        return "sent"

    @task
    def sent() -> None:
        pass

    @task
    def kept() -> None:
        pass

    @task
    def report(written: list[int]) -> None:
        pass

    report(write.expand(n=names()))
    choose() >> [sent(), kept()]


made = letters()
if __name__ == "__main__":
    made.test()
