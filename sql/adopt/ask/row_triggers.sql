-- The application's row triggers before updates of the table of workflows, and whether they fire after our own.

select format('%%I (%%s)', t.tgname, p.oid::regproc) as trigger, t.tgname > %(guard)s as late
from pg_trigger as t
join pg_proc as p on p.oid = t.tgfoid
where
    t.tgrelid = %(table)s
    and not t.tgisinternal
    and t.tgtype & (1 | 2 | 16) = (1 | 2 | 16)
    and p.pronamespace <> coalesce(to_regnamespace(%(schema)s), 0)
order by t.tgname
