create table good_job_batches (
    id uuid primary key default gen_random_uuid(), created_at timestamp not null default now(),
    updated_at timestamp not null default now(), description text, on_finish text, on_success text, on_discard text,
    enqueued_at timestamp, discarded_at timestamp, finished_at timestamp
);
create table good_jobs (
    id uuid primary key default gen_random_uuid(), queue_name text, priority integer, serialized_params jsonb,
    performed_at timestamp, finished_at timestamp, error text, created_at timestamp not null default now(),
    batch_id uuid, batch_callback_id uuid, retried_good_job_id uuid, executions_count integer, job_class text
);
create index on good_jobs (batch_id) where batch_id is not null;
--> a batch is enqueued, and a job without one
insert into good_job_batches (id, on_finish, enqueued_at) values (':run1', 'MailReport', now());
insert into good_jobs (job_class, batch_id, queue_name) select 'MailJob', ':run1', i from generate_series(1, 6) as i;
insert into good_jobs (job_class) values ('Alone');
--= :run1: 0 of 6
--> two succeed; one failed and is retried, in its own row; one was retried as a row of its own
update good_jobs set performed_at = now(), finished_at = now(), executions_count = 1 where queue_name in ('1', '6');
update good_jobs set executions_count = 1, error = 'no' where queue_name = '2';
insert into good_jobs (id, job_class, batch_id, queue_name) values (':run9', 'MailJob', ':run1', '5');
update good_jobs set finished_at = now(), error = 'no', retried_good_job_id = ':run9' where queue_name = '3';
--= :run1: 2 of 6
--> one is cleaned up before the end: it leaves the total
delete from good_jobs where queue_name = '6';
--= :run1: 1 of 5
--> the retries succeed, one is discarded, and the callback runs
update good_jobs set finished_at = now(), executions_count = 2, error = null where queue_name in ('2', '5');
update good_jobs set performed_at = now(), finished_at = now(), executions_count = 5, error = 'Timeout: no'
where queue_name = '4';
update good_job_batches set discarded_at = now(), finished_at = now();
insert into good_jobs (job_class, batch_callback_id, finished_at) values ('MailReport', ':run1', now());
--= :run1: 4 of 5, 1 failed
--| :run1 | MailReport | failed
--| MailJob | completed | 0 | created started completed |
--| MailJob | completed | 1 | created completed |
--| MailJob | failed | 4 | created started completed | Timeout: no
--> pruned: old jobs are cleaned up, discarded ones are kept, then those as well
delete from good_jobs where error is null;
delete from good_jobs where batch_id is not null;
--> pruned: and old batches
delete from good_job_batches;
--= :run1: gone
--> every task
insert into good_job_batches (id) values (':run2') on conflict do nothing;
insert into good_jobs (batch_id, performed_at, finished_at, error)
select
    ':run2', case when word = 'running' then now() end,
    case when word in ('succeeded', 'discarded') then now() end, case when word = 'discarded' then 'no' end
from every;
--: completed succeeded; failed discarded; open queued, running
--> every workflow
insert into good_job_batches (description, enqueued_at, finished_at, discarded_at)
select
    word, case when word <> 'made' then now() end, case when word in ('finished', 'discarded') then now() end,
    case when word in ('discarded', 'discards') then now() end
from every
returning id::text, description;
--: completed finished; failed discarded; initiated made; running enqueued, discards
