create table solid_queue_jobs (
    id bigserial primary key, queue_name varchar, class_name varchar not null, arguments text,
    priority integer not null default 0, active_job_id varchar, finished_at timestamp,
    created_at timestamp not null default now(), updated_at timestamp not null default now()
);
create table solid_queue_failed_executions (job_id bigint unique references solid_queue_jobs (id) on delete cascade);
--> jobs are enqueued, one without arguments
insert into solid_queue_jobs (class_name, arguments)
select 'MailJob', '{"executions": 0, "arguments": [{"workflow_id": 7, "workflow_name": "Letters"}]}'
from generate_series(1, 5);
insert into solid_queue_jobs (class_name, arguments) values ('Tick', '{"arguments": []}'), ('Tick', null);
--= 7: 0 of 5
--> two finish, one of them to be retried as a new job; one fails
update solid_queue_jobs set finished_at = now() where id in (1, 2);
insert into solid_queue_jobs (class_name, arguments)
values ('MailJob', '{"executions": 1, "arguments": [{"workflow_id": 7}]}');
insert into solid_queue_failed_executions values (3);
--= 7: 2 of 6
--> a job that finishes is deleted at once, without preserve_finished_jobs: it leaves the total
delete from solid_queue_jobs where id = 4;
--= 7: 2 of 5
--> the failed one is discarded, the others finish
delete from solid_queue_jobs where id = 3;
update solid_queue_jobs set finished_at = now() where finished_at is null and class_name = 'MailJob';
--= 7: 4 of 4
--| 7 | Letters | completed
--| MailJob | completed | 0 | created completed |
--| MailJob | completed | 1 | created completed |
--> pruned: finished jobs are cleared
delete from solid_queue_jobs;
--> every task
insert into solid_queue_jobs (class_name, arguments, finished_at)
select 'A', '{"arguments": [{"workflow_id": 8}]}', case when word = 'finished' then now() end from every;
--: completed finished; open queued
