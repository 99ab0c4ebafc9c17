create type v1_readable_status_olap as enum ('QUEUED', 'RUNNING', 'CANCELLED', 'FAILED', 'COMPLETED', 'EVICTED');
create table v1_tasks_olap (
    id bigint not null default (random() * 1e15)::bigint, inserted_at timestamptz not null default '2026-01-15',
    external_id uuid not null default gen_random_uuid(), workflow_run_id uuid not null, input jsonb,
    display_name text not null default 'some', additional_metadata jsonb, latest_retry_count integer not null default 0,
    readable_status v1_readable_status_olap not null default 'QUEUED', primary key (inserted_at, id)
) partition by range (inserted_at);
create table v1_tasks_olap_20260115 partition of v1_tasks_olap for values from ('2026-01-15') to ('2026-01-16');
--> a run starts
insert into v1_tasks_olap (id, workflow_run_id, display_name, additional_metadata)
select i, ':run1', 'step-' || i, '{"workflow_name": "crawl"}'
from generate_series(1, 4) as i;
--= :run1: 0 of 4
--> tasks end; one retries, one that waits is evicted; a task of the next day has a partition that is new
create table v1_tasks_olap_20260116 (like v1_tasks_olap including defaults including indexes);
alter table v1_tasks_olap attach partition v1_tasks_olap_20260116 for values from ('2026-01-16') to ('2026-01-17');
insert into v1_tasks_olap (id, inserted_at, workflow_run_id, display_name) values (5, '2026-01-16', ':run1', 'step-5');
update v1_tasks_olap set readable_status = 'COMPLETED' where id = 1;
update v1_tasks_olap set readable_status = 'RUNNING', latest_retry_count = 1 where id = 2;
update v1_tasks_olap set readable_status = 'FAILED', latest_retry_count = 3 where id = 3;
update v1_tasks_olap set readable_status = 'CANCELLED' where id = 4;
update v1_tasks_olap set readable_status = 'EVICTED' where id = 5;
--= :run1: 1 of 5, 1 failed, 1 cancelled
--> one of the past is deleted before the end: it leaves the total
insert into v1_tasks_olap (id, workflow_run_id, readable_status) values (6, ':run1', 'COMPLETED');
delete from v1_tasks_olap where id = 6;
--> the others succeed, and the failed one, replayed
update v1_tasks_olap set readable_status = 'COMPLETED' where id in (2, 3, 5);
--= :run1: 4 of 5, 1 cancelled
--| :run1 | crawl | completed
--| step-1 | completed | 0 | created |
--| step-2 | completed | 1 | created |
--| step-3 | completed | 3 | created |
--| step-4 | cancelled | 0 | created |
--| step-5 | completed | 0 | created |
--> pruned: rows are deleted (see the page for partitions that are dropped)
delete from v1_tasks_olap;
--> every task
insert into v1_tasks_olap (workflow_run_id, readable_status) select ':run2', word::v1_readable_status_olap from every;
--: completed COMPLETED; failed FAILED; cancelled CANCELLED; open QUEUED, RUNNING, EVICTED
