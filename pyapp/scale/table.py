"""agent_task as it is now: what partitioning has to carry over, as SQL, and what stands in its way.

Everything is read from the catalog with an empty search_path, so that what PostgreSQL writes is qualified.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import Connection
from psycopg.rows import tuple_row

OLD = "public.agent_task"
NEW = "public.agent_task_partitioned"

_OID = f"'{OLD}'::regclass"
# Each row is a reason; the first that applies is told.
_REFUSALS = (
    # Rights, for the table and for the views that read it.
    "select format('%s belongs to %I: only its owner can do this', c.oid::regclass, pg_get_userbyid(c.relowner))"
    f" from pg_class as c where (c.oid = {_OID} or c.oid in (select v.oid from ({{views}}) as v))"
    " and not pg_has_role(c.relowner, 'usage')",
    f"select 'agent_task has heirs (inherits), which would be lost' from pg_inherits where inhparent = {_OID} limit 1",
    f"select 'agent_task inherits from ' || inhparent::regclass from pg_inherits where inhrelid = {_OID}",
    "select 'agent_task is not an ordinary table' from pg_class"
    f" where oid = {_OID} and (relkind <> 'r' or relpersistence <> 'p')",
    "select 'the primary key of agent_task is not (id)' where not exists (select from pg_constraint"
    f" where conrelid = {_OID} and contype = 'p' and pg_get_constraintdef(oid) = 'PRIMARY KEY (id)')",
    # What others have built on it.
    "select format('foreign key %I of %s points to agent_task by a key without workflow_id, which a partitioned table"
    " cannot keep: drop it first', conname, conrelid::regclass) from pg_constraint"
    f" where confrelid = {_OID} and contype = 'f'",
    "select format('index %s is unique without workflow_id, or an exclusion: a partitioned table cannot keep that',"
    " indexrelid::regclass) from pg_index"
    f" where indrelid = {_OID} and not indisprimary and (indisexclusion or indisunique and not exists ("
    f"select from pg_attribute as a where a.attrelid = {_OID} and a.attname = 'workflow_id'"
    " and a.attnum = any (indkey[0:indnkeyatts - 1])))",
    f"select format('index %s is invalid: drop it, or reindex', indexrelid::regclass) from pg_index"
    f" where indrelid = {_OID} and not indisvalid",
    f"select format('constraint %I is not validated', conname) from pg_constraint"
    f" where conrelid = {_OID} and not convalidated",
    f"select format('column %I is an identity column', attname) from pg_attribute"
    f" where attrelid = {_OID} and attidentity <> '' and not attisdropped",
    f"select format('trigger %I names transition tables and fires for each row, which partitions do not allow', tgname)"
    f" from pg_trigger where tgrelid = {_OID} and tgtype & 1 = 1"
    " and (tgoldtable is not null or tgnewtable is not null)",
    f"select 'agent_task is replicated by an index of its own (replica identity)' from pg_class"
    f" where oid = {_OID} and relreplident = 'i'",
    # A published table: the copy would be published as well, and afterwards each partition under its own name.
    "select format('publication %I publishes agent_task: take it out, and put it back afterwards with"
    " publish_via_partition_root', p.pubname) from pg_publication as p"
    " where p.puballtables or p.pubname in (select t.pubname from pg_publication_tables as t"
    " where t.schemaname = 'public' and t.tablename = 'agent_task')"
    " or exists (select from pg_publication_namespace as n where n.pnpubid = p.oid"
    " and n.pnnspid = 'public'::regnamespace)",
    f"select 'agent_task is written by a subscription: drop it first' from pg_subscription_rel where srrelid = {_OID}",
    # Whatever else depends on it, or on the type of its rows.
    "select pg_describe_object(d.classid, d.objid, d.objsubid) || ' depends on agent_task: drop it first'"
    " from pg_depend as d"
    f" left join pg_class as c on d.classid = 'pg_class'::regclass and c.oid = d.objid"
    f" left join pg_constraint as k on d.classid = 'pg_constraint'::regclass and k.oid = d.objid"
    f" left join pg_trigger as t on d.classid = 'pg_trigger'::regclass and t.oid = d.objid"
    f" left join pg_policy as y on d.classid = 'pg_policy'::regclass and y.oid = d.objid"
    f" left join pg_attrdef as f on d.classid = 'pg_attrdef'::regclass and f.oid = d.objid"
    f" left join pg_type as r on d.classid = 'pg_type'::regclass and r.oid = d.objid"
    " left join pg_rewrite as w on d.classid = 'pg_rewrite'::regclass and w.oid = d.objid"
    " left join pg_class as v on v.oid = w.ev_class"
    f" where (d.refclassid = 'pg_class'::regclass and d.refobjid = {_OID}"
    "  or d.refclassid = 'pg_type'::regclass and d.refobjid in"
    f"  (select u.oid from pg_type as u where u.typrelid = {_OID} or u.typelem in"
    f"  (select e.oid from pg_type as e where e.typrelid = {_OID}))"
    "  or d.refclassid = 'pg_constraint'::regclass and d.refobjid in"
    f"  (select conrelid_k.oid from pg_constraint as conrelid_k where conrelid_k.conrelid = {_OID}))"
    " and (c.relkind in ('i', 't') or c.relkind = 'S' and d.deptype = 'a') is not true"
    f" and (k.conrelid = {_OID}) is not true and (t.tgrelid = {_OID} or t.tgisinternal) is not true"
    f" and (y.polrelid = {_OID}) is not true and (f.adrelid = {_OID}) is not true"
    f" and (r.typrelid = {_OID} or r.typelem in (select e.oid from pg_type as e where e.typrelid = {_OID})) is not true"
    " and (v.relkind = 'v' and d.refclassid = 'pg_class'::regclass) is not true"
    " and d.classid <> 'pg_statistic_ext'::regclass",
)
_VIEWS = (
    "select distinct w.ev_class as oid from pg_depend as d join pg_rewrite as w on w.oid = d.objid"
    " join pg_class as c on c.oid = w.ev_class where d.classid = 'pg_rewrite'::regclass"
    f" and d.refclassid = 'pg_class'::regclass and d.refobjid = {_OID} and c.relkind = 'v'"
)


@dataclass(frozen=True)
class Shape:
    """What the copy is made of. A copy that was begun with another shape is of no use."""

    columns: Sequence[str]
    """Columns that are copied, quoted."""
    create: str
    options: str
    """Storage parameters of the partitions, with WITH, or nothing."""
    tuning: Sequence[str]
    """Statements on columns of the copy, once its partitions are there."""
    indexes: Sequence[tuple[str, str, str]]
    """Name now, name meanwhile, and the statement that makes it."""
    keys: Sequence[tuple[str, str]]
    """Foreign keys: name and definition."""
    partitions: int

    def partition(self, number: int) -> str:
        """Name a partition."""
        return f"agent_task_p{number:0{len(str(self.partitions - 1))}}"

    @property
    def all_partitions(self) -> list[str]:
        """Name all partitions, qualified."""
        return [f"public.{self.partition(number)}" for number in range(self.partitions)]


def refusal(conn: Connection[Any]) -> str | None:
    """Say why agent_task cannot be partitioned, or None."""
    for query in _REFUSALS:
        if rows := _rows(conn, query.replace("{views}", _VIEWS)):
            return str(rows[0][0])
    return None


def shape(conn: Connection[Any], partitions: int) -> Shape:
    """Read what the copy is to be made of."""
    columns = _rows(
        conn,
        "select quote_ident(attname), attgenerated <> '', attstattarget, attoptions from pg_attribute"
        f" where attrelid = {_OID} and attnum > 0 and not attisdropped order by attnum",
    )
    [(options, toast, space)] = _rows(
        conn,
        "select c.reloptions, t.reloptions, quote_ident(s.spcname) from pg_class as c"
        " left join pg_class as t on t.oid = c.reltoastrelid left join pg_tablespace as s on s.oid = c.reltablespace"
        f" where c.oid = {_OID}",
    )
    settings = [*(options or []), *(f"toast.{option}" for option in toast or [])]
    made = Shape(
        [name for name, generated, *_ in columns if not generated],
        f"create table {NEW} (like {OLD} including all excluding indexes) partition by hash (workflow_id)"
        + (f" tablespace {space}" if space else ""),
        f" with ({', '.join(settings)})" if settings else "",
        [],
        _indexes(conn),
        [
            (name, definition)
            for name, definition in _rows(
                conn,
                "select quote_ident(conname), pg_get_constraintdef(oid) from pg_constraint"
                f" where conrelid = {_OID} and contype = 'f' order by conname",
            )
        ],
        partitions,
    )
    tuning = [
        f"alter table only {table} alter column {name} set {what}"
        for name, _, target, given in columns
        for settings in [[option for option in given or [] if option.startswith("n_distinct")]]
        for what in (
            *([f"statistics {target}"] if target is not None and target >= 0 else []),
            *([f"({', '.join(settings)})"] if settings else []),
        )
        for table in (NEW, *made.all_partitions)
    ]
    return Shape(**{**made.__dict__, "tuning": tuning})


def _indexes(conn: Connection[Any]) -> list[tuple[str, str, str]]:
    """List the indexes but the primary key: constraints are made as constraints, with an index of the same name."""
    rows = _rows(
        conn,
        "select quote_ident(c.relname), pg_get_indexdef(i.indexrelid), pg_get_constraintdef(k.oid),"
        " format('CREATE %sINDEX %I ON %s USING ', case when i.indisunique then 'UNIQUE ' end, c.relname,"
        " i.indrelid::regclass)"
        " from pg_index as i join pg_class as c on c.oid = i.indexrelid"
        " left join pg_constraint as k on k.conindid = i.indexrelid and k.contype in ('p', 'u', 'x')"
        f" where i.indrelid = {_OID} and not i.indisprimary order by c.relname",
    )
    found = []
    for number, (name, definition, constraint, head) in enumerate(rows, 1):
        meanwhile = f"agent_task_partitioned_{number}"
        if constraint:
            statement = f"alter table {NEW} add constraint {meanwhile} {constraint}"
        else:
            unique = "unique " if head.startswith("CREATE UNIQUE") else ""
            statement = f"create {unique}index {meanwhile} on {NEW} using {definition.removeprefix(head)}"
        found.append((name, meanwhile, statement))
    return found


def rights(conn: Connection[Any]) -> list[str]:
    """Write the statements that give the copy the owner and the rights that agent_task has."""
    [(owner,)] = _rows(conn, f"select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = {_OID}")
    grants = _rows(
        conn,
        "select format('grant %s%s on public.agent_task to %s%s', a.privilege_type, a.columns,"
        " case a.grantee when 0 then 'public' else a.grantee::regrole::text end,"
        " case when a.is_grantable then ' with grant option' end)"
        " from (select x.privilege_type, '' as columns, x.grantee, x.is_grantable, c.relowner from pg_class as c"
        f" cross join aclexplode(c.relacl) as x where c.oid = {_OID} union all"
        " select x.privilege_type, format(' (%I)', t.attname), x.grantee, x.is_grantable, c.relowner"
        " from pg_class as c join pg_attribute as t on t.attrelid = c.oid"
        f" cross join aclexplode(t.attacl) as x where c.oid = {_OID} and not t.attisdropped) as a"
        " where a.grantee <> a.relowner",
    )
    return [f"alter table {OLD} owner to {owner}", *(text for (text,) in grants)]


def take_rights(conn: Connection[Any], tables: Sequence[str]) -> list[str]:
    """Write the statements that leave these tables to the owner of agent_task alone, whatever new tables come with."""
    [(owner,)] = _rows(conn, f"select quote_ident(pg_get_userbyid(relowner)) from pg_class where oid = {_OID}")
    statements = [f"alter table {table} owner to {owner}" for table in tables]
    grantees = _rows(
        conn,
        "select distinct c.oid::regclass::text, case x.grantee when 0 then 'public' else x.grantee::regrole::text end"
        " from pg_class as c cross join aclexplode(c.relacl) as x"
        " where c.oid = any (%s::regclass[]) and x.grantee <> c.relowner",
        [list(tables)],
    )
    return statements + [f"revoke all on {table} from {grantee}" for table, grantee in grantees]


def finish(conn: Connection[Any]) -> tuple[list[str], list[str]]:
    """Write the statements after which the copy, by now named agent_task, is what agent_task was.

    To be read before it is renamed. The first are for then, those of the second list for when the old table is gone.
    """
    views = _rows(
        conn,
        "select format('create or replace view %s%s as %s', v.oid::regclass,"
        " ' with (' || array_to_string(c.reloptions, ', ') || ')', pg_get_viewdef(v.oid))"
        f" from ({_VIEWS}) as v join pg_class as c on c.oid = v.oid order by v.oid",
    )
    sequences = _rows(
        conn,
        "select format('alter sequence %s owned by public.agent_task.%I', s.oid::regclass, a.attname)"
        " from pg_depend as d join pg_class as s on s.oid = d.objid and s.relkind = 'S'"
        f" join pg_attribute as a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid"
        f" where d.classid = 'pg_class'::regclass and d.deptype = 'a' and d.refobjid = {_OID}",
    )
    triggers = _rows(
        conn,
        "select pg_get_triggerdef(oid), case tgenabled when 'O' then null else format("
        "'alter table public.agent_task %s trigger %I', case tgenabled when 'D' then 'disable'"
        " when 'R' then 'enable replica' else 'enable always' end, tgname) end, format("
        "'comment on trigger %I on public.agent_task is %L', tgname, obj_description(oid, 'pg_trigger'))"
        f" from pg_trigger where tgrelid = {_OID} and not tgisinternal and tgname <> 'agent_task_change'"
        " order by tgname",
    )
    policies = _rows(
        conn,
        "select format('create policy %I on public.agent_task as %s for %s to %s%s%s', p.polname,"
        " case when p.polpermissive then 'permissive' else 'restrictive' end,"
        " case p.polcmd when 'r' then 'select' when 'a' then 'insert' when 'w' then 'update' when 'd' then 'delete'"
        " else 'all' end,"
        " (select string_agg(case r when 0 then 'public' else r::regrole::text end, ', ')"
        " from unnest(p.polroles) as r),"
        " ' using (' || pg_get_expr(p.polqual, p.polrelid) || ')',"
        " ' with check (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')')"
        f" from pg_policy as p where p.polrelid = {_OID} order by p.polname",
    )
    [(secured, forced, identity, comment)] = _rows(
        conn,
        "select relrowsecurity, relforcerowsecurity, relreplident::text,"
        " quote_literal(obj_description(oid, 'pg_class')) from pg_class"
        f" where oid = {_OID}",
    )
    statements = list[str]()
    for definition, state, described in triggers:
        statements += [definition, described, *([state] if state else [])]
    statements += [text for (text,) in policies]
    statements += [f"alter table {OLD} enable row level security"] * secured
    statements += [f"alter table {OLD} force row level security"] * forced
    statements.append(f"comment on table {OLD} is {comment or 'null'}")
    comments = _rows(
        conn,
        "select quote_ident(c.relname), quote_literal(obj_description(c.oid, 'pg_class')) from pg_index as i"
        f" join pg_class as c on c.oid = i.indexrelid where i.indrelid = {_OID}"
        " and obj_description(c.oid, 'pg_class') is not null",
    )
    statements += [f"comment on index public.{name} is {text}" for name, text in comments]
    statements += [
        f"alter table only {table} replica identity {'full' if identity == 'f' else 'nothing'}"
        for table in (OLD, *_partitions(conn))
        if identity in ("f", "n")
    ]
    return [text for (text,) in (*views, *sequences)], statements


def views(conn: Connection[Any]) -> list[str]:
    """Name the views that read agent_task."""
    return [name for (name,) in _rows(conn, f"select v.oid::regclass::text from ({_VIEWS}) as v order by 1")]


def carried_triggers(conn: Connection[Any]) -> list[str]:
    """Name the triggers of agent_task."""
    query = f"select tgname from pg_trigger where tgrelid = {_OID} and not tgisinternal order by 1"
    return [name for (name,) in _rows(conn, query)]


def _partitions(conn: Connection[Any]) -> list[str]:
    query = f"select relid::regclass::text from pg_partition_tree('{NEW}') where level > 0"
    return [name for (name,) in _rows(conn, query)]


def _rows(conn: Connection[Any], query: str, values: Any = None) -> list[Any]:
    return conn.cursor(row_factory=tuple_row).execute(query.encode(), values).fetchall()
