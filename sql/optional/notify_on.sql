-- Optional: says on channel agent_progress which workflow changed, its id as payload, once per workflow and transaction
-- (equal notifications of a transaction are one). In a schema other than public the channel is agent_progress_SCHEMA.
-- Not part of the schema, since a transaction that notifies takes a lock of the whole database when it commits: about
-- 10,700 -> 4,500 transactions a second where each of them counts. Counting (04) fires it with the owner's rights:
-- hence pg_temp last in its search_path, where a writer's types cannot hide the real ones.

create or replace function public.notify_progress()
returns trigger
language plpgsql
set search_path = pg_catalog, pg_temp
as $$
begin
    perform pg_notify(
        case
            when tg_table_schema = 'public' then 'agent_progress'
            -- A channel has at most 63 bytes.
            when octet_length(convert_to(tg_table_schema, 'UTF8')) > 48
                then 'agent_progress_' || md5(convert_to(tg_table_schema, 'UTF8'))
            else 'agent_progress_' || tg_table_schema
        end,
        coalesce(new.id, old.id)::text
    );
    return null;
end
$$;

comment on function public.notify_progress() is
    'Notifies that a workflow changed, on channel agent_progress, in another schema on agent_progress_SCHEMA.';

revoke execute on function public.notify_progress() from public;

create or replace trigger workflow_notify
    after insert or update or delete on public.workflow
    for each row
    execute function public.notify_progress();

comment on trigger workflow_notify on public.workflow is 'Notifies of changes; agent-progress notify off removes it.';
