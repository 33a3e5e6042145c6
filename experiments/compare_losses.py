"""Several losses on the same model, data and seeds: one table and one plot, with confidence intervals.

    python experiments/compare_losses.py
    python experiments/compare_losses.py --model runs/sft-1a2b3c4d --dataset pairs.jsonl --losses sigmoid ipo simpo \
        --seeds 0 1 2 3 4
    python experiments/compare_losses.py --losses sigmoid my_losses.py:margin --loss-args beta=0.2
    python experiments/compare_losses.py --losses grpo dr_grpo rloo dpo

Each run is one of experiments/preference.py or, where one of --losses is a policy loss, of experiments/online.py, with
the flags of that script, in a folder below --out, so what has been run is not run again. Measured on dev, at the end of
each run: of online training, what it evaluates; of preference tuning, reward accuracy (the reward is the one that the
loss optimises) and, on the scale that all losses share, by how many nats the log-ratio of policy and reference favours
the chosen answer; the log-probability of the chosen answers; and, of answers sampled to dev's prompts, their length and
the KL divergence from the reference.
A model that is trained from scratch starts from other weights with each seed, and has another reference.
Expected: see experiments/README.md.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import csv
import dataclasses
import json
import math
import re
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from scipy.stats import t

import online
import preference
from jaxllm.data.builtin.sorting import sorting
from jaxllm.losses import resolve
from jaxllm.recipes import online as recipe
from jaxllm.recipes.help import LOSS, OPTIMISATION, flag
from jaxllm.recipes.losses import find_preference_loss
from jaxllm.recipes.pairs import read_pairs
from jaxllm.recipes.prompts import read_prompts
from jaxllm.recipes.script import run as run_script
from jaxllm.types import InputError

MEASURES = {
    "dev/rewards/accuracies": "reward accuracy",
    "dev/log_ratio_margin": "margin (nats)",
    "samples/kl": "KL from the reference (nats)",
    "dev/logps/chosen": "log p(chosen) (nats)",
    "samples/length": "length (tokens)",
}
"""What is compared of preference losses: its name in a run's summary.json, and in table and plot."""

ONLINE_MEASURES = {
    "dev/accuracy": "greedy accuracy",
    "dev/pass@1": "pass@1",
    "dev/reward": "greedy reward",
    "dev/mean_length": "length (tokens)",
}
"""And of losses in online training."""

DIGITS = {"dev/rewards/accuracies": 3, "samples/length": 1, "dev/mean_length": 1} | dict.fromkeys(
    ("dev/accuracy", "dev/pass@1", "dev/reward"), 3
)
"""After the point in the table, if not 2."""


@dataclasses.dataclass(frozen=True)
class Compared:
    """What is compared."""

    losses: tuple[str, ...] = flag(("sigmoid", "ipo", "apo_zero", "simpo", "sigmoid+sft"), LOSS)
    """Losses to compare: names, mixtures or FILE.py:FUNCTION."""
    seeds: tuple[int, ...] = flag((0, 1, 2), OPTIMISATION)
    """Seeds of the runs of each loss, one run per seed."""


@dataclasses.dataclass(frozen=True)
class Config(Compared, preference.Config):
    """Preference tuning with several losses and seeds. Other flags are those of experiments/preference.py, or with a
    policy loss of experiments/online.py."""


@dataclasses.dataclass(frozen=True)
class OnlineConfig(Compared, online.Config):
    """Online training with several losses and seeds. Other flags are those of experiments/online.py."""


def flags_of(argv: Sequence[str]) -> type[Config] | type[OnlineConfig]:
    """Whose flags these words are: of online training where `--losses` names a policy loss."""
    given = argv[argv.index("--losses") + 1 :] if "--losses" in argv else []
    losses = given[: next((i for i, word in enumerate(given) if word.startswith("--")), len(given))]
    return OnlineConfig if any(_is_policy_loss(loss) for loss in losses) else Config


def _is_policy_loss(loss: str) -> bool:
    try:
        return resolve(loss).kind == "completions"
    except InputError:  # which is said where it is used
        return False


Run = preference.Config | online.Config


def settle(config: Config | OnlineConfig) -> tuple[Config | OnlineConfig, list[Run]]:
    """The configuration with its folder, and that of each run. Raises InputError before any run starts."""
    if not config.losses or not config.seeds:
        raise InputError("--losses and --seeds: give at least one of each")
    kind: Any = online.Config if isinstance(config, OnlineConfig) else preference.Config
    fields = {f.name: f.default for f in dataclasses.fields(kind)}
    if config.loss != fields["loss"]:
        raise InputError(f"--loss {config.loss}: it is --losses here, one or several")
    if isinstance(config, Config) and not config.samples:
        raise InputError("--samples 0: there would be no length and no KL to compare; give a number of prompts")
    if isinstance(config, OnlineConfig) and not config.eval_generations:
        raise InputError("--eval-generations 0: there would be no pass@1 to compare; give a number of completions")
    shared = {name: x for name, x in vars(config).items() if name in fields}
    config = dataclasses.replace(config, out=config.out or "runs/compare_losses")
    for text in config.loss_args:
        if not any(_takes(loss, text) for loss in config.losses):
            raise InputError(f"--loss-args {text}: none of {', '.join(config.losses)} takes it")
    runs = []
    for loss in config.losses:
        own, slug = tuple(text for text in config.loss_args if _takes(loss, text)), re.sub(r"[^\w.-]", "-", loss)
        for seed in config.seeds:
            out = str(Path(config.out) / f"{slug}-{seed}")
            run = kind(**{**shared, "loss": loss, "loss_args": own, "seed": seed, "out": out})
            if isinstance(run, online.Config):
                recipe.check(online.settle(run))
                recipe.find_loss(run)
            else:
                find_preference_loss(run, run.reference)
            runs.append(run)
    return config, runs


def check_data(config: Run) -> None:
    """Raises InputError, before any run starts, for data without what is compared: prompts or pairs held out."""
    if isinstance(config, online.Config):
        splits: Mapping[str, Any] = read_prompts(config, sorting)
        what = "prompts"
    else:
        splits, what = read_pairs(config), "pairs"
        if len(splits["train"].rows[0].answers) < 2:
            raise InputError(
                f"--dataset {config.dataset} has judged answers without rivals: losses are compared on pairs"
            )
    if "dev" not in splits:
        raise InputError(
            f"--dataset {config.dataset}: {len(splits['train'])} {what} leave none to evaluate on at --holdout "
            f"{config.holdout:g}, and losses are compared on dev; give --eval-dataset, more {what} or a larger "
            "--holdout"
        )


def _takes(loss: str, argument: str) -> bool:
    """Whether a loss has an argument, so that losses may be given those of which only some are theirs."""
    name, _, value = argument.partition("=")
    try:
        resolve(loss, **{name: value})
    except InputError:
        return False
    return True


def interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and half of the 95% confidence interval by Student's t (0 of a single value)."""
    mean = statistics.fmean(values)
    if len(values) < 2:
        return mean, 0.0
    quantile = float(t.ppf(0.975, len(values) - 1))
    return mean, quantile * statistics.stdev(values) / math.sqrt(len(values))


Found = Mapping[str, Mapping[str, list[float]]]
"""Values by loss and measure, one per seed."""


def measures_of(config: Config | OnlineConfig) -> dict[str, str]:
    """What is compared, and what it is called."""
    return ONLINE_MEASURES if isinstance(config, OnlineConfig) else MEASURES


def collect(config: Config | OnlineConfig, runs: Sequence[Run]) -> dict[str, dict[str, list[float]]]:
    """What the finished runs measured."""
    measures = measures_of(config)
    found: dict[str, dict[str, list[float]]] = {loss: {name: [] for name in measures} for loss in config.losses}
    for run in runs:
        finals = json.loads((Path(run.out) / "summary.json").read_text())["final"]
        for name in measures:
            found[str(run.loss)][name].append(math.nan if finals[name] is None else finals[name])
    return found


def table(found: Found, measures: Mapping[str, str]) -> str:
    """Markdown: a row per loss, mean and half interval of each measure."""
    lines = ["| loss | " + " | ".join(measures.values()) + " |", "|---" * (len(measures) + 1) + "|"]
    for loss, values in found.items():
        cells = (" ± ".join(f"{x:.{DIGITS.get(name, 2)}f}" for x in interval(values[name])) for name in measures)
        lines.append(f"| {loss} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def write_csv(path: Path, found: Found, seeds: Sequence[int]) -> None:
    """One line per run."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["loss", "seed", *next(iter(found.values()))])
        for loss, values in found.items():
            for i, seed in enumerate(seeds):
                writer.writerow([loss, seed, *(x[i] for x in values.values())])


def plot(path: Path, found: Found, measures: Mapping[str, str]) -> None:
    """A panel per measure: for each loss the mean with its interval, and a point per run below it."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    losses = list(found)
    seeds = len(found[losses[0]][next(iter(measures))])
    size = (3.1 * len(measures), 1.5 + 0.45 * len(losses))
    figure, axes = plt.subplots(1, len(measures), figsize=size, sharey=True, layout="constrained")
    for axis, (name, label) in zip(axes, measures.items(), strict=True):
        for i, loss in enumerate(losses):
            values = found[loss][name]
            mean, half = interval(values)
            axis.plot(values, [i + 0.22] * len(values), "o", color=f"C{i}", alpha=0.6, markersize=4, markeredgewidth=0)
            axis.errorbar(mean, i, xerr=half, fmt="D", color=f"C{i}", markersize=5, capsize=4, linewidth=1.5)
        axis.set_xlabel(label, fontsize=9)
        axis.tick_params(labelsize=8)
        axis.locator_params(axis="x", nbins=5)
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(range(len(losses)), losses, fontsize=9)
    axes[0].set_ylim(len(losses) - 0.5, -0.5)
    figure.supxlabel(f"mean and 95% interval over {seeds} seeds; a dot is a seed", fontsize=8)
    figure.savefig(path, dpi=130)
    plt.close(figure)


def main(config: Config | OnlineConfig) -> None:
    """Runs what has not been run, then compares."""
    config, runs = settle(config)
    check_data(runs[0])
    run_one: Callable[[Any], None] = online.main if isinstance(config, OnlineConfig) else preference.main
    console = Console(soft_wrap=True, highlight=False, quiet="none" in config.log_to)
    for number, run in enumerate(runs, start=1):
        console.print(f"\n[bold]{number} of {len(runs)}: {run.loss}, seed {run.seed}[/bold]")
        run_one(run)
    found, folder, measures = collect(config, runs), Path(config.out), measures_of(config)
    text = table(found, measures)
    (folder / "table.md").write_text(text)
    write_csv(folder / "runs.csv", found, config.seeds)
    plot(folder / "losses.png", found, measures)
    console.print(f"\n{text}\nmean ± half of the 95% interval over {len(config.seeds)} seeds: {folder}/table.md, "
                  "runs.csv, losses.png", markup=False)  # fmt: skip


if __name__ == "__main__":
    run_script(main, flags_of(sys.argv[1:]))
