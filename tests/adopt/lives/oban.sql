create type oban_job_state as enum (
    'available', 'suspended', 'scheduled', 'executing', 'retryable', 'completed', 'discarded', 'cancelled'
);
create table oban_jobs (
    id bigserial primary key, state oban_job_state not null default 'available', worker text, args jsonb default '{}',
    errors jsonb[] not null default '{}', attempt integer not null default 0, max_attempts integer not null default 20,
    priority integer not null default 0, meta jsonb default '{}', attempted_at timestamp, completed_at timestamp,
    inserted_at timestamp not null default timezone('UTC', now()), discarded_at timestamp, cancelled_at timestamp
);
--> a workflow and a batch are inserted, and a job of neither
insert into oban_jobs (worker, meta, state)
select 'My.Worker', jsonb_build_object('workflow_id', 'w', 'workflow_name', 'import', 'name', 'step_' || i), 'scheduled'
from generate_series(1, 5) as i;
insert into oban_jobs (id, worker, meta) values (11, 'My.Mail', '{"batch_id": "b"}'), (12, 'My.Mail', '{}');
--= w: 0 of 5; b: 0 of 1
--> they run
update oban_jobs set state = 'executing', attempt = 1, attempted_at = now();
update oban_jobs set state = 'completed', completed_at = now() where id in (1, 5);
update oban_jobs set state = 'retryable', errors = errors || '{"error": "no", "attempt": 1}'::jsonb where id = 2;
update oban_jobs set state = 'cancelled', cancelled_at = now() where id = 3;
update oban_jobs set state = 'discarded', discarded_at = now(), errors = errors || '{"error": "no"}'::jsonb
where id = 4;
--= w: 2 of 5, 1 failed, 1 cancelled
--> the pruner deletes one before the end: it leaves the total
delete from oban_jobs where id = 5;
--= w: 1 of 4, 1 failed, 1 cancelled
--> the retry succeeds; the discarded one is retried by hand, and snoozes
update oban_jobs set state = 'completed', attempt = 2, completed_at = now() where id in (2, 11);
update oban_jobs set state = 'available', max_attempts = 21, discarded_at = null where id = 4;
update oban_jobs set state = 'executing', attempt = 2 where id = 4;
update oban_jobs set state = 'scheduled', attempt = 1, meta = meta || '{"snoozed": 1}' where id = 4;
--= w: 2 of 4, 1 cancelled; b: 1 of 1
--> it is discarded again
update oban_jobs set state = 'discarded', attempt = 2, discarded_at = now(),
    errors = errors || '{"error": "never"}'::jsonb
where id = 4;
--= w: 2 of 4, 1 failed, 1 cancelled
--| w | import | failed
--| b | b | completed
--| My.Mail | completed | 1 | created started completed |
--| step_1 | completed | 0 | created started completed |
--| step_2 | completed | 1 | created started completed |
--| step_3 | cancelled | 0 | created started completed |
--| step_4 | failed | 1 | created started completed | never
--> pruned: the pruner deletes what is done
delete from oban_jobs where state in ('completed', 'cancelled', 'discarded');
--> every task
insert into oban_jobs (state, meta) select word::oban_job_state, '{"workflow_id": 1}' from every;
--: completed completed; failed discarded; cancelled cancelled
--: open available, suspended, scheduled, executing, retryable
