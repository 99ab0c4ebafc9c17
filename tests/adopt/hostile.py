"""The same tables with names that are hard to quote."""

import re
from dataclasses import replace

from .schemas import SHAPES
from .shape import STATES, Shape

# What other people's names can do to SQL that is made of them, and to variables of ours that are called the same.
_HOSTILE = (
    "new_workflow",
    "tg_op",
    "change",
    'say "when"',
    "o'hara; drop table x --",
    "$$",
    "$agent_progress$",
    "100% {} %s %(key)s",
    "back\\slash",
    "ümläut 工作流 🚀",
    "user",
    "found",
    "select",
    "task",
    "sign",
    "public.workflow as w",
    "their_key",
    "uuid",
    "where id =",
    "x" * 63,
    "line\nbreak\u2028and\ttab",
    ":name :'name' :\"name\"",
    "workflow",
    "several",
    "new",
    "old_status",
    "id",
    "status",
    "candidate",
    "counted",
    "u",
    "w",
    "s",
)
_HOSTILE_LABELS = ("it's", 'a "b"', "100%s {}", "b\\c, $$", "完了 \U0001f680")


def hostile(shape: Shape, turn: int) -> Shape:
    """Give everything in a shape a name that is hard to quote; ``turn`` shifts which gets which."""
    names = {
        name: 'my "own" schema\'s $$ %s'
        if name == "schema" and turn % 2
        else actual
        if name == "schema"
        else _HOSTILE[(turn * 5 + place) % len(_HOSTILE)]
        for place, (name, actual) in enumerate(shape.names.items())
    }
    numbers = any(label.isdigit() for label in shape.labels.values())
    short = "char(10)" in shape.ddl
    labels = shape.labels
    if labels and not numbers:
        labels = {state: label[: 10 if short else None] for state, label in zip(STATES, _HOSTILE_LABELS, strict=True)}
    return replace(
        shape,
        title=f"hostile {shape.title}",
        ddl=f"create schema if not exists <schema>;{shape.ddl}",
        names=names,
        labels=labels,
        options=tuple(re.sub(r"(?<!task\.)<(?=\w)", "task.<", option) for option in shape.options),
    )


HOSTILE_SHAPES = tuple(hostile(shape, turn) for turn, shape in enumerate(SHAPES))
