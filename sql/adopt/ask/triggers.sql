-- The triggers of an adoption, wherever they are.

select t.tgname as name, n.nspname as schema, c.relname as relation, t.tgenabled::text as state
from pg_trigger as t
join pg_proc as p on p.oid = t.tgfoid
join pg_class as c on c.oid = t.tgrelid
join pg_namespace as n on n.oid = c.relnamespace
where p.pronamespace = to_regnamespace(%(schema)s) and n.oid <> p.pronamespace and t.tgparentid = 0
order by t.tgname, c.oid
