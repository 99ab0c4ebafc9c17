-- Writes to the published columns of a batch of workflows wherever they say something else. The guard has the last word on
-- what is written: it sees the counters once the row is locked. Returns what copy.sql does.

with batch as (
    select {workflow_list:@sql as key_#}
    from {workflows} as workflow
    where {workflow_and:@sql is not null} and {beyond}
    order by {keys}
    limit {batch}
), changed as (
    update {workflows} as workflow
    set {publish_counter_set}
    from batch as b
    left join {schema}.workflow_counter as c on {c_is_b}
    where
        {workflow_and:@sql = b.key_#}
        and (c.agents_created is not null or c.key_1 is null)
        and {publish_counter_differs}
    returning 1
)
select (select count(*) from changed), (select count(*) from batch), {list:key_#::text}
from batch
order by {list:key_# desc}
limit 1
