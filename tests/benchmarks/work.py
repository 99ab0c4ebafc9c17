"""The statements that are measured, each written once for pgbench and for the loop inside the server.

{task} and {workflow} are the numbers of a task and of its workflow; base.sql says how ids follow from them.
"""

TASK = "('20000000-0000-4000-8000-' || {task})::uuid"
WORKFLOW = "('10000000-0000-4000-8000-' || {workflow})::uuid"
FIRST_ID = 100_000_000_000
# Spreads consecutive numbers over the table; a prime, so that each number comes once.
STRIDE = 48_271

Work = tuple[str, ...]

COMPLETE: Work = (f"update public.agent_task set status = 'completed', completed_at = now() where id = {TASK}",)
START: Work = (f"update public.agent_task set status = 'running', started_at = now() where id = {TASK}",)
INSERT: Work = (f"insert into public.agent_task (workflow_id, agent_type) values ({WORKFLOW}, 'inserted')",)
TOUCH: Work = (f"update public.workflow set version = version + 1 where id = {WORKFLOW}",)

# What an application sends that counts by itself, and only that: one counter, no percentage, no care for what other
# writers do. Nothing that stores a counter can do less.
_COUNT_COMPLETED = "update public.workflow as w set agents_completed = w.agents_completed + 1"
_COUNT_INSERTED = "update public.workflow as w set agents_created = w.agents_created + 1"
COMPLETE_TWO: Work = ("begin", *COMPLETE, f"{_COUNT_COMPLETED} where w.id = {WORKFLOW}", "commit")
COMPLETE_CTE: Work = (
    f"with task as ({COMPLETE[0]} returning workflow_id) {_COUNT_COMPLETED} from task where w.id = task.workflow_id",
)
INSERT_CTE: Work = (
    f"with task as ({INSERT[0]} returning workflow_id) {_COUNT_INSERTED} from task where w.id = task.workflow_id",
)

# Many tasks in one statement; {where} says which.
COMPLETE_MANY = "update public.agent_task set status = 'completed', completed_at = now() where {where}"
COMPLETE_MANY_CTE = f"""
with task as ({COMPLETE_MANY} returning workflow_id),
change as (select workflow_id, count(*) as completed from task group by workflow_id)
update public.workflow as w
set agents_completed = w.agents_completed + change.completed
from change
where w.id = change.workflow_id
"""
