"""The helpers: functions that take a psycopg connection, never commit and never cache; written in ``pyapp.queries``."""

from pyapp import queries, standby
from pyapp.drive import sync

get_workflow = sync(queries.get_workflow)
get_workflows = sync(queries.get_workflows)
list_workflows = sync(queries.list_workflows)
list_tasks = sync(queries.list_tasks)
get_state = sync(queries.get_state)
list_stages = sync(queries.list_stages)
stage_progress = sync(queries.stage_progress)
get_forecasts = sync(queries.get_forecasts)
list_timeline = sync(queries.list_timeline)
list_burnup = sync(queries.list_burnup)
find_drift = sync(queries.find_drift)
progress_metrics = sync(queries.progress_metrics)
create_workflow = sync(queries.create_workflow)
add_tasks = sync(queries.add_tasks)
report_task = sync(queries.report_task)
report_tasks = sync(queries.report_tasks)
transition = sync(queries.transition)
advance = sync(queries.advance)
repair = sync(queries.repair)
archive = sync(queries.archive)
wal_position = sync(standby.wal_position)
wait_for_position = sync(standby.wait_for_position)
