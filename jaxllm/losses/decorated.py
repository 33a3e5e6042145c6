"""What the decorators of losses have in common: a function, its arguments, and a check of what it returns."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar

import jax
import jax.numpy as jnp

from jaxllm.types import InputError, Metrics


@dataclasses.dataclass(frozen=True, eq=False)
class Decorated:
    """A function of logits or log-probabilities, made a LossFn. Subclasses say how to read what the function wants."""

    name: str
    fn: Callable[..., Any]
    own: Mapping[str, inspect.Parameter]
    """The arguments of `fn`."""
    shared: Mapping[str, inspect.Parameter] = dataclasses.field(default_factory=dict)
    """The arguments that every loss of this kind has."""
    reference: bool = False
    """Whether it reads the log-probabilities of a reference model."""
    couples_batch: bool = False
    """Whether the loss of an example depends on the other examples of the batch."""
    needs: tuple[str, ...] = ()
    """What else it reads: "kl" (of a teacher), "log_sum_sq", "mismatched" (answers to other prompts)."""

    unit: ClassVar[str] = ""
    """What it gives one number for: token, pair or answer."""
    axes: ClassVar[int] = 1
    """How many leading axes of the inputs what it returns has."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "__doc__", self.fn.__doc__)

    @property
    def __signature__(self) -> inspect.Signature:
        leading = list(inspect.signature(type(self).__call__).parameters.values())[1:-1]
        return inspect.Signature([*leading, *self.own.values(), *self.shared.values()])

    @property
    def kind(self) -> str:
        """The key of this loss's group in `python -m jaxllm losses`."""
        return f"{self.unit}s"

    def __call__(self, model: Any, batch: Any, key: jax.Array | None = None, **arguments: Any) -> Metrics:
        raise NotImplementedError

    def couples(self, arguments: Mapping[str, Any]) -> bool:
        """Whether, with these arguments, the loss of an example depends on the other examples of the batch."""
        return self.couples_batch

    def refers(self, arguments: Mapping[str, Any]) -> bool:
        """Whether, with these arguments, it reads the log-probabilities of a reference."""
        return self.reference

    def each(self, *inputs: Any, **arguments: Any) -> jax.Array:
        """One number per token, pair or answer."""
        return self.checked(self.fn(*inputs, **arguments), inputs)

    def example(self, **arguments: Any) -> tuple[Any, ...]:
        """Shapes and dtypes of inputs that `each` takes, to trace it without a model."""
        raise NotImplementedError

    def checked(self, found: Any, inputs: Any) -> jax.Array:
        """What `fn` returned for these inputs. Raises InputError where that is not one floating-point number each."""
        shape = jax.tree.leaves(inputs)[0].shape[: self.axes]  # every input leads with tokens, pairs or answers
        got = getattr(found, "shape", None)
        if got == shape and jnp.issubdtype(found.dtype, jnp.floating):
            return found
        if got is None:
            what = "None" if found is None else f"a {type(found).__name__}"
        elif got == shape:
            what = f"{found.dtype} numbers, which have no gradient"
        else:
            what = str(list(got)) if got else "a scalar"
        raise InputError(f"{self.place} returned {what}; one number per {self.unit}, {list(shape)}, is wanted")

    @property
    def place(self) -> str:
        """FILE.py:FUNCTION, for messages."""
        code = getattr(inspect.unwrap(self.fn), "__code__", None)
        return f"{Path(code.co_filename).name}:{self.name}" if code else self.name


def example_array(*shape: int, dtype: Any = jnp.float32) -> Any:
    """A shape and dtype that stands for an array where a loss is traced."""
    return jax.ShapeDtypeStruct(shape, dtype)
