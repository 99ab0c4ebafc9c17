-- The table that has the triggers of an adoption, whatever it is called by now; else the one of that name.

select coalesce(
    (
        select t.tgrelid::bigint
        from pg_trigger as t
        join pg_proc as p on p.oid = t.tgfoid
        where
            p.pronamespace = to_regnamespace(%(schema)s)
            and p.proname = 'maintain_progress'
            and t.tgtype & 1 = 0
            and t.tgrelid not in (select i.inhrelid from pg_inherits as i)
            and to_regclass(%(tasks)s) is null
        limit 1
    ),
    to_regclass(%(tasks)s)::oid::bigint
)
