-- Default privileges, such as Supabase's, must not open what is new here to anybody but its owner. To read may be
-- granted: what was granted later stays, since only the transaction that makes the schema comes to this;
-- and comes back where views were made anew.

do $agent_progress$
declare
    statement text;
begin
    for statement in
        select format('revoke all on %s %s from %s', o.kind, o.name, coalesce(quote_ident(r.rolname), 'public'))
        from pg_namespace as n
        cross join lateral (
            select 'table', c.oid::regclass::text, c.relowner, c.relacl
            from pg_class as c
            where c.relnamespace = n.oid and c.relkind in ('r', 'v')
            union all
            select 'function', p.oid::regprocedure::text, p.proowner, p.proacl
            from pg_proc as p
            where p.pronamespace = n.oid
        ) as o (kind, name, owner, acl)
        cross join lateral aclexplode(o.acl) as a
        left join pg_roles as r on r.oid = a.grantee
        where
            n.nspname = '{prefix}'
            and n.xmin = pg_current_xact_id()::xid
            and a.grantee <> o.owner
            and (o.kind = 'table' or a.grantee <> 0)
    loop
        execute statement;
    end loop;
    execute coalesce(current_setting('agent_progress.granted', true), '');
end
$agent_progress$;
