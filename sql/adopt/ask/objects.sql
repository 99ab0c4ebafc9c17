-- The functions, views and tables that an adoption has, with the bodies of functions.

select 'function' as kind, p.proname as name, case when p.prosqlbody is null then p.prosrc else '' end as body
from pg_proc as p
where p.pronamespace = to_regnamespace(%(schema)s) and p.proname <> 'adoption'
union all
select case c.relkind when 'v' then 'view' else 'table' end, c.relname, ''
from pg_class as c
where c.relnamespace = to_regnamespace(%(schema)s) and c.relkind in ('r', 'v')
