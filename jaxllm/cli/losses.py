"""`python -m jaxllm losses`: every loss with its formula, its paper and its arguments."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Annotated

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxllm.losses import names, resolve
from jaxllm.losses.catalogue import KINDS, Entry, entry


@dataclasses.dataclass(frozen=True)
class Config:
    """Lists the built-in losses, or describes some of them in full."""

    losses: Annotated[tuple[str, ...], tyro.conf.Positional] = ()
    """Losses to describe in full: names, or FILE.py:FUNCTION for one in your own file."""


def entries() -> list[Entry]:
    """Every loss that has a name."""
    return [_entry(name) for name in names()]


def _entry(spec: str) -> Entry:
    return entry(spec, resolve(spec).function)  # type: ignore[union-attr]


def main(config: Config) -> None:
    """Prints."""
    console = Console(highlight=False, soft_wrap=bool(config.losses))
    if config.losses:
        for one in [_entry(spec) for spec in config.losses]:
            _whole(one, console)
        return
    by_kind: dict[str, list[Entry]] = {kind: [] for kind in KINDS}
    for one in entries():
        by_kind[one.kind].append(one)
    for kind, found in by_kind.items():
        table = Table(title=f"{kind}: {KINDS[kind]}", title_justify="left", title_style="bold", expand=True)
        table.add_column("loss", no_wrap=True)
        table.add_column("formula and paper", ratio=3)
        table.add_column("arguments", ratio=2)
        for one in found:
            cited = re.search(r"\d{4}", one.formula)
            told = one.formula if cited or not one.more else f"{one.formula} {one.more}"
            table.add_row(one.name, escape(told), ", ".join(_given(one.arguments)), end_section=True)
        if shared := list(dict.fromkeys(given for one in found for given in _given(one.shared))):
            table.caption = "each also: " + ", ".join(shared)
        console.print(table)
    console.print("b is beta, e label_smoothing; `python -m jaxllm losses NAME` tells what an argument may be")


def _given(arguments: Sequence[tuple[str, str, str]]) -> list[str]:
    """Arguments with their defaults, where there is a choice: a loss without label smoothing takes 0 alone."""
    return [f"{name}={default}" for name, default, domain in arguments if not domain.startswith("0:")]


def _whole(one: Entry, console: Console) -> None:
    console.print(f"[bold]{one.name}[/bold]  ({KINDS[one.kind]})")
    for text in filter(None, (one.formula, one.more)):
        console.print(f"  {text}", markup=False)
    if one.couples_batch:
        console.print("  It couples the examples of a batch: one microbatch, and no pmap.")
    for name, default, domain in (*one.arguments, *one.shared):
        console.print(f"  {name}={default}  {domain}", markup=False)
