-- Progress of a workflow with all that is below it, where the application's rows say what started what. Null numbers: one
-- of its workflows is not counted yet.

create or replace view {schema}.workflow_tree_progress
with (security_invoker = true)
as
select
    w.workflow_id,
    t.workflows,
    t.depth,
    {schema}.progress_percentage(t.agents_completed, t.agents_total) as progress,
    {schema}.progress_percentage(t.agents_completed, t.agents_total) as progress_percentage,
    t.agents_completed,
    t.agents_total,
    t.agents_created,
    t.agents_failed,
    t.agents_cancelled,
    t.agents_created - t.agents_completed - t.agents_failed - t.agents_cancelled as agents_open,
    t.agents_planned,
    {schema}.progress_percentage(
        t.agents_completed + t.agents_failed + t.agents_cancelled,
        t.agents_total
    ) as settled_percentage,
    t.last_updated_at
from {schema}.workflow_progress as w
cross join lateral (
    with recursive tree as (
        select
            w.workflow_id,
            1 as level,
            w.agents_completed,
            w.agents_total,
            w.agents_created,
            w.agents_failed,
            w.agents_cancelled,
            w.agents_planned,
            w.last_updated_at
        union all
        select
            c.workflow_id,
            n.level + 1,
            c.agents_completed,
            c.agents_total,
            c.agents_created,
            c.agents_failed,
            c.agents_cancelled,
            c.agents_planned,
            c.last_updated_at
        from tree as n
        cross join lateral (
            select
                p.workflow_id,
                p.agents_completed,
                p.agents_total,
                p.agents_created,
                p.agents_failed,
                p.agents_cancelled,
                p.agents_planned,
                p.last_updated_at
            from {schema}.workflow_progress as p
            where p.parent_id = n.workflow_id
            offset 0
        ) as c
        -- Ends the recursion where the application's rows make a cycle.
        where n.level < 64
    ), summed as (
        select
            count(*)::integer as workflows,
            max(n.level) as depth,
            bool_and(n.agents_created is not null) as counted,
            sum(n.agents_completed)::integer as agents_completed,
            sum(n.agents_total)::integer as agents_total,
            sum(n.agents_created)::integer as agents_created,
            sum(n.agents_failed)::integer as agents_failed,
            sum(n.agents_cancelled)::integer as agents_cancelled,
            sum(n.agents_planned)::integer as agents_planned,
            max(n.last_updated_at) as last_updated_at
        from tree as n
    )
    select
        s.workflows,
        s.depth,
        case when s.counted then s.agents_completed end as agents_completed,
        case when s.counted then s.agents_total end as agents_total,
        case when s.counted then s.agents_created end as agents_created,
        case when s.counted then s.agents_failed end as agents_failed,
        case when s.counted then s.agents_cancelled end as agents_cancelled,
        s.agents_planned,
        s.last_updated_at
    from summed as s
) as t;

comment on view {schema}.workflow_tree_progress is
    'Progress of each workflow and all below it, summed from what is stored of each; to be read for few workflows at a time.';
