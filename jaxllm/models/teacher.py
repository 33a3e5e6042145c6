"""A model and its teacher: for distillation, and for a reference that is computed as training goes."""

from __future__ import annotations

from typing import Any

import jax
from flax import nnx

from jaxllm.params import Rules
from jaxllm.types import Batch, Metrics


class Taught(nnx.Module):
    """A student, under its own parameter names, with a `teacher` whose names begin with "teacher.".

    The teacher's parameters are given to the step as `frozen`: they are neither trained nor saved.
    """

    def __init__(self, student: Any, teacher: Any):
        self.body, self.teacher = student, teacher

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """The student's."""
        return self.body.hidden(batch, key)

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """The student's."""
        return self.body.head(hidden_ND)


def with_teacher(student: Rules, teacher: Rules) -> Rules:
    """The sharding rules of a `Taught` model, from those of its two parts."""
    return (*student, *((rf"teacher\.(?:{pattern})", spec) for pattern, spec in teacher))
