-- The partitions of a table, at every level.

select n.nspname, c.relname
from pg_partition_tree(to_regclass(%(table)s)) as p
join pg_class as c on c.oid = p.relid
join pg_namespace as n on n.oid = c.relnamespace
where p.level > 0
order by c.oid
