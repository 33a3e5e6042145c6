"""A toy model and random examples, in rows of any order, to run a loss on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from jaxllm.data.packing import Example, collate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout, add_mismatched
from jaxllm.data.rollouts import Completion, RolloutRows, Sampled
from jaxllm.losses import over_tokens, token_logprobs
from jaxllm.models.teacher import Taught
from jaxllm.params import GraphDef, bind, split
from jaxllm.types import Batch, InputError, Labelled, LossFn, Metrics, Params, Rollouts, value

VOCABULARY, WIDTH, EXAMPLES, LENGTH = 13, 6, 8, 64

DRIFT = (-0.6, -0.32, -0.1, 0.1, 0.32, 0.6)
"""How far policies may be apart, in nats: inside and outside the usual clips, and not so near that bfloat16 decides."""

SINGLE = tuple((i,) for i in range(EXAMPLES))
PACKED = tuple((i, i + 1) for i in range(0, EXAMPLES, 2))


class Toy(nnx.Module):
    """Logits from a token and its position."""

    def __init__(self, seed: int, vocabulary: int, width: int, out: int, chained: bool = False):
        rng = np.random.default_rng(seed)
        self.embed = nnx.Param(jnp.asarray(rng.normal(size=(vocabulary, width)), jnp.float32))
        self.out = nnx.Param(jnp.asarray(rng.normal(size=(width, out)), jnp.float32))
        chain = ((out,), (out, out), (out,)) if chained else ()
        self.chain = nnx.List([nnx.Param(jnp.asarray(rng.normal(size=shape), jnp.float32)) for shape in chain])

    def hidden(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, Metrics]:
        """A nonlinear function of both, [B, T, D]."""
        x_BTD = self.embed[...][batch.tokens_BT]
        return jnp.tanh(x_BTD + jnp.cos(batch.positions_BT)[..., None].astype(x_BTD.dtype)), {}

    def head(self, hidden_ND: jax.Array) -> jax.Array:
        """logits_NV, float32 or better."""
        logits_NV = hidden_ND @ self.out[...]
        return logits_NV.astype(jnp.promote_types(logits_NV.dtype, jnp.float32))

    def transitions(self) -> tuple[jax.Array, ...] | None:
        """A CRF's scores of the first label, of a label after another, and of the last."""
        return tuple(x[...] for x in self.chain) or None


@dataclasses.dataclass(frozen=True)
class Bench:
    """A loss, a toy model for it, and examples that can be laid out in rows in any order."""

    loss: LossFn
    kind: str
    graphdef: GraphDef
    params: Params
    teacher: Params
    lay: Callable[[Sequence[Sequence[int]], int], Any]
    """(examples of each row, tokens of a row) -> a batch of EXAMPLES rows, numpy."""

    def sums(self, params: Params, batch: Any) -> Metrics:
        """The loss's metrics."""
        model = bind(self.graphdef, {**self.teacher, **params})
        return self.loss(model, jax.tree.map(jnp.asarray, batch))

    def __call__(self, params: Params, batch: Any) -> jax.Array:
        return jnp.asarray(value(self.sums(params, batch)["loss"]))


def bench(loss: LossFn, kind: str, *, seed: int = 0, vocabulary: int = VOCABULARY, width: int = WIDTH) -> Bench:
    """A bench for a loss of this kind."""
    rng = np.random.default_rng(seed)
    out = 1 if kind == "rewards" else vocabulary
    student = Toy(seed + 1, vocabulary, width, out, chained=kind == "sentences")
    model = Taught(student, Toy(seed + 2, vocabulary, width, out))
    graphdef, params = split(model)
    teacher = {name: x for name, x in params.items() if name.startswith("teacher.")}
    makers = {"tokens": _tokens, "sentences": _tokens, "texts": _texts, "completions": _completions}
    lay = makers.get(kind, _answers)(rng, loss, kind, vocabulary)
    if kind == "completions":
        lay = _near(model, lay)
    return Bench(loss, kind, graphdef, {n: x for n, x in params.items() if n not in teacher}, teacher, lay)


def _tokens(rng: np.random.Generator, loss: LossFn, kind: str, vocabulary: int) -> Callable[..., Batch]:
    examples = []
    for _ in range(EXAMPLES):
        length = int(rng.integers(4, 12))
        tokens, targets = rng.integers(0, vocabulary, (2, length)).astype(np.int32)
        weights = (rng.random(length) < 0.7).astype(np.float32)
        weights[0] = 1.0
        examples.append(Example(tokens, targets, weights))
    return lambda rows, length: collate([[examples[i] for i in row] for row in rows], length, EXAMPLES)


def _texts(rng: np.random.Generator, loss: LossFn, kind: str, vocabulary: int) -> Callable[..., Labelled]:
    plain = _tokens(rng, loss, kind, vocabulary)
    numbers = np.where(rng.random((EXAMPLES, vocabulary)) < 0.5, 0, rng.exponential(1.0, (EXAMPLES, vocabulary)))

    def lay(rows: Sequence[Sequence[int]], length: int) -> Labelled:
        batch, slots = plain(rows, length), max(map(len, rows))
        targets = np.zeros((EXAMPLES, slots, vocabulary), np.float32)
        for r, row in enumerate(rows):
            targets[r, : len(row)] = numbers[list(row)]
        which = np.maximum(np.asarray(batch.segments_BT) - 1, 0)
        return Labelled(dataclasses.replace(batch, targets_BT=which), targets)  # type: ignore[arg-type]

    return lay


def _answers(rng: np.random.Generator, loss: LossFn, kind: str, vocabulary: int) -> Callable[..., Any]:
    def text(low: int, high: int) -> np.ndarray:
        return rng.integers(0, vocabulary, int(rng.integers(low, high))).astype(np.int32)

    def answer(side: int) -> Answer:
        tokens = text(2, 6)
        return Answer(tokens, np.ones(len(tokens), bool), side)

    groups = [Group(text(2, 5), (answer(1), answer(-1)), margin=float(rng.random())) for _ in range(EXAMPLES)]
    # An absent pair: its weight is 0, so nothing may be learned from it.
    groups[-1] = dataclasses.replace(groups[-1], weight=0.0)
    if "mismatched" in getattr(loss, "needs", ()):
        groups = add_mismatched(groups, 16)
    layout = Layout(share=False, closed=kind == "rewards")
    sizes = [[layout.size(answer) for answer in group.answers] for group in groups]
    logps = [[-rng.exponential(2.0, size).astype(np.float32) for size in group] for group in sizes]
    rows = AnswerRows(groups, layout, logps)
    slots = 2 * max(len(group.answers) for group in groups)
    return lambda layout, length: rows.collate(layout, length, EXAMPLES, slots)


def _completions(rng: np.random.Generator, loss: LossFn, kind: str, vocabulary: int) -> Callable[..., Any]:
    def text(low: int, high: int) -> np.ndarray:
        return rng.integers(0, vocabulary, int(rng.integers(low, high))).astype(np.int32)

    def completion() -> Completion:
        tokens = text(2, 7)
        trained = rng.random(len(tokens)) < 0.8
        ref, sampler = (rng.normal(0, by, len(tokens)).astype(np.float32) for by in (0.5, 0.05))
        old = rng.choice(np.asarray(DRIFT, np.float32), len(tokens))
        advantage = 0.7 + rng.normal()  # their mean off 0, or the loss would be the rounding of a sum
        return Completion(tokens, float(advantage), trained, old, ref, old + sampler)

    prompts = [Sampled(text(2, 5), (completion(), completion())) for _ in range(EXAMPLES)]
    cut = prompts[0].completions[0]  # nothing is learned from it, but it counts as a completion
    prompts[0] = Sampled(
        prompts[0].prompt, (dataclasses.replace(cut, trained=np.zeros(len(cut.tokens), bool)), completion())
    )
    rows = RolloutRows(prompts, Layout(share=False), max_length=8)
    return lambda layout, length: rows.collate(layout, length, EXAMPLES, 4)


def _near(model: Any, lay: Callable[..., Rollouts]) -> Callable[..., Rollouts]:
    """The log-probabilities of a layout taken as differences from those of the model."""
    logps = jax.jit(lambda batch: over_tokens(model, batch, token_logprobs)[0])

    def near(layout: Sequence[Sequence[int]], length: int) -> Rollouts:
        rollouts = lay(layout, length)
        logps_BT = logps(rollouts.batch)
        names = ("old_logps_BT", "ref_logps_BT", "sampler_logps_BT")
        return dataclasses.replace(rollouts, **{n: getattr(rollouts, n) + np.asarray(logps_BT) for n in names})

    return near


def kind_of(loss: LossFn) -> str:
    """The kind of a loss; one without decorator is "tokens", "pairs", "texts" or "completions", by what it runs on.

    Raises InputError where it runs on neither.
    """
    if kind := getattr(loss, "kind", ""):
        return kind
    failures = []
    for kind, batch in (
        ("tokens", "a Batch"),
        ("pairs", "Answers"),
        ("completions", "Rollouts"),
        ("texts", "Labelled"),
    ):
        on = bench(loss, kind)
        try:
            jax.eval_shape(on, on.params, on.lay(SINGLE, LENGTH))
        except Exception as error:  # a user's function may raise anything
            failures.append(f"on {batch}: {type(error).__name__}: {error}")
        else:
            return kind
    raise InputError("the loss runs neither " + ", nor ".join(" ".join(text.split())[:200] for text in failures))
