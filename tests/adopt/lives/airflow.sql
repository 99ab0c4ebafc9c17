create table dag_run (
    id serial primary key, dag_id varchar(250) not null, run_id varchar(250) not null, run_type varchar(50),
    queued_at timestamptz, start_date timestamptz, end_date timestamptz, state varchar(50), unique (dag_id, run_id)
);
create table task_instance (
    id uuid primary key default gen_random_uuid(), task_id varchar(250), dag_id varchar(250), run_id varchar(250),
    map_index integer not null default -1, start_date timestamptz, end_date timestamptz, state varchar(20),
    try_number integer not null default 0, max_tries integer default -1, unique (dag_id, task_id, run_id, map_index),
    foreign key (dag_id, run_id) references dag_run (dag_id, run_id) on delete cascade
);
--> a run is made with all its tasks, which have no state yet
insert into dag_run (dag_id, run_id, run_type, queued_at, state)
values ('etl', 'manual__2026-01-01T00:00:00+00:00', 'manual', now(), 'running');
insert into task_instance (task_id, dag_id, run_id)
select unnest(array['extract', 'check', 'branch', 'load', 'report', 'old']), dag_id, run_id from dag_run;
--= etl/manual__2026-01-01T00:00:00+00:00: 0 of 6
--> a mapped task is expanded: its row is the first of three; a task that the file lost is removed
update task_instance set map_index = 0, state = 'queued' where task_id = 'load';
insert into task_instance (task_id, dag_id, run_id, map_index)
select 'load', dag_id, run_id, i from dag_run cross join generate_series(1, 2) as i;
update task_instance set state = 'removed' where task_id = 'old';
--= etl/manual__2026-01-01T00:00:00+00:00: 0 of 7
--> some succeed, one waits for its next try, one is skipped by a branch
update task_instance set state = 'success', try_number = 1, start_date = now(), end_date = now()
where task_id in ('extract', 'branch') or (task_id = 'load' and map_index = 0);
update task_instance set state = 'up_for_retry', try_number = 1 where task_id = 'load' and map_index = 1;
update task_instance set state = 'skipped' where task_id = 'check';
--= etl/manual__2026-01-01T00:00:00+00:00: 3 of 6
--> it fails for good, and what depends on it
update task_instance set state = 'failed', try_number = 2 where state = 'up_for_retry';
update task_instance set state = 'success', try_number = 1 where task_id = 'load' and map_index = 2;
update task_instance set state = 'upstream_failed' where task_id = 'report';
update dag_run set state = 'failed', end_date = now();
--= etl/manual__2026-01-01T00:00:00+00:00: 4 of 6, 2 failed
--> somebody clears the failed ones, and they succeed
update task_instance set state = null where state in ('failed', 'upstream_failed');
update dag_run set state = 'queued', end_date = null;
update task_instance set state = 'success', try_number = try_number + 1 where state is null;
update dag_run set state = 'success', end_date = now();
--= etl/manual__2026-01-01T00:00:00+00:00: 6 of 6
--| etl/manual__2026-01-01T00:00:00+00:00 | etl | completed
--| branch | completed | 0 | started completed |
--| extract | completed | 0 | started completed |
--| load[0] | completed | 0 | started completed |
--| load[1] | completed | 2 | |
--| load[2] | completed | 0 | |
--| report | completed | 0 | |
--> pruned: airflow db clean takes the tasks
delete from task_instance;
--> pruned: and the run
delete from dag_run;
--= etl/manual__2026-01-01T00:00:00+00:00: gone
--> every task
insert into dag_run (dag_id, run_id) values ('a', 'b') on conflict do nothing;
insert into task_instance (task_id, dag_id, run_id, state) select gen_random_uuid()::text, 'a', 'b', word from every;
--: completed success; failed failed, upstream_failed; ignored skipped, removed
--: open scheduled, queued, running, restarting, up_for_retry, up_for_reschedule, deferred, null
--> every workflow
insert into dag_run (dag_id, run_id, state) select 'a', gen_random_uuid()::text, word from every
returning dag_id || '/' || run_id, state;
--: completed success; failed failed; initiated queued; running running
