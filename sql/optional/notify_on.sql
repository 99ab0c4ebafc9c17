-- Optional: says on channel agent_progress which workflow changed, its id as payload, once per workflow and transaction
-- (equal notifications of a transaction are one). Not part of the schema, since a transaction that notifies takes a lock of
-- the whole database when it commits: from 10,700 to 4,500 transactions a second where each of them counts. Counting (03)
-- fires it with the owner's rights: hence pg_temp last in its search_path, where types of the writer hide none of ours.

create or replace function public.notify_progress()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify('agent_progress', coalesce(new.id, old.id)::text);
    return null;
end
$$;

comment on function public.notify_progress() is 'Notifies on channel agent_progress that a workflow changed.';

revoke execute on function public.notify_progress() from public;

create or replace trigger workflow_notify
    after insert or update or delete on public.workflow
    for each row
    execute function public.notify_progress();

comment on trigger workflow_notify on public.workflow is 'Notifies of changes; agent-progress notify off removes it.';
