create schema pgflow;
create table pgflow.runs (
    run_id uuid primary key default gen_random_uuid(), flow_slug text not null default 'crawl',
    status text not null default 'started', started_at timestamptz not null default now(),
    completed_at timestamptz, failed_at timestamptz
);
create table pgflow.step_states (
    flow_slug text, run_id uuid not null references pgflow.runs (run_id), step_slug text not null,
    status text not null default 'created', created_at timestamptz not null default now(), started_at timestamptz,
    completed_at timestamptz, failed_at timestamptz, skipped_at timestamptz, error_message text,
    primary key (run_id, step_slug)
);
--> two flows start with all their steps
insert into pgflow.runs (run_id) values (':run1'), (':run2');
insert into pgflow.step_states (run_id, step_slug)
select run_id, unnest(array['fetch', 'parse', 'notify', 'store']) from pgflow.runs;
--= :run1: 0 of 4; :run2: 0 of 4
--> steps are done, one is skipped; a task of the other run is tried again, which its step does not show, and fails
update pgflow.step_states set status = 'started', started_at = now() where step_slug = 'fetch';
update pgflow.step_states set status = 'completed', completed_at = now()
where step_slug in ('fetch', 'parse') and run_id = ':run1';
update pgflow.step_states set status = 'skipped', skipped_at = now() where step_slug = 'notify' and completed_at is null
and run_id = ':run1';
update pgflow.step_states set status = 'failed', failed_at = now(), error_message = 'no'
where step_slug = 'fetch' and run_id = ':run2';
update pgflow.runs set status = 'failed', failed_at = now() where run_id = ':run2';
--= :run1: 2 of 3; :run2: 0 of 4, 1 failed
--> the run ends
update pgflow.step_states set status = 'completed', completed_at = now() where step_slug = 'store' and run_id = ':run1';
update pgflow.runs set status = 'completed', completed_at = now() where status = 'started';
--= :run1: 3 of 3
--| :run1 | crawl | completed
--| :run2 | crawl | failed
--| fetch | completed | | created started completed |
--| fetch | failed | | created started completed | no
--| notify | pending | | created |
--| parse | completed | | created completed |
--| parse | pending | | created |
--| store | completed | | created completed |
--| store | pending | | created |
--> pruned: what is old goes, steps first
delete from pgflow.step_states where run_id = ':run1';
--> pruned: then runs
delete from pgflow.runs where run_id = ':run1';
--= :run1: gone
--> every task
insert into pgflow.runs (run_id) values (':run3') on conflict do nothing;
insert into pgflow.step_states (run_id, step_slug, status) select ':run3', gen_random_uuid()::text, word from every;
--: completed completed; failed failed; ignored skipped; open created, started
--> every workflow
insert into pgflow.runs (status) select word from every returning run_id::text, status;
--: completed completed; failed failed; running started
