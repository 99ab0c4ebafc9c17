-- Writes to the published columns of a batch of workflows wherever they say something else. The guard has the last word on
-- what is written: it sees the counters once the row is locked. Returns what copy.sql does.

with batch as (
    select {workflow_keys_as_is}
    from {workflows} as workflow
    where {workflow_keys_known} and {beyond}
    order by {keys}
    limit {batch}
), changed as (
    update {workflows} as workflow
    set {publish_counter_set}
    from batch as b
    left join {schema}.workflow_counter as c on {c_is_b}
    where
        {workflow_is_b}
        and (c.agents_created is not null or c.key_1 is null)
        and {publish_counter_differs}
    returning 1
)
select (select count(*) from changed), (select count(*) from batch), {keys_as_text}
from batch
order by {last_keys}
limit 1
