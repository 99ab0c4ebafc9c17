create schema pgboss;
create type pgboss.job_state as enum ('created', 'retry', 'active', 'completed', 'cancelled', 'failed');
create table pgboss.job (
    id uuid not null default gen_random_uuid(), name text not null, data jsonb, output jsonb,
    state pgboss.job_state not null default 'created', retry_limit integer not null default 2,
    retry_count integer not null default 0, priority integer not null default 0, started_on timestamptz,
    created_on timestamptz not null default now(), completed_on timestamptz, primary key (name, id)
) partition by list (name);
create table pgboss.j1 partition of pgboss.job for values in ('mail');
--> jobs are sent, some to a queue that is new
insert into pgboss.job (name, data)
select 'mail', jsonb_build_object('workflow_id', 'w', 'workflow_name', 'Letters') from generate_series(1, 4);
create table pgboss.j2 (like pgboss.job including defaults including constraints);
alter table pgboss.j2 add primary key (name, id);
alter table pgboss.job attach partition pgboss.j2 for values in ('bill');
insert into pgboss.job (name, data)
values ('bill', '{"workflow_id": "w"}'), ('bill', '{"workflow_id": "w", "n": 2}'), ('bill', null);
--= w: 0 of 6
--> jobs of a queue are taken, completed, and one is cancelled; failing inserts the job anew
update pgboss.job set state = 'active', started_on = now() where name = 'mail';
update pgboss.job set state = 'completed', completed_on = now()
where id in (select id from pgboss.job where name = 'mail' order by id limit 2);
update pgboss.job set state = 'cancelled', completed_on = now() where name = 'bill' and data ->> 'n' = '2';
with failed as (
    delete from pgboss.job where id in (select id from pgboss.job where state = 'active' limit 1) returning *
)
insert into pgboss.job (id, name, data, state, retry_count) select id, name, data, 'retry', 0 from failed;
--= w: 2 of 6, 1 cancelled
--> one that is done is deleted before the end: it leaves the total
delete from pgboss.job where id in (select id from pgboss.job where state = 'completed' limit 1);
--= w: 1 of 5, 1 cancelled
--> the retry fails for good, the others succeed
with failed as (delete from pgboss.job where state = 'retry' returning *)
insert into pgboss.job (id, name, data, state, retry_count, completed_on, output)
select id, name, data, 'failed', 2, now(), '{"message": "no", "stack": "…"}' from failed;
update pgboss.job set state = 'completed' where state in ('created', 'active') and data is not null;
--= w: 3 of 5, 1 failed, 1 cancelled
--| w | Letters | failed
--| bill | cancelled | 0 | created completed |
--| bill | completed | 0 | created |
--| mail | completed | 0 | created started completed |
--| mail | completed | 0 | created started |
--| mail | failed | 2 | created completed | no
--> pruned: what is done is deleted
delete from pgboss.job where state in ('completed', 'cancelled');
--> pruned: a queue is deleted with its failed job
delete from pgboss.job;
--> every task
insert into pgboss.job (name, data, state) select 'mail', '{"workflow_id": 1}', word::pgboss.job_state from every;
--: completed completed; failed failed; cancelled cancelled; open created, retry, active
