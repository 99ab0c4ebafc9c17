create type river_job_state as enum (
    'available', 'cancelled', 'completed', 'discarded', 'pending', 'retryable', 'running', 'scheduled'
);
create table river_job (
    id bigserial primary key, state river_job_state not null default 'available', kind text, errors jsonb[],
    args jsonb not null default '{}', attempt smallint not null default 0, max_attempts smallint not null default 25,
    priority smallint not null default 1, metadata jsonb not null default '{}', attempted_at timestamptz,
    created_at timestamptz not null default now(), finalized_at timestamptz
);
--> a workflow is inserted; what depends on others is pending
insert into river_job (kind, state, metadata)
select 'send', 'pending', jsonb_build_object('workflow_id', 'w', 'workflow_name', 'letters', 'task', 'task_' || i)
from generate_series(1, 5) as i;
insert into river_job (kind) values ('other');
--= w: 0 of 5
--> they run
update river_job set state = 'running', attempt = 1, attempted_at = now();
update river_job set state = 'completed', finalized_at = now() where id in (1, 5);
update river_job set state = 'retryable', errors = array['{"error": "no", "trace": ""}'::jsonb] where id = 2;
update river_job set state = 'cancelled', finalized_at = now() where id = 3;
update river_job set state = 'discarded', finalized_at = now() where id = 4;
--= w: 2 of 5, 1 failed, 1 cancelled
--> the cleaner deletes one before the end: it leaves the total
delete from river_job where id = 5;
--= w: 1 of 4, 1 failed, 1 cancelled
--> the discarded one is retried by hand, and the retries end
update river_job set state = 'available', finalized_at = null where id = 4;
update river_job set state = 'completed', attempt = 2, finalized_at = now() where id = 4;
update river_job set state = 'discarded', attempt = 25, finalized_at = now() where id = 2;
--= w: 2 of 4, 1 failed, 1 cancelled
--| w | letters | failed
--| task_1 | completed | 0 | created started completed |
--| task_2 | failed | 24 | created started completed | no
--| task_3 | cancelled | 0 | created started completed |
--| task_4 | completed | 1 | created started completed |
--> pruned: the cleaner deletes what is done, and later what was discarded
delete from river_job where state in ('completed', 'cancelled');
delete from river_job where state = 'discarded';
--> every task
insert into river_job (state, metadata) select word::river_job_state, '{"workflow_id": 1}' from every;
--: completed completed; failed discarded; cancelled cancelled; open available, pending, retryable, running, scheduled
