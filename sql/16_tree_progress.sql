-- A workflow with all that is below it, one by one and summed up. Nothing is stored for a tree: its root would be as
-- busy as all its agents together. What is stored of its workflows is read, never a task. These views read only
-- workflow_progress, so that the schema of adopted tables has them from this text as well: there a workflow that is not
-- counted yet has null counters, and so has its tree.

create or replace view public.workflow_tree
with (security_invoker = true)
as
select
    r.workflow_id as root_id,
    t.level,
    t.place,
    (t.node).workflow_id,
    (t.node).name,
    (t.node).description,
    (t.node).type,
    (t.node).status,
    (t.node).current_stage,
    (t.node).priority,
    (t.node).progress,
    (t.node).progress_percentage,
    (t.node).agents_completed,
    (t.node).agents_total,
    (t.node).agents_created,
    (t.node).agents_failed,
    (t.node).agents_cancelled,
    (t.node).agents_open,
    (t.node).agents_planned,
    (t.node).settled_percentage,
    (t.node).progress_calculation_method,
    (t.node).trace_id,
    (t.node).created_at,
    (t.node).updated_at,
    (t.node).completed_at,
    (t.node).last_updated_at,
    (t.node).parent_id
from public.workflow_progress as r
cross join lateral (
    -- The recursion carries the rows: joined afterwards, each workflow would be looked up twice.
    with recursive tree as (
        select
            r.workflow_id,
            r.created_at,
            r as node,
            1 as level
        union all
        select
            c.workflow_id,
            c.created_at,
            c.node,
            n.level + 1
        from tree as n
        -- A range of one, with offset 0: so the children are found by index, one workflow after the other, whatever
        -- the statistics say; by equality, one wide tree would make the planner read the whole table for each workflow.
        cross join lateral (
            select
                p.workflow_id,
                p.created_at,
                p as node
            from public.workflow_progress as p
            where p.parent_id between n.workflow_id and n.workflow_id
            offset 0
        ) as c
        -- The deepest tree; also ends the recursion in a cycle that was written past the triggers.
        where n.level < 64
    ) search depth first by created_at, workflow_id set path
    select
        n.node,
        n.level,
        row_number() over (order by n.path)::integer as place
    from tree as n
) as t;

comment on view public.workflow_tree is
    'Each workflow with all below it, one row each; to be read by root_id, of few at a time, ordered by place.';
comment on column public.workflow_tree.root_id is 'The workflow at the top, which has a row of its own.';
comment on column public.workflow_tree.level is 'Number of the level, from 1 at the top to 64.';
comment on column public.workflow_tree.place is
    'Place in the tree, from 1 at the top: below each workflow what it started, the oldest first.';

create or replace view public.workflow_tree_progress
with (security_invoker = true)
as
select
    w.workflow_id,
    t.workflows,
    t.depth,
    public.progress_percentage(t.agents_completed, t.agents_total) as progress,
    public.progress_percentage(t.agents_completed, t.agents_total) as progress_percentage,
    t.agents_completed,
    -- Plans may add up to more than an integer holds.
    case when t.agents_total > 2147483647 then 2147483647 else t.agents_total end::integer as agents_total,
    t.agents_created,
    t.agents_failed,
    t.agents_cancelled,
    t.agents_created - t.agents_completed - t.agents_failed - t.agents_cancelled as agents_open,
    case when t.agents_planned > 2147483647 then 2147483647 else t.agents_planned end::integer as agents_planned,
    public.progress_percentage(
        t.agents_completed + t.agents_failed + t.agents_cancelled,
        t.agents_total
    ) as settled_percentage,
    t.last_updated_at
from public.workflow_progress as w
cross join lateral (
    select
        count(*)::integer as workflows,
        max(n.level) as depth,
        case when count(*) = count(n.agents_created) then sum(n.agents_completed)::integer end as agents_completed,
        case when count(*) = count(n.agents_created) then sum(n.agents_total) end as agents_total,
        case when count(*) = count(n.agents_created) then sum(n.agents_created)::integer end as agents_created,
        case when count(*) = count(n.agents_created) then sum(n.agents_failed)::integer end as agents_failed,
        case when count(*) = count(n.agents_created) then sum(n.agents_cancelled)::integer end as agents_cancelled,
        sum(n.agents_planned) as agents_planned,
        max(n.last_updated_at) as last_updated_at
    from public.workflow_tree as n
    where n.root_id = w.workflow_id
) as t;

comment on view public.workflow_tree_progress is
    'Progress of each workflow and all below it, summed from what is stored of each; to be read for few workflows at a time.';
comment on column public.workflow_tree_progress.workflow_id is 'The workflow at the top: all numbers are of it and all below it.';
comment on column public.workflow_tree_progress.workflows is 'Number of workflows, this one included; 1 if nothing is below it.';
comment on column public.workflow_tree_progress.depth is 'Number of levels, 1 to 64; 1 if nothing is below it.';
comment on column public.workflow_tree_progress.progress is
    'Share of completed in all tasks of the tree, 0 to 100 percent; 100 only when all are completed, 0 only when none is.';
comment on column public.workflow_tree_progress.progress_percentage is 'The same as progress.';
comment on column public.workflow_tree_progress.agents_completed is 'Tasks of the tree with status completed.';
comment on column public.workflow_tree_progress.agents_total is
    'Tasks that progress is measured against: the sum of agents_total of each workflow.';
comment on column public.workflow_tree_progress.agents_created is 'All tasks of the tree, whatever their status.';
comment on column public.workflow_tree_progress.agents_failed is 'Tasks of the tree with status failed.';
comment on column public.workflow_tree_progress.agents_cancelled is 'Tasks of the tree with status cancelled.';
comment on column public.workflow_tree_progress.agents_open is 'Tasks of the tree that are pending, assigned or running.';
comment on column public.workflow_tree_progress.agents_planned is
    'Sum of the planned numbers of tasks of the workflows that have one; null if none has.';
comment on column public.workflow_tree_progress.settled_percentage is
    'Share of completed, failed and cancelled tasks in agents_total in percent, 0 to 100, rounded as progress is.';
comment on column public.workflow_tree_progress.last_updated_at is
    'When progress, the total or a counter of one of the workflows last moved.';
