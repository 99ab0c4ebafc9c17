-- The back-fill: copies a batch of what was counted, which gives way to rows that are there. Nothing where the tasks were
-- truncated since. Returns how many rows it changed, how many there were, and the last key.

with still as (
    select c.truncated = s.truncated as good
    from {schema}.counting as c, {schema}.workflow_counted_since as s
    for share of c
), batch as (
    select w.*
    from {schema}.workflow_counted as w
    where {beyond} and (select good from still)
    order by {keys}
    limit {batch}
), changed as (
    insert into {schema}.workflow_counter (
        {keys}, agents_created, agents_completed, agents_failed, agents_cancelled, described
    )
    select {keys}, created, completed, failed, cancelled, described
    from batch
    order by {keys}
    on conflict ({keys}) do nothing
    returning 1
)
select (select count(*) from changed), (select count(*) from batch), {list:key_#::text}
from batch
order by {list:key_# desc}
limit 1
