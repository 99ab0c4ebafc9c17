-- The back-fill: one pass over the tasks, which counts them into a table beside.

set local statement_timeout = 0;

drop table if exists {schema}.workflow_counted, {schema}.workflow_counted_since;

create table {schema}.workflow_counted_since as
select c.truncated from {schema}.counting as c;

create table {schema}.workflow_counted as
select
    {t_keys},
    sum(t.tasks)::integer as created,
    sum(t.tasks * (t.outcome = 1)::integer)::integer as completed,
    sum(t.tasks * (t.outcome = 2)::integer)::integer as failed,
    sum(t.tasks * (t.outcome = 3)::integer)::integer as cancelled,
    {first_described}::jsonb as described
from (
    select {t_keys}, t.outcome, count(*) as tasks, {first_described}::text as described
    from {described_tasks} as t
    group by {t_keys}, t.outcome
) as t
where t.outcome is not null and ({keys}) is not null
group by {t_keys};

create index on {schema}.workflow_counted ({keys});
