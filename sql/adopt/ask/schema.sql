-- Whether an adoption can lie in a schema: what else is in it, and whether it can be made.

select
    (
        select min(c.relname)
        from pg_class as c
        where
            c.relnamespace = n.oid
            and c.relkind in ('r', 'v', 'p')
            and not exists (select from pg_proc as p where p.proname = 'adoption' and p.pronamespace = n.oid)
    ) as other,
    n.oid is not null or has_database_privilege(current_database(), 'create') as may,
    current_database() as database,
    current_user as role
from (select) as x
left join pg_namespace as n on n.nspname = %(schema)s
