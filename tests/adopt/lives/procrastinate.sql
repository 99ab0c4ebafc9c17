create type procrastinate_job_status as enum (
    'todo', 'doing', 'succeeded', 'failed', 'cancelled', 'aborting', 'aborted'
);
create table procrastinate_jobs (
    id bigserial primary key, queue_name varchar(128), task_name varchar(128), priority integer not null default 0,
    args jsonb not null default '{}', scheduled_at timestamptz, attempts integer not null default 0,
    status procrastinate_job_status not null default 'todo'
);
create table procrastinate_events (job_id bigint not null references procrastinate_jobs (id) on delete cascade);
--> jobs are deferred, one of no workflow
insert into procrastinate_jobs (task_name, args)
select 'mail', jsonb_build_object('workflow_id', 'w-1', 'workflow_name', 'Letters', 'n', i)
from generate_series(1, 6) as i;
insert into procrastinate_jobs (task_name, args) values ('tick', '{"timestamp": 1}');
--= w-1: 0 of 6
--> they run; one is tried again, one cancelled, one aborted
update procrastinate_jobs set status = 'doing' where id <= 4;
update procrastinate_jobs set status = 'succeeded', attempts = 1 where id in (1, 6);
update procrastinate_jobs set status = 'todo', attempts = 1 where id = 2;
update procrastinate_jobs set status = 'failed', attempts = 1 where id = 3;
update procrastinate_jobs set status = 'aborted', attempts = 1 where id = 4;
update procrastinate_jobs set status = 'cancelled' where id = 5;
--= w-1: 2 of 6, 1 failed, 2 cancelled
--> delete_jobs = 'successful' deletes a job as it ends: it leaves the total
delete from procrastinate_jobs where id = 6;
--= w-1: 1 of 5, 1 failed, 2 cancelled
--> the retry succeeds
update procrastinate_jobs set status = 'succeeded', attempts = 2 where id = 2;
--= w-1: 2 of 5, 1 failed, 2 cancelled
--| w-1 | Letters | failed
--| mail | cancelled | 0 | |
--| mail | completed | 0 | |
--| mail | completed | 1 | |
--| mail | failed | 0 | |
--> pruned: remove_old_jobs deletes what succeeded
delete from procrastinate_jobs where status = 'succeeded';
--> pruned: and failed and cancelled jobs, with include_failed and the like
delete from procrastinate_jobs where status <> 'todo';
--> every task
insert into procrastinate_jobs (args, status) select '{"workflow_id": 1}', word::procrastinate_job_status from every;
--: completed succeeded; failed failed; cancelled cancelled, aborted; open todo, doing, aborting
