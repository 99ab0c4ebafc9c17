"""Tables of the shape that orchestrators and job queues have, and the life of their jobs, as each system writes it.

Only what a preset reads is there. Numbers are progress, completed, total, failed, cancelled.
"""

from collections.abc import Mapping
from dataclasses import dataclass

Numbers = tuple[int, int, int, int, int]
RUN = "00000000-0000-0000-0000-00000000000"


@dataclass(frozen=True)
class Step:
    """What a system does, and what its workflows say afterwards."""

    what: str
    sql: str
    says: Mapping[str, Numbers]
    prunes: bool = False


@dataclass(frozen=True)
class System:
    """A system: its tables, a life, the names that are listed, and its tasks at the end but for what was pruned."""

    preset: str
    ddl: str
    life: tuple[Step, ...]
    names: Mapping[str, str]
    tasks: tuple[tuple[str, str, int | None], ...]  # what they are called, status, retries
    status: Mapping[str, str]  # of workflows, before anything is pruned


PREFECT = System(
    "prefect",
    """
    create type state_type as enum ('SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED',
        'PAUSED', 'CANCELLING');
    create table flow_run (id uuid primary key, created timestamptz not null default now(), updated timestamptz,
        name varchar not null, state_type state_type, start_time timestamptz, end_time timestamptz);
    create table task_run (id uuid primary key default gen_random_uuid(), created timestamptz not null default now(),
        name varchar not null, state_type state_type, run_count integer not null default 0, start_time timestamptz,
        end_time timestamptz, flow_run_id uuid references flow_run (id) on delete cascade);
    create index on task_run (flow_run_id);
    """,
    (
        Step(
            "a flow starts, and its tasks; one runs outside of a flow",
            f"""
            insert into flow_run (id, name, state_type) values ('{RUN}1', 'wise-otter', 'RUNNING'),
                ('{RUN}2', 'late-newt', 'SCHEDULED');
            insert into task_run (name, state_type, run_count, flow_run_id) select 'load-' || i, 'RUNNING', 1, '{RUN}1'
            from generate_series(0, 3) as i;
            insert into task_run (name, state_type) values ('alone', 'COMPLETED')
            """,
            {f"{RUN}1": (0, 0, 4, 0, 0), f"{RUN}2": (0, 0, 0, 0, 0)},
        ),
        Step(
            "one is completed, one waits for its retry, one crashes, one is being cancelled",
            """
            update task_run set state_type = 'COMPLETED' where name = 'load-0';
            update task_run set state_type = 'SCHEDULED' where name = 'load-1';
            update task_run set state_type = 'CRASHED' where name = 'load-2';
            update task_run set state_type = 'CANCELLING' where name = 'load-3'
            """,
            {f"{RUN}1": (25, 1, 4, 1, 0), f"{RUN}2": (0, 0, 0, 0, 0)},
        ),
        Step(
            "the retry succeeds, the cancelled one is gone",
            """
            update task_run set state_type = 'RUNNING', run_count = 2 where name = 'load-1';
            update task_run set state_type = 'COMPLETED' where name = 'load-1';
            update task_run set state_type = 'CANCELLED' where name = 'load-3';
            update flow_run set state_type = 'CRASHED' where name = 'wise-otter'
            """,
            {f"{RUN}1": (50, 2, 4, 1, 1), f"{RUN}2": (0, 0, 0, 0, 0)},
        ),
        Step("the run is deleted", f"delete from flow_run where id = '{RUN}1'", {f"{RUN}2": (0, 0, 0, 0, 0)}, True),
    ),
    {f"{RUN}1": "wise-otter", f"{RUN}2": "late-newt"},
    (
        *(("load-0", "completed", 0), ("load-1", "completed", 1)),
        *(("load-2", "failed", 0), ("load-3", "cancelled", 0)),
    ),
    {f"{RUN}1": "failed", f"{RUN}2": "initiated"},
)

AIRFLOW = System(
    "airflow",
    """
    create table dag_run (id serial primary key, dag_id varchar(250) not null, run_id varchar(250) not null,
        run_type varchar(50), queued_at timestamptz, start_date timestamptz, end_date timestamptz, state varchar(50),
        unique (dag_id, run_id));
    create table task_instance (id uuid primary key default gen_random_uuid(), task_id varchar(250),
        dag_id varchar(250), run_id varchar(250), map_index integer not null default -1,
        start_date timestamptz, end_date timestamptz,
        state varchar(20), try_number integer not null default 0, max_tries integer default -1,
        unique (dag_id, task_id, run_id, map_index),
        foreign key (dag_id, run_id) references dag_run (dag_id, run_id) on delete cascade);
    """,
    (
        Step(
            "a run is made with all its tasks, which have no state yet",
            """
            insert into dag_run (dag_id, run_id, run_type, queued_at, state)
            values ('etl', 'manual__2026-01-01T00:00:00+00:00', 'manual', now(), 'running');
            insert into task_instance (task_id, dag_id, run_id)
            select unnest(array['extract', 'check', 'branch', 'load', 'report', 'old']), dag_id, run_id from dag_run
            """,
            {"etl/manual__2026-01-01T00:00:00+00:00": (0, 0, 6, 0, 0)},
        ),
        Step(
            "a mapped task is expanded: its row is the first of three; a task that the file lost is removed",
            """
            update task_instance set map_index = 0, state = 'queued' where task_id = 'load';
            insert into task_instance (task_id, dag_id, run_id, map_index)
            select 'load', dag_id, run_id, i from dag_run cross join generate_series(1, 2) as i;
            update task_instance set state = 'removed' where task_id = 'old'
            """,
            {"etl/manual__2026-01-01T00:00:00+00:00": (0, 0, 7, 0, 0)},
        ),
        Step(
            "some succeed, one waits for its next try, one is skipped by a branch",
            """
            update task_instance set state = 'success', try_number = 1 where task_id in ('extract', 'branch')
                or (task_id = 'load' and map_index = 0);
            update task_instance set state = 'up_for_retry', try_number = 1 where task_id = 'load' and map_index = 1;
            update task_instance set state = 'skipped' where task_id = 'check'
            """,
            {"etl/manual__2026-01-01T00:00:00+00:00": (50, 3, 6, 0, 0)},
        ),
        Step(
            "it fails for good, and what depends on it",
            """
            update task_instance set state = 'failed', try_number = 2 where state = 'up_for_retry';
            update task_instance set state = 'success', try_number = 1 where task_id = 'load' and map_index = 2;
            update task_instance set state = 'upstream_failed' where task_id = 'report';
            update dag_run set state = 'failed', end_date = now()
            """,
            {"etl/manual__2026-01-01T00:00:00+00:00": (67, 4, 6, 2, 0)},
        ),
        Step(
            "somebody clears the failed ones, and they succeed",
            """
            update task_instance set state = null where state in ('failed', 'upstream_failed');
            update dag_run set state = 'queued', end_date = null;
            update task_instance set state = 'success', try_number = try_number + 1 where state is null;
            update dag_run set state = 'success', end_date = now()
            """,
            {"etl/manual__2026-01-01T00:00:00+00:00": (100, 6, 6, 0, 0)},
        ),
        Step(
            "airflow db clean takes the tasks",
            "delete from task_instance",
            {"etl/manual__2026-01-01T00:00:00+00:00": (100, 6, 6, 0, 0)},
            True,
        ),
        Step("and the run", "delete from dag_run", {}, True),
    ),
    {"etl/manual__2026-01-01T00:00:00+00:00": "etl"},
    (
        *(("branch", "completed", 0), ("extract", "completed", 0), ("load[0]", "completed", 0)),
        *(("load[1]", "completed", 2), ("load[2]", "completed", 0), ("report", "completed", 0)),
    ),
    {"etl/manual__2026-01-01T00:00:00+00:00": "completed"},
)

DAGSTER = System(
    "dagster",
    """
    create table runs (id bigserial primary key, run_id varchar(255) unique, pipeline_name text, status varchar(63),
        run_body text, partition text, create_timestamp timestamp default now(), start_time double precision,
        end_time double precision, backfill_id varchar(255));
    """,
    (
        Step(
            "a backfill is launched, and a run of its own",
            """
            insert into runs (run_id, pipeline_name, status, partition, backfill_id, run_body)
            select 'p' || i, 'daily', 'QUEUED', '2026-01-0' || i, 'abcdefgh', '{"root_run_id": null}'
            from generate_series(1, 4) as i;
            insert into runs (run_id, pipeline_name, status, run_body)
            values ('r1', 'alone', 'STARTED', '{"root_run_id": null}')
            """,
            {"abcdefgh": (0, 0, 4, 0, 0), "r1": (0, 0, 1, 0, 0)},
        ),
        Step(
            "runs end, one of them cancelled; the one alone fails, and is executed again from where it failed",
            """
            update runs set status = 'SUCCESS' where run_id in ('p1', 'p2');
            update runs set status = 'CANCELING' where run_id = 'p3';
            update runs set status = 'CANCELED' where run_id = 'p3';
            update runs set status = 'FAILURE' where run_id = 'r1';
            insert into runs (run_id, pipeline_name, status, run_body)
            values ('r2', 'alone', 'STARTED', '{"root_run_id": "r1", "parent_run_id": "r1"}')
            """,
            {"abcdefgh": (50, 2, 4, 0, 1), "r1": (0, 0, 2, 1, 0)},
        ),
        Step(
            "that succeeds",
            "update runs set status = 'SUCCESS' where run_id in ('r2', 'p4')",
            {"abcdefgh": (75, 3, 4, 0, 1), "r1": (50, 1, 2, 1, 0)},
        ),
        Step("a run is deleted", "delete from runs where backfill_id = 'abcdefgh'", {"r1": (50, 1, 2, 1, 0)}, True),
    ),
    {"abcdefgh": "daily", "r1": "alone"},
    (
        *(("alone", "completed", None), ("alone", "failed", None), ("daily 2026-01-01", "completed", None)),
        *(("daily 2026-01-02", "completed", None), ("daily 2026-01-03", "cancelled", None)),
        ("daily 2026-01-04", "completed", None),
    ),
    {"abcdefgh": "completed", "r1": "failed"},
)

DBOS = System(
    "dbos",
    """
    create schema dbos;
    create table dbos.workflow_status (workflow_uuid text primary key, status text, name text, output text, error text,
        created_at bigint not null default extract(epoch from now()) * 1000, updated_at bigint, completed_at bigint,
        recovery_attempts bigint default 0, queue_name text, started_at_epoch_ms bigint, parent_workflow_id text);
    create index on dbos.workflow_status (parent_workflow_id) where parent_workflow_id is not null;
    """,
    (
        Step(
            "a workflow puts children into a queue",
            """
            insert into dbos.workflow_status (workflow_uuid, status, name) values ('w', 'PENDING', 'ingest'),
                ('alone', 'SUCCESS', 'ping');
            insert into dbos.workflow_status (workflow_uuid, status, name, parent_workflow_id)
            select 'w-' || i, 'ENQUEUED', 'page', 'w' from generate_series(1, 5) as i
            """,
            {"w": (0, 0, 5, 0, 0), "alone": (0, 0, 0, 0, 0)},
        ),
        Step(
            "they run; one is recovered after its process died",
            """
            update dbos.workflow_status set status = 'PENDING', recovery_attempts = 1 where parent_workflow_id = 'w';
            update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid = 'w-1';
            update dbos.workflow_status set status = 'ENQUEUED', recovery_attempts = 2 where workflow_uuid = 'w-2';
            update dbos.workflow_status set status = 'ERROR', error = 'no' where workflow_uuid = 'w-3';
            update dbos.workflow_status set status = 'CANCELLED' where workflow_uuid = 'w-4';
            update dbos.workflow_status set status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' where workflow_uuid = 'w-5'
            """,
            {"w": (20, 1, 5, 2, 1), "alone": (0, 0, 0, 0, 0)},
        ),
        Step(
            "the recovered one succeeds, the cancelled one is resumed",
            """
            update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid = 'w-2';
            update dbos.workflow_status set status = 'ENQUEUED' where workflow_uuid = 'w-4';
            update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid = 'w-4';
            update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid = 'w'
            """,
            {"w": (60, 3, 5, 2, 0), "alone": (0, 0, 0, 0, 0)},
        ),
        Step(
            "retention deletes the children that succeeded",
            "delete from dbos.workflow_status where parent_workflow_id is not null and status = 'SUCCESS'",
            {"w": (60, 3, 5, 2, 0), "alone": (0, 0, 0, 0, 0)},
            True,
        ),
    ),
    {"w": "ingest", "alone": "ping"},
    (
        *(("page", "completed", 0), ("page", "completed", 0), ("page", "completed", 1)),
        *(("page", "failed", 0), ("page", "failed", 0)),
    ),
    {"w": "completed", "alone": "completed"},
)

CELERY = System(
    "celery",
    """
    create table django_celery_results_taskresult (id serial primary key, task_id varchar(255) unique not null,
        task_name varchar(255), task_kwargs text, status varchar(50) not null, content_type varchar(128) not null,
        result text, date_created timestamptz not null default now(), date_started timestamptz,
        date_done timestamptz not null default now(), traceback text, meta text);
    """,
    (
        Step(
            "tasks start: known by a keyword argument, by request.meta; one without; one whose results are pickled",
            """
            insert into django_celery_results_taskresult (task_id, task_name, task_kwargs, status, content_type, meta)
            values
                ('a', 'shop.mail', '"{''workflow_id'': ''order-7'', ''to'': 3}"', 'STARTED', 'application/json', '{}'),
                ('b', 'shop.mail', '"{''to'': 4, ''workflow_id'': ''order-7''}"', 'STARTED', 'application/json', null),
                ('c', 'shop.bill', null, 'STARTED', 'application/json', '{"workflow_id": 7, "children": []}'),
                ('d', 'shop.bill', '"{}"', 'SUCCESS', 'application/json', '{"children": []}'),
                ('e', 'shop.bill', null, 'SUCCESS', 'application/x-python-serialize', 'gASVDgAAAAAAAAB9lA=='),
                ('f', 'shop.bill', null, 'STARTED', 'application/json', '{"workflow_id": 7, "children": []}')
            """,
            {"order-7": (0, 0, 2, 0, 0), "7": (0, 0, 2, 0, 0)},
        ),
        Step(
            "one ends, one is tried again, one is revoked",
            """
            update django_celery_results_taskresult set status = 'SUCCESS' where task_id = 'a';
            update django_celery_results_taskresult set status = 'RETRY' where task_id = 'b';
            update django_celery_results_taskresult set status = 'REVOKED' where task_id = 'c'
            """,
            {"order-7": (50, 1, 2, 0, 0), "7": (0, 0, 2, 0, 1)},
        ),
        Step(
            "the retry fails",
            """
            update django_celery_results_taskresult set status = 'FAILURE', traceback = 'no' where task_id = 'b';
            update django_celery_results_taskresult set status = 'SUCCESS' where task_id = 'f'
            """,
            {"order-7": (50, 1, 2, 1, 0), "7": (50, 1, 2, 0, 1)},
        ),
        Step(
            "celery.backend_cleanup deletes what is old, whatever its state",
            "delete from django_celery_results_taskresult",
            {"order-7": (50, 1, 2, 1, 0), "7": (50, 1, 2, 0, 1)},
            True,
        ),
    ),
    {"order-7": "order-7", "7": "7"},
    (
        *(("shop.bill", "cancelled", None), ("shop.bill", "completed", None)),
        *(("shop.mail", "completed", None), ("shop.mail", "failed", None)),
    ),
    {"order-7": "failed", "7": "completed"},
)

DJANGO_Q = System(
    "django-q",
    """
    create table django_q_task (id varchar(32) primary key, name varchar(100), func varchar(256), "group" varchar(100),
        started timestamptz not null, stopped timestamptz not null, success boolean not null,
        attempt_count integer not null);
    """,
    (
        Step(
            "tasks ran",
            """
            insert into django_q_task
            values ('1', 'a', 'shop.mail', 'letters', now(), now(), true, 1),
                ('2', 'b', 'shop.mail', 'letters', now(), now(), true, 1),
                ('3', 'c', 'shop.mail', 'letters', now(), now(), false, 1),
                ('4', 'd', 'shop.mail', null, now(), now(), true, 1)
            """,
            {"letters": (67, 2, 3, 1, 0)},
        ),
        Step(
            "the failed one ran again",
            "update django_q_task set success = true, attempt_count = 2, stopped = now() where id = '3'",
            {"letters": (100, 3, 3, 0, 0)},
        ),
        Step(
            "the oldest successes go, as save_limit says",
            "delete from django_q_task where id in ('1', '2', '4')",
            {"letters": (100, 3, 3, 0, 0)},
            True,
        ),
    ),
    {"letters": "letters"},
    (("shop.mail", "completed", 0), ("shop.mail", "completed", 0), ("shop.mail", "completed", 1)),
    {"letters": "completed"},
)

PROCRASTINATE = System(
    "procrastinate",
    """
    create type procrastinate_job_status as enum ('todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting',
        'aborted');
    create table procrastinate_jobs (id bigserial primary key, queue_name varchar(128), task_name varchar(128),
        priority integer not null default 0, args jsonb not null default '{}', scheduled_at timestamptz,
        status procrastinate_job_status not null default 'todo', attempts integer not null default 0);
    create table procrastinate_events (job_id bigint not null references procrastinate_jobs (id) on delete cascade);
    """,
    (
        Step(
            "jobs are deferred, one of no workflow",
            """
            insert into procrastinate_jobs (task_name, args)
            select 'mail', jsonb_build_object('workflow_id', 'w-1', 'workflow_name', 'Letters', 'n', i)
            from generate_series(1, 5) as i;
            insert into procrastinate_jobs (task_name, args) values ('tick', '{"timestamp": 1}')
            """,
            {"w-1": (0, 0, 5, 0, 0)},
        ),
        Step(
            "they run; one is tried again, one cancelled, one aborted",
            """
            update procrastinate_jobs set status = 'doing' where id <= 4;
            update procrastinate_jobs set status = 'succeeded', attempts = 1 where id = 1;
            update procrastinate_jobs set status = 'todo', attempts = 1 where id = 2;
            update procrastinate_jobs set status = 'failed', attempts = 1 where id = 3;
            update procrastinate_jobs set status = 'aborted', attempts = 1 where id = 4;
            update procrastinate_jobs set status = 'cancelled' where id = 5
            """,
            {"w-1": (20, 1, 5, 1, 2)},
        ),
        Step(
            "the retry succeeds",
            """
            update procrastinate_jobs set status = 'doing' where id = 2;
            update procrastinate_jobs set status = 'succeeded', attempts = 2 where id = 2
            """,
            {"w-1": (40, 2, 5, 1, 2)},
        ),
        Step(
            "remove_old_jobs deletes what succeeded",
            "delete from procrastinate_jobs where status = 'succeeded'",
            {"w-1": (40, 2, 5, 1, 2)},
            True,
        ),
        Step(
            "and failed and cancelled jobs, with include_failed and the like",
            "delete from procrastinate_jobs where status <> 'todo'",
            {"w-1": (40, 2, 5, 1, 2)},
            True,
        ),
    ),
    {"w-1": "Letters"},
    (
        *(("mail", "cancelled", 0), ("mail", "cancelled", 0), ("mail", "completed", 0), ("mail", "completed", 1)),
        ("mail", "failed", 0),
    ),
    {"w-1": "failed"},
)

PG_BOSS = System(
    "pg-boss",
    """
    create schema pgboss;
    create type pgboss.job_state as enum ('created', 'retry', 'active', 'completed', 'cancelled', 'failed');
    create table pgboss.job (id uuid not null default gen_random_uuid(), name text not null, data jsonb, output jsonb,
        state pgboss.job_state not null default 'created', retry_limit integer not null default 2,
        retry_count integer not null default 0, priority integer not null default 0, started_on timestamptz,
        created_on timestamptz not null default now(), completed_on timestamptz, primary key (name, id)
    ) partition by list (name);
    create table pgboss.j1 partition of pgboss.job for values in ('mail');
    """,
    (
        Step(
            "jobs are sent, some to a queue that is new",
            """
            insert into pgboss.job (name, data)
            select 'mail', jsonb_build_object('workflow_id', 'w', 'workflow_name', 'Letters')
            from generate_series(1, 3);
            create table pgboss.j2 (like pgboss.job including defaults including constraints);
            alter table pgboss.j2 add primary key (name, id);
            alter table pgboss.job attach partition pgboss.j2 for values in ('bill');
            insert into pgboss.job (name, data) values ('bill', '{"workflow_id": "w"}'),
                ('bill', '{"workflow_id": "w"}'),
                ('bill', null)
            """,
            {"w": (0, 0, 5, 0, 0)},
        ),
        Step(
            "jobs of a queue are taken, completed, and one is cancelled; failing inserts the job anew",
            """
            update pgboss.job set state = 'active' where name = 'mail';
            update pgboss.job set state = 'completed', completed_on = now() where id in (
                select id from pgboss.job where name = 'mail' order by id limit 1);
            update pgboss.job set state = 'cancelled' where id in (
                select id from pgboss.job where name = 'bill' and data is not null order by id limit 1);
            with failed as (
                delete from pgboss.job where id in (
                    select id from pgboss.job where name = 'mail' and state = 'active' order by id limit 1) returning *
            ) insert into pgboss.job (id, name, data, state, retry_count) select id, name, data, 'retry', 0 from failed
            """,
            {"w": (20, 1, 5, 0, 1)},
        ),
        Step(
            "the retry fails for good, the others succeed",
            """
            with failed as (delete from pgboss.job where state = 'retry' returning *)
            insert into pgboss.job (id, name, data, state, retry_count) select id, name, data, 'failed', 2 from failed;
            update pgboss.job set state = 'completed' where state in ('created', 'active') and data is not null
            """,
            {"w": (60, 3, 5, 1, 1)},
        ),
        Step(
            "what is done is deleted",
            "delete from pgboss.job where state in ('completed', 'cancelled')",
            {"w": (60, 3, 5, 1, 1)},
            True,
        ),
        Step("a queue is deleted with its failed job", "delete from pgboss.job", {"w": (60, 3, 5, 1, 1)}, True),
    ),
    {"w": "Letters"},
    (
        *(("bill", "cancelled", 0), ("bill", "completed", 0)),
        *(("mail", "completed", 0), ("mail", "completed", 0), ("mail", "failed", 2)),
    ),
    {"w": "failed"},
)

GOODJOB = System(
    "goodjob",
    """
    create table good_job_batches (id uuid primary key, created_at timestamp not null default now(),
        updated_at timestamp not null default now(), description text, on_finish text, on_success text, on_discard text,
        enqueued_at timestamp, discarded_at timestamp, finished_at timestamp);
    create table good_jobs (id uuid primary key default gen_random_uuid(), queue_name text, priority integer,
        serialized_params jsonb, performed_at timestamp, finished_at timestamp, error text,
        created_at timestamp not null default now(), batch_id uuid, batch_callback_id uuid, retried_good_job_id uuid,
        executions_count integer, job_class text);
    create index on good_jobs (batch_id) where batch_id is not null;
    """,
    (
        Step(
            "a batch is enqueued, and a job without one",
            f"""
            insert into good_job_batches (id, on_finish, enqueued_at) values ('{RUN}1', 'MailReport', now());
            insert into good_jobs (job_class, batch_id, queue_name)
            select 'MailJob', '{RUN}1', i from generate_series(1, 4) as i;
            insert into good_jobs (job_class) values ('Alone')
            """,
            {f"{RUN}1": (0, 0, 4, 0, 0)},
        ),
        Step(
            "one succeeds; one failed and is retried, in its own row; one was retried as a row of its own",
            f"""
            update good_jobs set performed_at = now(), finished_at = now(), executions_count = 1 where queue_name = '1';
            update good_jobs set executions_count = 1, error = 'no' where queue_name = '2';
            insert into good_jobs (id, job_class, batch_id, queue_name) values ('{RUN}9', 'MailJob', '{RUN}1', '5');
            update good_jobs set finished_at = now(), error = 'no', retried_good_job_id = '{RUN}9'
            where queue_name = '3'
            """,
            {f"{RUN}1": (25, 1, 4, 0, 0)},
        ),
        Step(
            "the retries succeed, the last is discarded, and the callback runs",
            f"""
            update good_jobs set finished_at = now(), executions_count = 2, error = null where queue_name in ('2', '5');
            update good_jobs set finished_at = now(), executions_count = 5, error = 'no' where queue_name = '4';
            update good_job_batches set discarded_at = now(), finished_at = now();
            insert into good_jobs (job_class, batch_callback_id, finished_at) values ('MailReport', '{RUN}1', now())
            """,
            {f"{RUN}1": (75, 3, 4, 1, 0)},
        ),
        Step(
            "old jobs are cleaned up, discarded ones are kept",
            "delete from good_jobs where error is null",
            {f"{RUN}1": (75, 3, 4, 1, 0)},
            True,
        ),
        Step("and old batches", "delete from good_job_batches", {}, True),
    ),
    {f"{RUN}1": "MailReport"},
    (
        *(("MailJob", "completed", 0), ("MailJob", "completed", 1), ("MailJob", "completed", 1)),
        ("MailJob", "failed", 4),
    ),
    {f"{RUN}1": "failed"},
)

_ARGUMENTS = """'{"executions": %s, "arguments": [{"workflow_id": 7, "workflow_name": "Letters"}]}'"""
SOLID_QUEUE = System(
    "solid-queue",
    """
    create table solid_queue_jobs (id bigserial primary key, queue_name varchar, class_name varchar not null,
        arguments text, priority integer not null default 0, active_job_id varchar, finished_at timestamp,
        created_at timestamp not null default now(), updated_at timestamp not null default now());
    create table solid_queue_failed_executions (
        job_id bigint unique references solid_queue_jobs (id) on delete cascade);
    """,
    (
        Step(
            "jobs are enqueued, one without arguments",
            f"""
            insert into solid_queue_jobs (class_name, arguments)
            select 'MailJob', {_ARGUMENTS % 0} from generate_series(1, 4);
            insert into solid_queue_jobs (class_name, arguments) values ('Tick', '{{"arguments": []}}'), ('Tick', null)
            """,
            {"7": (0, 0, 4, 0, 0)},
        ),
        Step(
            "two finish, one of them to be retried as a new job; one fails",
            f"""
            update solid_queue_jobs set finished_at = now() where id in (1, 2);
            insert into solid_queue_jobs (class_name, arguments) values ('MailJob', {_ARGUMENTS % 1});
            insert into solid_queue_failed_executions values (3)
            """,
            {"7": (40, 2, 5, 0, 0)},
        ),
        Step(
            "the failed one is discarded, the others finish",
            """
            delete from solid_queue_jobs where id = 3;
            update solid_queue_jobs set finished_at = now() where finished_at is null and class_name = 'MailJob'
            """,
            {"7": (100, 4, 4, 0, 0)},
        ),
        Step("finished jobs are cleared", "delete from solid_queue_jobs", {"7": (100, 4, 4, 0, 0)}, True),
    ),
    {"7": "Letters"},
    (
        *(("MailJob", "completed", 0), ("MailJob", "completed", 0), ("MailJob", "completed", 0)),
        ("MailJob", "completed", 1),
    ),
    {"7": "completed"},
)

_QUEUE_LIFE = """
    update {t} set state = '{running}', attempt = 1;
    update {t} set state = 'completed' where id = 1;
    update {t} set state = 'retryable', {errors} where id = 2;
    update {t} set state = 'cancelled' where id = 3;
    update {t} set state = 'discarded', {errors} where id = 4
"""
OBAN = System(
    "oban",
    """
    create type oban_job_state as enum ('available', 'suspended', 'scheduled', 'executing', 'retryable', 'completed',
        'discarded', 'cancelled');
    create table oban_jobs (id bigserial primary key, state oban_job_state not null default 'available', worker text,
        args jsonb not null default '{}', errors jsonb[] not null default '{}', attempt integer not null default 0,
        max_attempts integer not null default 20, priority integer not null default 0, meta jsonb default '{}',
        inserted_at timestamp not null default timezone('UTC', now()), attempted_at timestamp, completed_at timestamp);
    """,
    (
        Step(
            "a workflow and a batch are inserted, and a job of neither",
            """
            insert into oban_jobs (worker, meta, state) select 'My.Worker',
                jsonb_build_object('workflow_id', 'w', 'workflow_name', 'import', 'name', 'step_' || i), 'scheduled'
            from generate_series(1, 4) as i;
            insert into oban_jobs (worker, meta) values ('My.Mail', '{"batch_id": "b"}'), ('My.Mail', '{}')
            """,
            {"w": (0, 0, 4, 0, 0), "b": (0, 0, 1, 0, 0)},
        ),
        Step(
            "they run",
            _QUEUE_LIFE.format(
                t="oban_jobs", running="executing", errors='errors = errors || \'{"error": "no"}\'::jsonb'
            ),
            {"w": (25, 1, 4, 1, 1), "b": (0, 0, 1, 0, 0)},
        ),
        Step(
            "the retry succeeds; the discarded one is retried by hand, and snoozes",
            """
            update oban_jobs set state = 'completed', attempt = 2 where id in (2, 5);
            update oban_jobs set state = 'available', max_attempts = 21 where id = 4;
            update oban_jobs set state = 'scheduled', max_attempts = 22, attempt = 2 where id = 4
            """,
            {"w": (50, 2, 4, 0, 1), "b": (100, 1, 1, 0, 0)},
        ),
        Step(
            "it succeeds",
            "update oban_jobs set state = 'completed' where id = 4",
            {"w": (75, 3, 4, 0, 1), "b": (100, 1, 1, 0, 0)},
        ),
        Step(
            "the pruner deletes what is done",
            "delete from oban_jobs where state in ('completed', 'cancelled', 'discarded')",
            {"w": (75, 3, 4, 0, 1), "b": (100, 1, 1, 0, 0)},
            True,
        ),
    ),
    {"w": "import", "b": "b"},
    (
        *(("My.Mail", "completed", 1), ("step_1", "completed", 0), ("step_2", "completed", 1)),
        *(("step_3", "cancelled", 0), ("step_4", "completed", 1)),
    ),
    {"w": "completed", "b": "completed"},
)

RIVER = System(
    "river",
    """
    create type river_job_state as enum ('available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable',
        'running', 'scheduled');
    create table river_job (id bigserial primary key, state river_job_state not null default 'available', kind text,
        args jsonb not null default '{}', errors jsonb[], attempt smallint not null default 0,
        max_attempts smallint not null default 25, priority smallint not null default 1,
        metadata jsonb not null default '{}', created_at timestamptz not null default now(), attempted_at timestamptz,
        finalized_at timestamptz);
    """,
    (
        Step(
            "a workflow is inserted; what depends on others is pending",
            """
            insert into river_job (kind, state, metadata) select 'send', 'pending',
                jsonb_build_object('workflow_id', 'w', 'workflow_name', 'letters', 'task', 'task_' || i)
            from generate_series(1, 4) as i;
            insert into river_job (kind) values ('other')
            """,
            {"w": (0, 0, 4, 0, 0)},
        ),
        Step(
            "they run",
            _QUEUE_LIFE.format(t="river_job", running="running", errors='errors = array[\'{"error": "no"}\'::jsonb]'),
            {"w": (25, 1, 4, 1, 1)},
        ),
        Step(
            "the retry succeeds, and so does the discarded one, retried by hand",
            """
            update river_job set state = 'running', attempt = 2 where id = 2;
            update river_job set state = 'completed', finalized_at = now() where id = 2;
            update river_job set state = 'available' where id = 4;
            update river_job set state = 'completed', attempt = 2, finalized_at = now() where id = 4
            """,
            {"w": (75, 3, 4, 0, 1)},
        ),
        Step(
            "the cleaner deletes what is done",
            "delete from river_job where state in ('completed', 'cancelled')",
            {"w": (75, 3, 4, 0, 1)},
            True,
        ),
    ),
    {"w": "letters"},
    (
        *(("task_1", "completed", 0), ("task_2", "completed", 1)),
        *(("task_3", "cancelled", 0), ("task_4", "completed", 1)),
    ),
    {"w": "completed"},
)

PGFLOW = System(
    "pgflow",
    """
    create schema pgflow;
    create table pgflow.runs (run_id uuid primary key, flow_slug text not null, status text not null default 'started',
        started_at timestamptz not null default now(), completed_at timestamptz, failed_at timestamptz);
    create table pgflow.step_states (flow_slug text, run_id uuid not null references pgflow.runs (run_id),
        step_slug text not null, status text not null default 'created', created_at timestamptz not null default now(),
        started_at timestamptz, completed_at timestamptz, failed_at timestamptz, primary key (run_id, step_slug));
    """,
    (
        Step(
            "two flows start with all their steps",
            f"""
            insert into pgflow.runs (run_id, flow_slug) values ('{RUN}1', 'crawl'), ('{RUN}2', 'crawl');
            insert into pgflow.step_states (flow_slug, run_id, step_slug)
            select 'crawl', run_id, unnest(array['fetch', 'parse', 'notify', 'store']) from pgflow.runs
            """,
            {f"{RUN}1": (0, 0, 4, 0, 0), f"{RUN}2": (0, 0, 4, 0, 0)},
        ),
        Step(
            "steps are done, one is skipped; the other run fails at its first",
            f"""
            update pgflow.step_states set status = 'started' where step_slug = 'fetch';
            update pgflow.step_states set status = 'completed'
            where step_slug in ('fetch', 'parse') and run_id = '{RUN}1';
            update pgflow.step_states set status = 'skipped' where step_slug = 'notify' and run_id = '{RUN}1';
            update pgflow.step_states set status = 'failed' where step_slug = 'fetch' and run_id = '{RUN}2';
            update pgflow.runs set status = 'failed', failed_at = now() where run_id = '{RUN}2'
            """,
            {f"{RUN}1": (67, 2, 3, 0, 0), f"{RUN}2": (0, 0, 4, 1, 0)},
        ),
        Step(
            "the run ends",
            f"""
            update pgflow.step_states set status = 'completed' where step_slug = 'store' and run_id = '{RUN}1';
            update pgflow.runs set status = 'completed', completed_at = now() where run_id = '{RUN}1'
            """,
            {f"{RUN}1": (100, 3, 3, 0, 0), f"{RUN}2": (0, 0, 4, 1, 0)},
        ),
        Step(
            "what is old is pruned: steps first",
            f"delete from pgflow.step_states where run_id = '{RUN}1'",
            {f"{RUN}1": (100, 3, 3, 0, 0), f"{RUN}2": (0, 0, 4, 1, 0)},
            True,
        ),
        Step("then runs", f"delete from pgflow.runs where run_id = '{RUN}1'", {f"{RUN}2": (0, 0, 4, 1, 0)}, True),
    ),
    {f"{RUN}1": "crawl", f"{RUN}2": "crawl"},
    (
        *(("fetch", "completed", None), ("fetch", "failed", None), ("notify", "pending", None)),
        *(("parse", "completed", None), ("parse", "pending", None)),
        *(("store", "completed", None), ("store", "pending", None)),
    ),
    {f"{RUN}1": "completed", f"{RUN}2": "failed"},
)

HATCHET = System(
    "hatchet",
    """
    create type v1_readable_status_olap as enum ('QUEUED', 'RUNNING', 'CANCELLED', 'FAILED', 'COMPLETED', 'EVICTED');
    create table v1_tasks_olap (id bigint not null, inserted_at timestamptz not null default '2026-01-15',
        external_id uuid not null default gen_random_uuid(), workflow_run_id uuid not null, display_name text not null,
        input jsonb, additional_metadata jsonb, readable_status v1_readable_status_olap not null default 'QUEUED',
        latest_retry_count integer not null default 0, primary key (inserted_at, id)
    ) partition by range (inserted_at);
    create table v1_tasks_olap_20260115 partition of v1_tasks_olap for values from ('2026-01-15') to ('2026-01-16');
    """,
    (
        Step(
            "a run starts",
            f"""
            insert into v1_tasks_olap (id, workflow_run_id, display_name, additional_metadata)
            select i, '{RUN}1', 'step-' || i, '{{"workflow_name": "crawl"}}' from generate_series(1, 4) as i
            """,
            {f"{RUN}1": (0, 0, 4, 0, 0)},
        ),
        Step(
            "tasks end; one retries, one that waits is evicted; a task of the next day has a partition that is new",
            f"""
            create table v1_tasks_olap_20260116 (like v1_tasks_olap including indexes);
            alter table v1_tasks_olap attach partition v1_tasks_olap_20260116
            for values from ('2026-01-16') to ('2026-01-17');
            insert into v1_tasks_olap (id, inserted_at, workflow_run_id, display_name)
            values (5, '2026-01-16', '{RUN}1', 'step-5');
            update v1_tasks_olap set readable_status = 'COMPLETED' where id = 1;
            update v1_tasks_olap set readable_status = 'RUNNING', latest_retry_count = 1 where id = 2;
            update v1_tasks_olap set readable_status = 'FAILED', latest_retry_count = 3 where id = 3;
            update v1_tasks_olap set readable_status = 'CANCELLED' where id = 4;
            update v1_tasks_olap set readable_status = 'EVICTED' where id = 5
            """,
            {f"{RUN}1": (20, 1, 5, 1, 1)},
        ),
        Step(
            "the others succeed, and the failed one, replayed",
            "update v1_tasks_olap set readable_status = 'COMPLETED' where id in (2, 3, 5)",
            {f"{RUN}1": (80, 4, 5, 0, 1)},
        ),
        Step(
            "rows are deleted (see the page for partitions that are dropped)",
            "delete from v1_tasks_olap",
            {f"{RUN}1": (80, 4, 5, 0, 1)},
            True,
        ),
    ),
    {f"{RUN}1": "crawl"},
    (
        *(("step-1", "completed", 0), ("step-2", "completed", 1), ("step-3", "completed", 3)),
        *(("step-4", "cancelled", 0), ("step-5", "completed", 0)),
    ),
    {f"{RUN}1": "completed"},
)

TRIGGER_DEV = System(
    "trigger-dev",
    """
    create type "TaskRunStatus" as enum ('DELAYED', 'PENDING', 'PENDING_VERSION', 'WAITING_FOR_DEPLOY', 'DEQUEUED',
        'EXECUTING', 'WAITING_TO_RESUME', 'RETRYING_AFTER_FAILURE', 'PAUSED', 'CANCELED', 'INTERRUPTED',
        'COMPLETED_SUCCESSFULLY', 'COMPLETED_WITH_ERRORS', 'SYSTEM_FAILURE', 'CRASHED', 'EXPIRED', 'TIMED_OUT');
    create table "TaskRun" (id text primary key, "friendlyId" text, "taskIdentifier" text not null,
        status "TaskRunStatus" not null default 'PENDING', "attemptNumber" integer,
        "createdAt" timestamp(3) not null default now(), "startedAt" timestamp(3), "completedAt" timestamp(3),
        "parentTaskRunId" text references "TaskRun" (id) on delete set null, error jsonb);
    create index on "TaskRun" ("parentTaskRunId");
    """,
    (
        Step(
            "a run triggers others",
            """
            insert into "TaskRun" (id, "taskIdentifier", status) values ('w', 'crawl', 'EXECUTING');
            insert into "TaskRun" (id, "taskIdentifier", "parentTaskRunId")
            select 'w-' || i, 'page', 'w' from generate_series(1, 5) as i;
            update "TaskRun" set status = 'WAITING_TO_RESUME' where id = 'w'
            """,
            {"w": (0, 0, 5, 0, 0)},
        ),
        Step(
            "they run; one is tried again, one expires, one is cancelled",
            """
            update "TaskRun" set status = 'EXECUTING', "attemptNumber" = 1 where "parentTaskRunId" is not null;
            update "TaskRun" set status = 'COMPLETED_SUCCESSFULLY' where id = 'w-1';
            update "TaskRun" set status = 'RETRYING_AFTER_FAILURE', "attemptNumber" = 2 where id = 'w-2';
            update "TaskRun" set status = 'EXPIRED' where id = 'w-3';
            update "TaskRun" set status = 'CANCELED' where id = 'w-4';
            update "TaskRun" set status = 'COMPLETED_WITH_ERRORS' where id = 'w-5'
            """,
            {"w": (20, 1, 5, 2, 1)},
        ),
        Step(
            "the retry succeeds, and the run ends",
            """
            update "TaskRun" set status = 'COMPLETED_SUCCESSFULLY' where id in ('w', 'w-2')
            """,
            {"w": (40, 2, 5, 2, 1)},
        ),
    ),
    {"w": "crawl"},
    (
        *(("page", "cancelled", 0), ("page", "completed", 0), ("page", "completed", 1)),
        *(("page", "failed", 0), ("page", "failed", 0)),
    ),
    {"w": "completed"},
)

SPRING_BATCH = System(
    "spring-batch",
    """
    create table batch_job_execution (job_execution_id bigint primary key, job_instance_id bigint not null,
        create_time timestamp not null default now(), start_time timestamp, end_time timestamp, status varchar(10));
    create table batch_step_execution (step_execution_id bigint primary key, step_name varchar(100) not null,
        job_execution_id bigint not null references batch_job_execution (job_execution_id),
        start_time timestamp, end_time timestamp, status varchar(10), exit_message varchar(2500));
    """,
    (
        Step(
            "a job starts, and its first step",
            """
            insert into batch_job_execution (job_execution_id, job_instance_id, status) values (1, 10, 'STARTED');
            insert into batch_step_execution (step_execution_id, step_name, job_execution_id, status)
            values (1, 'read', 1, 'STARTED')
            """,
            {"1": (0, 0, 1, 0, 0)},
        ),
        Step(
            "it completes, and the next is split into partitions; one fails, one is stopped",
            """
            update batch_step_execution set status = 'COMPLETED' where step_execution_id = 1;
            insert into batch_step_execution (step_execution_id, step_name, job_execution_id, status)
            select 1 + i, 'write:partition' || i, 1, 'STARTING' from generate_series(1, 3) as i;
            update batch_step_execution set status = 'COMPLETED' where step_execution_id = 2;
            update batch_step_execution set status = 'FAILED' where step_execution_id = 3;
            update batch_step_execution set status = 'STOPPED' where step_execution_id = 4;
            update batch_job_execution set status = 'FAILED'
            """,
            {"1": (50, 2, 4, 1, 1)},
        ),
        Step(
            "the job is restarted: an execution of its own, for what was left",
            """
            insert into batch_job_execution (job_execution_id, job_instance_id, status) values (2, 10, 'STARTED');
            insert into batch_step_execution (step_execution_id, step_name, job_execution_id, status)
            values (5, 'write:partition2', 2, 'COMPLETED'), (6, 'write:partition3', 2, 'COMPLETED');
            update batch_job_execution set status = 'COMPLETED' where job_execution_id = 2
            """,
            {"1": (50, 2, 4, 1, 1), "2": (100, 2, 2, 0, 0)},
        ),
        Step(
            "history is removed: steps first",
            "delete from batch_step_execution where job_execution_id = 2",
            {"1": (50, 2, 4, 1, 1), "2": (100, 2, 2, 0, 0)},
            True,
        ),
        Step(
            "then executions",
            "delete from batch_job_execution where job_execution_id = 2",
            {"1": (50, 2, 4, 1, 1)},
            True,
        ),
    ),
    {"1": "job instance 10", "2": "job instance 10"},
    (
        *(
            ("read", "completed", None),
            ("write:partition1", "completed", None),
            ("write:partition2", "completed", None),
        ),
        *(("write:partition2", "failed", None), ("write:partition3", "cancelled", None)),
        ("write:partition3", "completed", None),
    ),
    {"1": "failed", "2": "completed"},
)

SYSTEMS = (
    *(PREFECT, AIRFLOW, DAGSTER, DBOS, CELERY, DJANGO_Q, PROCRASTINATE, PG_BOSS, GOODJOB, SOLID_QUEUE, OBAN, RIVER),
    *(PGFLOW, HATCHET, TRIGGER_DEV, SPRING_BATCH),
)
