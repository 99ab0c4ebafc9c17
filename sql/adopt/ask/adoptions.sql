-- The schemas that hold an adoption. Only those of a role are believed that owns the database, of a superuser, or of one
-- whose rights the caller has anyway: their functions will be called.

select n.nspname
from pg_proc as p
join pg_namespace as n on n.oid = p.pronamespace
join pg_roles as r on r.oid = p.proowner
where
    p.proname = 'adoption'
    and p.pronargs = 0
    and obj_description(p.oid, 'pg_proc') = 'agent-progress: what was adopted, and how.'
    and (
        r.rolsuper
        or pg_has_role(p.proowner, 'member')
        or p.proowner = (select d.datdba from pg_database as d where d.datname = current_database())
    )
    and has_schema_privilege(n.oid, 'usage')
    and has_function_privilege(p.oid, 'execute')
order by n.nspname
