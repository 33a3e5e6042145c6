"""`python -m jaxllm check-loss`: the report card of a loss, as a table."""

from __future__ import annotations

import dataclasses
import os
from typing import Annotated, Any

import tyro
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from jaxllm.recipes.losses import loss_arguments


@dataclasses.dataclass(frozen=True)
class Config:
    """Runs a loss on small random data and prints which checks pass, with numbers. Exit status 1 if one fails."""

    loss: Annotated[str, tyro.conf.Positional]
    """Name of a loss, a mixture, FILE.py:FUNCTION or PACKAGE.MODULE:FUNCTION."""
    loss_args: tuple[str, ...] = ()
    """Arguments of the loss as NAME=VALUE, for example beta=0.2; by default the loss's own."""


def main(config: Config) -> None:
    """Runs the checks and prints the table."""
    # Eight devices to shard a batch over on CPU; JAX reads the flag when it starts its backend.
    flag = "--xla_force_host_platform_device_count"
    if flag not in os.environ.get("XLA_FLAGS", ""):
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {flag}=8".strip()
    from jaxllm.report_card.checks import check_loss

    arguments: dict[str, Any] = {**loss_arguments(config.loss_args)}
    card = check_loss(config.loss, **arguments)
    table = Table(title=config.loss, title_justify="left")
    for column in ("check", "", "found", "wanted"):
        table.add_column(column)
    for line in card:
        verdict = "[green]pass[/green]" if line.passed else "[bold red]FAIL[/bold red]"
        table.add_row(line.check, verdict, escape(line.found), line.wanted)
    Console(highlight=False).print(table)
    if not all(line.passed for line in card):
        raise SystemExit(1)
