-- Views, functions, columns and the like of others that use what is ours; an index on as_json() goes along with it.

with ours as (
    select 'pg_class'::regclass as kind, c.oid from pg_class as c where c.relnamespace = to_regnamespace(%(schema)s)
    union all
    select 'pg_type'::regclass, t.oid from pg_type as t where t.typnamespace = to_regnamespace(%(schema)s)
    union all
    select 'pg_proc'::regclass, p.oid from pg_proc as p where p.pronamespace = to_regnamespace(%(schema)s)
    union all
    select 'pg_rewrite'::regclass, r.oid
    from pg_rewrite as r
    join pg_class as c on c.oid = r.ev_class
    where c.relnamespace = to_regnamespace(%(schema)s)
    union all
    select 'pg_attrdef'::regclass, d.oid
    from pg_attrdef as d
    join pg_class as c on c.oid = d.adrelid
    where c.relnamespace = to_regnamespace(%(schema)s)
)
select distinct pg_describe_object(d.classid, d.objid, d.objsubid)
from pg_depend as d
join ours as o on (o.kind, o.oid) = (d.refclassid, d.refobjid)
where
    d.deptype = 'n'
    and d.classid <> 'pg_trigger'::regclass
    and (d.classid, d.objid) not in (select u.kind, u.oid from ours as u)
    and not exists (select from pg_index as i where d.classid = 'pg_class'::regclass and i.indexrelid = d.objid)
