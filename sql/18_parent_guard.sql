-- Agents start agents: workflow.parent_id makes a tree. It may be set later, but no workflow comes below itself, and a
-- tree has at most 64 levels. Ancestors are locked on the way up: of two sessions that would close a cycle together,
-- one waits for the other and then sees it.
-- SQLSTATE WP004: the parent would make a cycle, or too deep a tree.

create or replace function public.guard_parent()
returns trigger
language plpgsql
security definer
set search_path = pg_catalog, pg_temp
set enable_seqscan = off -- as in 09
set row_security = off
as $$
#variable_conflict use_variable
declare
    deepest constant integer := 64;
    ancestor uuid := new.parent_id;
    levels integer := 1; -- of the tree, down to the deepest workflow below this one
begin
    if tg_op = 'UPDATE' then
        with recursive below as (
            select new.id as id, 1 as level
            union all
            select w.id, b.level + 1
            from below as b
            join public.workflow as w on w.parent_id = b.id
            where b.level <= deepest
        )
        select max(b.level) into levels from below as b;
    end if;
    while ancestor is not null loop
        levels := levels + 1;
        if ancestor = new.id or levels > deepest then
            raise exception using
                errcode = 'WP004',
                message = case
                    when ancestor = new.id then format('workflow %s cannot come below itself', new.id)
                    else format('workflow %s cannot come below %s: a tree has at most %s levels', new.id, new.parent_id, deepest)
                end,
                hint = 'Choose another parent.';
        end if;
        select w.parent_id into ancestor from public.workflow as w where w.id = ancestor for share;
    end loop;
    return new;
end
$$;

comment on function public.guard_parent() is 'Refuses a parent that would make a cycle, or a tree of more than 64 levels.';

revoke execute on function public.guard_parent() from public;

create or replace trigger workflow_parent_insert
    before insert on public.workflow
    for each row
    when (new.parent_id is not null)
    execute function public.guard_parent();

comment on trigger workflow_parent_insert on public.workflow is 'Keeps trees at most 64 levels deep.';

create or replace trigger workflow_parent_update
    before update of parent_id on public.workflow
    for each row
    when (new.parent_id is not null and new.parent_id is distinct from old.parent_id)
    execute function public.guard_parent();

comment on trigger workflow_parent_update on public.workflow is 'Keeps trees free of cycles and at most 64 levels deep.';
