create schema dbos;
create table dbos.workflow_status (
    workflow_uuid text primary key default gen_random_uuid(), status text, name text, output text, error text,
    created_at bigint not null default extract(epoch from now()) * 1000, updated_at bigint, completed_at bigint,
    recovery_attempts bigint default 0, queue_name text, started_at_epoch_ms bigint, parent_workflow_id text
);
create index on dbos.workflow_status (parent_workflow_id) where parent_workflow_id is not null;
--> a workflow puts children into a queue
insert into dbos.workflow_status (workflow_uuid, status, name)
values ('w', 'PENDING', 'ingest'), ('alone', 'SUCCESS', 'ping');
insert into dbos.workflow_status (workflow_uuid, status, name, parent_workflow_id)
select 'w-' || i, 'ENQUEUED', 'page', 'w' from generate_series(1, 5) as i;
--= w: 0 of 5; alone: 0 of 0
--> they run; one is recovered after its process died
update dbos.workflow_status set status = 'PENDING', recovery_attempts = 1, started_at_epoch_ms = created_at
where parent_workflow_id = 'w';
update dbos.workflow_status set status = 'SUCCESS', completed_at = created_at where workflow_uuid = 'w-1';
update dbos.workflow_status set status = 'ENQUEUED', recovery_attempts = 2 where workflow_uuid = 'w-2';
update dbos.workflow_status set status = 'ERROR', error = 'no', completed_at = created_at where workflow_uuid = 'w-3';
update dbos.workflow_status set status = 'CANCELLED' where workflow_uuid = 'w-4';
update dbos.workflow_status set status = 'MAX_RECOVERY_ATTEMPTS_EXCEEDED' where workflow_uuid = 'w-5';
--= w: 1 of 5, 2 failed, 1 cancelled
--> the recovered one succeeds, the cancelled one is resumed
update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid = 'w-2';
update dbos.workflow_status set status = 'ENQUEUED' where workflow_uuid = 'w-4';
update dbos.workflow_status set status = 'SUCCESS' where workflow_uuid in ('w', 'w-4');
--= w: 3 of 5, 2 failed
--| w | ingest | completed
--| alone | ping | completed
--| page | completed | 0 | created started completed |
--| page | completed | 0 | created started |
--| page | completed | 1 | created started |
--| page | failed | 0 | created started completed | no
--| page | failed | 0 | created started |
--> pruned: retention deletes the children that succeeded
delete from dbos.workflow_status where parent_workflow_id is not null and status = 'SUCCESS';
--> every task
insert into dbos.workflow_status (workflow_uuid, status) values ('w', 'PENDING') on conflict do nothing;
insert into dbos.workflow_status (status, parent_workflow_id) select word, 'w' from every;
--: completed SUCCESS; failed ERROR, MAX_RECOVERY_ATTEMPTS_EXCEEDED, RETRIES_EXCEEDED; cancelled CANCELLED
--: open PENDING, ENQUEUED, DELAYED
--> every workflow
insert into dbos.workflow_status (status) select word from every returning workflow_uuid, status;
--: completed SUCCESS; failed ERROR, MAX_RECOVERY_ATTEMPTS_EXCEEDED, RETRIES_EXCEEDED; cancelled CANCELLED
--: initiated ENQUEUED, DELAYED; running PENDING
