-- What a table of the application's is: one row. Types are written with their schemas, but for those of pg_catalog, since
-- the search_path is pg_catalog by then; that of a column is the one below its domain.

select
    c.oid::bigint as oid,
    n.nspname as schema,
    c.relname as name,
    case when c.relkind = 'p' then (select count(*) - 1 from pg_partition_tree(c.oid)) end as partitions,
    (
        select coalesce(sum(greatest(p.reltuples, 0)), 0)::bigint
        from pg_class as p
        where p.oid = c.oid or p.oid in (select t.relid from pg_partition_tree(c.oid) as t where t.isleaf)
    ) as rows,
    case
        when c.relkind not in ('r', 'p') then 'is a view, an index or a foreign table: only tables can be adopted'
        when c.relpersistence = 't' then 'is a temporary table'
        when c.relispartition then 'is a partition: adopt the partitioned table that it belongs to'
        when c.relkind = 'r' and exists (select from pg_inherits as i where c.oid in (i.inhparent, i.inhrelid))
            then 'inherits from a table, or has heirs: what is written through another one could not be counted'
        when exists (
            select
            from pg_partition_tree(c.oid) as t
            join pg_class as p on p.oid = t.relid
            where p.relkind = 'f'
        ) then 'has foreign tables as partitions, whose rows could not be counted'
        when not pg_has_role(c.relowner, 'usage') then 'belongs to another role: only its owner can adopt it'
        when c.relforcerowsecurity and not exists (
            select from pg_roles as r where r.rolname = current_user and (r.rolsuper or r.rolbypassrls)
        ) then 'hides rows from its owner as well: adopt it as a role with bypassrls, or after'
            || ' alter table ... no force row level security'
    end as refusal,
    (
        select json_agg(
            json_build_object(
                'name', a.attname,
                'declared', format_type(a.atttypid, a.atttypmod),
                'type', format_type(coalesce(nullif(t.typbasetype, 0), t.oid), null),
                'generated', a.attgenerated,
                'expression', case when a.attgenerated <> '' then pg_get_expr(d.adbin, d.adrelid) end,
                'checks', (
                    select string_agg(format('(%%s) is not false', pg_get_expr(k.conbin, k.conrelid)), ' and ')
                    from pg_constraint as k
                    where k.conrelid = c.oid and k.contype = 'c' and k.conkey = array[a.attnum]
                )
            )
            order by a.attnum
        )
        from pg_attribute as a
        join pg_type as t on t.oid = a.atttypid
        left join pg_attrdef as d on d.adrelid = a.attrelid and d.adnum = a.attnum
        where a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
    ) as columns,
    (
        select coalesce(json_agg(k.columns), '[]')
        from (
            select json_agg(a.attname order by k.place) as columns
            from pg_index as i
            cross join unnest((i.indkey::int2[])[0:i.indnkeyatts - 1]) with ordinality as k (number, place)
            join pg_attribute as a on a.attrelid = i.indrelid and a.attnum = k.number
            where i.indrelid = c.oid and i.indisunique and i.indisvalid and i.indpred is null and i.indexprs is null
            group by i.indexrelid
        ) as k
    ) as unique,
    (
        select coalesce(json_agg(a.attname order by k.place), '[]')
        from pg_constraint as p
        cross join unnest(p.conkey) with ordinality as k (number, place)
        join pg_attribute as a on a.attrelid = p.conrelid and a.attnum = k.number
        where p.contype = 'p' and p.conrelid = c.oid
    ) as primary,
    (
        select coalesce(
            json_agg(
                json_build_object(
                    'here', (
                        select json_agg(a.attname order by k.place)
                        from unnest(f.conkey) with ordinality as k (number, place)
                        join pg_attribute as a on a.attrelid = f.conrelid and a.attnum = k.number
                    ),
                    'there', (
                        select json_agg(a.attname order by k.place)
                        from unnest(f.confkey) with ordinality as k (number, place)
                        join pg_attribute as a on a.attrelid = f.confrelid and a.attnum = k.number
                    ),
                    -- They stand behind the columns that it references, where it has any.
                    'rules', coalesce(
                        ', ' || lower(substring(pg_get_constraintdef(f.oid) from '(?:ON DELETE|ON UPDATE|DEFERRABLE).*$')), ''
                    )
                )
                order by f.conname
            ),
            '[]'
        )
        from pg_constraint as f
        where f.contype = 'f' and f.conrelid = c.oid and f.confrelid = %(other)s and f.conparentid = 0
    ) as foreign_keys
from pg_class as c
join pg_namespace as n on n.oid = c.relnamespace
where c.oid = %(table)s
