-- What is wrong with an expression, which is a check constraint of the temporary table %(checked)s: what changes by time
-- alone or by chance, and virtual columns, cannot be counted by triggers; a cast of text to JSON fails where one row holds
-- none, which is told and not refused.

select p.proname || ' changes by itself: that cannot be counted by triggers' as told, true as refused
from pg_constraint as c
cross join regexp_matches(c.conbin::text, ':funcid (\d+)', 'g') as m (ids)
join pg_proc as p on p.oid = m.ids[1]::oid
where
    c.conrelid = %(checked)s::regclass
    and (p.provolatile = 'v' or p.proname in ('now', 'transaction_timestamp', 'statement_timestamp'))
union all
select 'current_timestamp changes by itself: that cannot be counted by triggers', true
from pg_constraint as c
where c.conrelid = %(checked)s::regclass and c.conbin::text like '%%{SQLVALUEFUNCTION%%'
union all
select
    format('triggers cannot read the virtual column %%s: write its expression, %%s', a.attname, pg_get_expr(d.adbin, d.adrelid)),
    true
from pg_constraint as c
join pg_attribute as a on a.attnum = any (c.conkey) and a.attgenerated = 'v'
join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
where c.conrelid = %(checked)s::regclass and c.contype = 'c' and a.attrelid = %(table)s
union all
select 'one row whose text is no JSON would hide all others: write as_json(column) instead of a cast', false
from pg_constraint as c
where c.conrelid = %(checked)s::regclass and c.conbin::text ~ '\{COERCEVIAIO .*:resulttype (114|3802) '
