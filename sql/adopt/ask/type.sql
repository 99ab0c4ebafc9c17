-- The type of an expression on a row, which is that below a domain, and whether a key can be of it: of an enum, or of what is
-- built in and has an order. Bytes have no text that people type.

select
    case t.oid
        when 'bpchar'::regtype then 'bpchar'
        when 'varchar'::regtype then 'text'
        else format_type(t.oid, null)
    end as type,
    t.typtype = 'e' or t.typtype = 'b' and t.oid <> 'bytea'::regtype and exists (
        select
        from pg_opclass as o
        join pg_am as m on m.oid = o.opcmethod
        where
            m.amname = 'btree'
            and o.opcnamespace = 'pg_catalog'::regnamespace
            and o.opcintype = case t.oid when 'varchar'::regtype then 'text'::regtype else t.oid end
    ) as fits
from pg_type as d
join pg_type as t on t.oid = coalesce(nullif(d.typbasetype, 0), d.oid)
where d.oid = (select pg_typeof({value}) from (select) as x left join {table} as {row} on false)
