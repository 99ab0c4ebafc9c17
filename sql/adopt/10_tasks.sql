-- Counters are trusted where our triggers kept them: a table without them was made anew, and is counted anew. The lock
-- waits for those who write without our triggers, and where there are no rows, nothing is left to be counted later.

lock table {tasks} in share row exclusive mode;

-- Former releases counted anew where a key was of another type, too.
update {schema}.counting set counts = {counts} where counts = {former_counts};

with anew as (
    update {schema}.counting
    set
        counts = {counts},
        live = not exists (select from {tasks}),
        truncated = truncated + 1
    where
        counts is distinct from {counts}
        or not exists (
            select
            from pg_trigger
            where tgrelid = {tasks_name}::regclass and tgname = '{prefix}_update' and tgenabled in ('O', 'A')
        )
    returning true
)
delete from {schema}.workflow_counter where exists (select from anew);
