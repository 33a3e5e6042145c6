"""`python -m jaxllm losses`: lists every loss with formula, paper and arguments, and the fields a loss can read."""

from __future__ import annotations

import dataclasses
import inspect
import re
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxllm.losses import AnswerLogps, PairLogps, Tokens, names, resolve
from jaxllm.losses.arguments import domain, parameters
from jaxllm.losses.fields import fields, markdown
from jaxllm.types import InputError

KINDS = {
    "tokens": "per token, from logits",
    "pairs": "per pair of answers, against a reference",
    "pairs alone": "per pair of answers, without a reference",
    "answers": "per answer, desirable or not, against a reference",
    "rewards": "per pair of answers, from a reward model's numbers",
}
"""The kinds of losses, by their inputs."""


@dataclasses.dataclass(frozen=True)
class Config:
    """Lists the losses that have a name, or describes some of them in full."""

    losses: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Losses to describe in full: names, or FILE.py:FUNCTION for one in your own file."""
    fields: bool = False
    """Print every field that a preference loss can read instead: axes, dtype, unit and meaning."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """One loss, as its own docstring and signature describe it."""

    name: str
    kind: str
    formula: str
    """The first paragraph: formula, name and paper."""
    more: str
    """The other paragraphs."""
    own: dict[str, inspect.Parameter]
    """The arguments of this loss."""
    shared: dict[str, inspect.Parameter]
    """The arguments that all losses of its kind have."""
    couples_batch: bool

    @classmethod
    def of(cls, spec: str) -> Entry:
        """Raises InputError for an unknown loss, and for a mixture."""
        loss = resolve(spec)
        if loss.mixed:
            raise InputError(f"{spec} is a mixture: give its losses one by one")
        first, _, more = inspect.cleandoc(loss.function.__doc__ or "").partition("\n\n")
        known = {name: p for name, p in parameters(loss.function, 0).items() if p.kind is p.KEYWORD_ONLY}
        shared = {name: p for name, p in known.items() if name in getattr(loss.function, "shared", ())}
        own = {name: p for name, p in known.items() if name not in shared}
        formula, more = " ".join(first.split()), " ".join(more.split())
        return cls(spec, loss.kind, formula, more, own, shared, loss.couples_batch)


def main(config: Config) -> None:
    """Prints the tables."""
    if config.fields:
        print(field_tables())
    elif config.losses:
        console = Console(highlight=False, soft_wrap=True)
        for entry in [Entry.of(spec) for spec in config.losses]:
            _describe(entry, console)
    else:
        _list([Entry.of(name) for name in names()], Console(highlight=False))


def field_tables() -> str:
    """The fields of what a preference loss, and a loss of single answers, is given, as tables in Markdown."""
    pairs = [(f"p.{name}", *rest) for name, *rest in fields(PairLogps)]
    tokens = [(f"p.chosen_tokens.{name}", *rest) for name, *rest in fields(Tokens)]
    answers = [(f"a.{name}", *rest) for name, *rest in fields(AnswerLogps)]
    return "\n".join([
        "@preference_loss: a function of p, a PairLogps; it returns one float per pair, [B].\n",
        markdown([*pairs, *tokens]),
        "\nThe fields of p.rejected_tokens are those of p.chosen_tokens.\n",
        "@unpaired_loss: a function of a, an AnswerLogps; it returns one float per answer, [B].\n",
        markdown(answers),
    ])  # fmt: skip


def _list(entries: list[Entry], console: Console) -> None:
    for kind, meaning in KINDS.items():
        table = Table(title=f"{kind}: {meaning}", title_justify="left", title_style="bold", expand=True)
        table.add_column("loss", no_wrap=True)
        table.add_column("formula and paper", ratio=3)
        table.add_column("arguments", ratio=2)
        shared: dict[str, None] = {}
        for entry in entries:
            if entry.kind == kind:
                cited = re.search(r"\d{4}", entry.formula)
                text = entry.formula if cited or not entry.more else f"{entry.formula} {entry.more}"
                table.add_row(entry.name, escape(text), ", ".join(_defaults(entry.own)), end_section=True)
                shared |= dict.fromkeys(_defaults(entry.shared))
        table.caption = "each also: " + ", ".join(shared) if shared else None
        console.print(table)
    console.print("b is beta, e label_smoothing; `python -m jaxllm losses NAME` says which values an argument takes,")
    console.print("`python -m jaxllm losses --fields` what a loss of your own can read")


def _defaults(arguments: dict[str, inspect.Parameter]) -> list[str]:
    """Arguments with their defaults, without those of which 0 is the only value."""
    return [f"{name}={p.default}" for name, p in arguments.items() if not domain(p).startswith("0:")]


def _describe(entry: Entry, console: Console) -> None:
    console.print(f"[bold]{entry.name}[/bold]  ({KINDS.get(entry.kind, 'a function of model and batch')})")
    for text in filter(None, (entry.formula, entry.more)):
        console.print(f"  {text}", markup=False)
    if entry.couples_batch:
        console.print("  It couples the examples of a batch: one microbatch, and no pmap.")
    for name, p in {**entry.own, **entry.shared}.items():
        default = "needed" if p.default is p.empty else p.default
        console.print(f"  {name}={default}  {domain(p)}", markup=False)
