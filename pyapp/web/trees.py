"""Trees of workflows: what the API answers, what a stream follows, and what a page shows of them."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache

from pyapp import aio
from pyapp.models import SETTLED, Key, TreeNode, TreeProgress
from pyapp.statements import array as as_array
from pyapp.web.answers import Listed
from pyapp.web.reads import read_workflows
from pyapp.web.rows import selected
from pyapp.web.shape import Shape
from pyapp.web.wire import Conn

FOLLOWED = 5000
"""So many workflows of the trees that are followed are followed."""
_READ = 5000  # workflows of a tree, for a page
_SHOWN = 150  # workflows on a page: more take it long, and nobody reads them
_SIBLINGS = 25  # of those below one workflow
_OPEN = 30  # workflows of a tree that is shown unfolded


@dataclass(frozen=True, slots=True)
class Ancestor:
    """A workflow above another one."""

    workflow_id: Key
    name: str | None


@dataclass(slots=True)
class Branch:
    """A workflow on a page, and those below it that are shown."""

    node: TreeNode
    stalled: bool = False
    troubled: bool = False
    """Whether it or something below it has failed, or has come to a halt."""
    below: list[Branch] = field(default_factory=list)
    hidden: int = 0
    """How many right below it are not shown."""
    opened: bool = False
    workflow: Listed | None = None
    """It as it is listed, with the numbers of all below it, where it is shown."""

    @property
    def active(self) -> bool:
        """Whether the workflow has not ended."""
        return self.node.status not in SETTLED

    @property
    def rank(self) -> tuple[bool, bool, bool]:
        """Its place among its siblings: those first that need attention, then those above such ones, those at work."""
        return not self.in_trouble, not self.troubled, not self.active

    @property
    def in_trouble(self) -> bool:
        """Whether the workflow itself has failed, has failed agents, or has come to a halt."""
        return self.stalled or self.node.status == "failed" or bool(self.node.agents_failed and self.active)


_PATH = """
    with recursive path as (
        select p.workflow_id, p.parent_id, p.name, 1 as level from {workflow_progress} as p where p.workflow_id = %s
        union all
        select a.workflow_id, a.parent_id, a.name, n.level + 1
        from path as n cross join lateral (
            select p.workflow_id, p.parent_id, p.name from {workflow_progress} as p
            where p.workflow_id = n.parent_id offset 0
        ) as a
        where n.level < 64
    )
    select n.workflow_id, n.name from path as n where n.level > 1 order by n.level desc
"""


async def read_path(conn: Conn, shape: Shape, workflow_id: str) -> list[Ancestor]:
    """Read what is above a workflow, the root first."""
    return await selected(shape, Ancestor, _PATH).fetch(conn, [workflow_id])


async def members(conn: Conn, shape: Shape, roots: Iterable[str]) -> dict[str, set[str]]:
    """Find the workflows of trees by the key of their top, itself among them; those near the tops first."""
    found = await (await conn.execute(_members(shape), [as_array(roots), FOLLOWED])).fetchall()
    return {top: set(members) for top, members in found}


@cache
def _members(shape: Shape) -> bytes:
    return shape.query("""
        with recursive tree as (
            select p.workflow_id as top, p.workflow_id, 1 as level from {workflow_progress} as p
            where p.workflow_id = any (%s)
            union all
            select n.top, c.workflow_id, n.level + 1
            from tree as n cross join lateral (
                select p.workflow_id from {workflow_progress} as p
                where p.parent_id between n.workflow_id and n.workflow_id offset 0
            ) as c
            where n.level < 64
        )
        select n.top::text, array_agg(n.workflow_id::text)
        from (select n.top, n.workflow_id from tree as n limit %s) as n
        group by n.top
    """).as_bytes()


async def read_branches(conn: Conn, shape: Shape, workflow_id: str) -> tuple[TreeProgress, Branch]:
    """Read a tree for a page: summed at each workflow, what needs attention first, and cut to what can be read."""
    progress = await aio.tree_progress(conn, workflow_id, schema=shape.schema)
    nodes = await aio.get_tree(conn, workflow_id, limit=_READ, schema=shape.schema)
    # Only those whose numbers rest can have come to a halt, and few are looked at.
    # What is not counted yet has no time.
    resting = (node for node in nodes if node.status == "running" and node.last_updated_at)
    running = sorted(resting, key=lambda node: node.last_updated_at)
    forecasts = await aio.get_forecasts(conn, [node.workflow_id for node in running[:100]], schema=shape.schema)
    stalled = {key for key, forecast in forecasts.items() if forecast.stalled}
    branches = {node.workflow_id: Branch(node, stalled=node.workflow_id in stalled) for node in nodes}
    for node in reversed(nodes):  # depth first: what is below a workflow comes after it
        branch = branches[node.workflow_id]
        branch.troubled |= branch.in_trouble
        branch.below.sort(key=lambda one: one.rank)
        if node.level > 1 and node.parent_id is not None and (above := branches.get(node.parent_id)):
            above.below.insert(0, branch)
            above.troubled |= branch.troubled
    top = branches[nodes[0].workflow_id]
    shown = {str(branch.node.workflow_id): branch for branch in _cut(top, small=len(nodes) <= _OPEN)}
    for key, workflow in (await read_workflows(conn, shape, shown, shown)).items():
        shown[key].workflow = workflow
    return progress, top


def _cut(top: Branch, *, small: bool) -> list[Branch]:
    """Keep what a page can show, level by level, and unfold what needs attention, or all of a small tree."""
    left, level, shown = _SHOWN, [top], list[Branch]()
    top.opened = True
    opened = len(top.below)
    while level:
        shown += level
        for branch in level:
            kept = branch.below[: min(_SIBLINGS, left)]
            branch.hidden = len(branch.below) - len(kept)
            branch.below = kept
            left -= len(kept)
        level = [one for branch in level for one in branch.below]
        for branch in level:
            if small or (branch.troubled and opened < _OPEN):
                branch.opened = True
                opened += len(branch.below)
    return shown
