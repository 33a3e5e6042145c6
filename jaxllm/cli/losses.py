"""`python -m jaxllm losses`: lists every loss with formula, paper and arguments, and the fields a loss can read."""

from __future__ import annotations

import dataclasses
import inspect
import re
from collections.abc import Mapping
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxllm.losses import AnswerLogps, Loss, PairLogps, PolicyLogps, PolicyLoss, Tokens, names, resolve
from jaxllm.losses.arguments import domain
from jaxllm.losses.fields import fields, markdown
from jaxllm.losses.policy_objective import REDUCTIONS, shared_arguments
from jaxllm.types import InputError

KINDS = {
    "tokens": "per token, from logits",
    "texts": "per text with a vector of targets, from logits",
    "sentences": "per tagged sentence, from the logits of its words and the scores of neighbouring labels",
    "pairs": "per pair of answers, against a reference",
    "pairs alone": "per pair of answers, without a reference",
    "answers": "per answer, desirable or not, against a reference",
    "rewards": "per pair of answers, from a reward model's numbers",
    "completions": "per token of completions that the policy has sampled",
}
"""The kinds of losses, by their inputs."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Lists the losses that have a name, or describes some of them in full."""

    losses: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Losses to describe in full: names, or FILE.py:FUNCTION for one in your own file."""
    fields: bool = False
    """Print every field that a preference or policy loss can read instead: axes, dtype, unit and meaning."""


def texts(loss: Loss) -> tuple[str, str]:
    """The docstring of a loss: the first paragraph (formula, name and paper), and the others."""
    first, _, more = inspect.cleandoc(loss.function.__doc__ or "").partition("\n\n")
    return " ".join(first.split()), " ".join(more.split())


def main(config: Config) -> None:
    """Prints the tables."""
    if config.fields:
        print(field_tables())
    elif config.losses:
        console = Console(highlight=False, soft_wrap=True)
        found = [resolve(spec) for spec in config.losses]
        for loss in found:
            if loss.mixed:
                raise InputError(f"{loss.name} is a mixture: give its losses one by one")
            _describe(loss, console)
        if any(isinstance(loss.function, PolicyLoss) for loss in found):
            console.print(" ".join(inspect.cleandoc(shared_arguments.__doc__ or "").split()), markup=False)
    else:
        _list([resolve(name) for name in names()], Console(highlight=False))


def field_tables() -> str:
    """The fields of what preference losses, losses of single answers and policy losses read, as tables in Markdown."""
    pairs = [(f"p.{name}", *rest) for name, *rest in fields(PairLogps)]
    tokens = [(f"p.chosen_tokens.{name}", *rest) for name, *rest in fields(Tokens)]
    answers = [(f"a.{name}", *rest) for name, *rest in fields(AnswerLogps)]
    completions = [(f"p.{name}", *rest) for name, *rest in fields(PolicyLogps)]
    return "\n".join([
        "@preference_loss: a function of p, a PairLogps; it returns one float per pair, [B].\n",
        markdown([*pairs, *tokens]),
        "\nThe fields of p.rejected_tokens are those of p.chosen_tokens.\n",
        "@unpaired_loss: a function of a, an AnswerLogps; it returns one float per answer, [B].\n",
        markdown(answers),
        "\n@policy_loss: a function of p, a PolicyLogps; it returns one float per token, [B, T].\n",
        markdown(completions),
    ])  # fmt: skip


def _list(losses: list[Loss], console: Console) -> None:
    for kind, meaning in KINDS.items():
        table = Table(title=f"{kind}: {meaning}", title_justify="left", title_style="bold", expand=True)
        table.add_column("loss", no_wrap=True)
        table.add_column("formula and paper", ratio=3)
        table.add_column("arguments", ratio=2)
        of_kind = [loss for loss in losses if loss.kind == kind]
        for loss in of_kind:
            formula, more = texts(loss)
            cited = re.search(r"\d{4}", formula) or not more
            text = escape(formula if cited else f"{formula} {more}") + escape(_reduction(loss))
            table.add_row(loss.name, text, ", ".join(_defaults(loss.own)), end_section=True)
        every = [_defaults(loss.shared) for loss in of_kind]
        shared = list(dict.fromkeys(text for one in every for text in one))
        by_all = [text for text in shared if all(text in one for one in every)]
        each, most = ", ".join(by_all), ", ".join(text for text in shared if text not in by_all)
        table.caption = "; ".join([f"each also: {each}"] * bool(each) + [f"most also: {most}"] * bool(most)) or None
        console.print(table)
    console.print(
        "b is beta, e label_smoothing; `losses NAME` says which values its arguments take. A loss of your own, "
        "FILE.py:FUNCTION, keeps the chunked head on any mesh: `losses --fields` lists what it can read, and "
        "`check-loss` prints its report card."
    )


def _defaults(arguments: Mapping[str, inspect.Parameter]) -> list[str]:
    """Arguments with their defaults, without those of which 0 is the only value."""
    return [f"{name}={p.default}" for name, p in arguments.items() if not domain(p).startswith("0:")]


def _reduction(loss: Loss) -> str:
    """How a policy loss of a batch follows from its tokens'."""
    return f" {loss.function.reduction.capitalize()}." if isinstance(loss.function, PolicyLoss) else ""


def _describe(loss: Loss, console: Console) -> None:
    console.print(f"[bold]{loss.name}[/bold]  ({KINDS.get(loss.kind, 'a function of model and batch')})")
    for text in filter(None, texts(loss)):
        console.print(f"  {text}", markup=False)
    if isinstance(loss.function, PolicyLoss):
        console.print(f"  {_reduction(loss)[1:-1]}: {REDUCTIONS[loss.function.reduction]}.")
    if loss.couples_batch:
        console.print("  It couples the examples of a batch: one microbatch, and no pmap.")
    for name, p in {**loss.own, **loss.shared}.items():
        default = "needed" if p.default is p.empty else p.default
        console.print(f"  {name}={default}  {domain(p)}", markup=False)
