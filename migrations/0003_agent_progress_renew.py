"""Make functions, views and triggers from sql/: the last migration of a release, which plain ``yoyo apply`` runs.

``agent-progress migrate`` does the same in smaller transactions, whether or not this is applied, and records it.
"""

from yoyo import step

from pyapp import renew

__depends__ = {"0002_agent_progress_rules"}

steps = [step(renew.renew_at_once, renew.drop)]
