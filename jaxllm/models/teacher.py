"""A model with a frozen teacher beside it: for distillation, and for a reference computed during training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
from flax import nnx

from jaxllm.params import Limits, ModelSpec, Rules, bind, split
from jaxllm.types import Batch, Metrics, Params

PREFIX = "teacher."
"""The prefix of the names of a teacher's parameters."""


class Taught(nnx.Module):
    """A student, under its own parameter names, with a `teacher` whose names begin with "teacher."."""

    def __init__(self, student: Any, teacher: Any):
        self.body, self.teacher = student, teacher

    @property
    def limits(self) -> Limits:
        """The student's and the teacher's."""
        return self.body.limits + self.teacher.limits

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The student's hidden_BTD and metrics."""
        return self.body.hidden(batch, key)

    def transitions(self) -> Any:
        """Those of the student's CRF; None for one without."""
        own = getattr(self.body, "transitions", None)
        return own() if own else None

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """The student's logits_NV."""
        return self.body.head(hidden_ND)


def add_teacher(student: ModelSpec, teacher: ModelSpec) -> ModelSpec:
    """Describes a `Taught` model, whose teacher is frozen: neither trained nor saved.

    If both are the same spec, the teacher is what the student starts from: a reference. The student's parameters keep
    their names, so they can be bound to the student's graphdef.
    """
    both = Taught(bind(student.graphdef, student.graphdef.abstract), bind(teacher.graphdef, teacher.graphdef.abstract))
    graphdef, _ = split(both)

    def init(key: jax.Array) -> Params:
        return student.init(key) | {PREFIX + name: x for name, x in teacher.init(key).items()}

    def load(shardings: Mapping[str, jax.sharding.Sharding]) -> Params:
        below = {name.removeprefix(PREFIX): at for name, at in shardings.items() if name.startswith(PREFIX)}
        found = teacher.load_own(below)
        return student.load_own(shardings) | {PREFIX + name: x for name, x in found.items()}

    frozen = student.frozen | {PREFIX + name for name in teacher.graphdef.abstract}
    return ModelSpec(graphdef, init, join_rules(student.rules, teacher.rules), load, frozen)


def join_rules(student: Rules, teacher: Rules) -> Rules:
    """The sharding rules of a `Taught` model, from those of student and teacher."""
    return (*student, *((rf"teacher\.(?:{pattern})", spec) for pattern, spec in teacher))
