create type state_type as enum (
    'SCHEDULED', 'PENDING', 'RUNNING', 'COMPLETED', 'FAILED', 'CANCELLED', 'CRASHED', 'PAUSED', 'CANCELLING'
);
create table flow_run (
    id uuid primary key default gen_random_uuid(), created timestamptz not null default now(), updated timestamptz,
    name varchar not null default 'some', state_type state_type, start_time timestamptz, end_time timestamptz
);
create table task_run (
    id uuid primary key default gen_random_uuid(), created timestamptz not null default now(), name varchar not null,
    state_type state_type, run_count integer not null default 0, start_time timestamptz, end_time timestamptz,
    flow_run_id uuid references flow_run (id) on delete cascade
);
create index on task_run (flow_run_id);
--> a flow starts, and its tasks; another is late; a task runs outside of a flow
insert into flow_run (id, name, state_type) values
    (':run1', 'wise-otter', 'RUNNING'),
    (':run2', 'late-newt', 'SCHEDULED');
insert into task_run (name, state_type, run_count, start_time, flow_run_id)
select 'load-' || i, 'RUNNING', 1, now(), ':run1' from generate_series(0, 3) as i;
insert into task_run (name, state_type) values ('alone', 'COMPLETED');
--= :run1: 0 of 4; :run2: 0 of 0
--> one is completed, one waits for its retry, one crashes, one is being cancelled
update task_run set state_type = 'COMPLETED', end_time = now() where name = 'load-0';
update task_run set state_type = 'SCHEDULED' where name = 'load-1';
update task_run set state_type = 'CRASHED', end_time = now() where name = 'load-2';
update task_run set state_type = 'CANCELLING' where name = 'load-3';
--= :run1: 1 of 4, 1 failed
--> the retry succeeds, the cancelled one is gone
update task_run set state_type = 'COMPLETED', run_count = 2, end_time = now() where name = 'load-1';
update task_run set state_type = 'CANCELLED', end_time = now() where name = 'load-3';
update flow_run set state_type = 'CRASHED' where name = 'wise-otter';
--= :run1: 2 of 4, 1 failed, 1 cancelled
--| :run1 | wise-otter | failed
--| :run2 | late-newt | initiated
--| load-0 | completed | 0 | created started completed |
--| load-1 | completed | 1 | created started completed |
--| load-2 | failed | 0 | created started completed |
--| load-3 | cancelled | 0 | created started completed |
--> pruned: the run is deleted
delete from flow_run where name = 'wise-otter';
--= :run1: gone
--> every task
insert into flow_run (id) values (':run3') on conflict do nothing;
insert into task_run (name, state_type, flow_run_id) select 'some', word::state_type, ':run3' from every;
--: completed COMPLETED; failed FAILED, CRASHED; cancelled CANCELLED
--: open SCHEDULED, PENDING, RUNNING, PAUSED, CANCELLING
--> every workflow
insert into flow_run (state_type) select word::state_type from every returning id::text, state_type::text;
--: completed COMPLETED; failed FAILED, CRASHED; cancelled CANCELLED; paused PAUSED; initiated SCHEDULED, PENDING
--: running RUNNING, CANCELLING
