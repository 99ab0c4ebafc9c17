-- A partitioned table, and its partitions at every level; nothing where the table is not partitioned.

select n.nspname, c.relname, p.level
from pg_partition_tree(to_regclass(%(table)s)) as p
join pg_class as c on c.oid = p.relid
join pg_namespace as n on n.oid = c.relnamespace
order by c.oid
