"""Classification of whole texts: fine-tune BERT or a decoder, or train a small encoder from scratch.

    python experiments/classify.py
    python experiments/classify.py --model roberta-base --dataset nyu-mll/glue:mrpc
    python experiments/classify.py --model path/to/MiniLM --dataset reviews.csv --max-length 256

Paper: Devlin et al. 2018, BERT, section 4.1; scored by scikit-learn and SciPy.
Expected: see experiments/README.md, which has the numbers and the time they took.

A row has one text or two, and one label, any number of labels, or a number; the label column tells which. The head is
that of the model's family in `transformers`, read at an encoder's first token or a decoder's last. Texts are packed,
and the target stands at the token that is read, with weight 1 there and 0 elsewhere: so every loss of tokens trains one
label. Several labels, and numbers, are vectors beside the batch, for losses of texts.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import functools
from pathlib import Path
from typing import Any

from jaxllm import hf
from jaxllm.data.builtin import requests
from jaxllm.data.chat.templates import give_pad
from jaxllm.data.labelled.examples import encode, labelled_loader, with_targets
from jaxllm.data.labelled.rows import Text
from jaxllm.data.loader import EvalBatches, lengths
from jaxllm.evals import classify as evaluation
from jaxllm.models.heads import ClassifierConfig, ScorerConfig, describe_model, trunk_of
from jaxllm.recipes.encoders import PRESETS, EncoderFlags, from_scratch
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import OPTIMISATION, flag
from jaxllm.recipes.labelled import LabelledData, LabelledFlags, check_pairs, find_loss, read_labelled
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.rows import summary_of
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.recipes.start import Start, check_vocabulary
from jaxllm.recipes.weights import open_weights
from jaxllm.train.fit import fit

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {
        "epochs": 3.0, "batch_size": 32, "learning_rate": 5e-5, "schedule": "linear", "warmup": 0.06,
        "weight_decay": 0.01, "beta2": 0.999,
    },
    "scratch": {
        "epochs": 4.0, "batch_size": 32, "learning_rate": 1e-3, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.05, "beta2": 0.98,
    },
}  # fmt: skip
"""What flags that are not given are, by where the weights come from."""


@dataclasses.dataclass(frozen=True)
class Config(EncoderFlags, LabelledFlags):  # type: ignore[misc]
    """Classification of texts."""

    RECIPES = RECIPES

    model: str = "tiny"
    """Hugging Face id or folder of an encoder or decoder, a run folder, or a preset trained from scratch: tiny or
    small."""
    head_learning_rate: float | None = flag(None, OPTIMISATION)
    """Learning rate of the head at the peak of the schedule; by default --learning-rate."""


def start(config: Config, data: LabelledData) -> Start:
    """A pretrained encoder or decoder, or a preset with a tokenizer trained on the texts of the training split."""
    rows = data.splits["train"].rows
    first = rows[0]
    if config.model not in PRESETS:
        opened = open_weights(config.model, "classifier", labels=data.labels, dtype=config.dtype, remat=config.remat)
        tokenizer = hf.load_tokenizer(config.tokenizer or str(opened.folder))
        check_vocabulary(tokenizer, trunk_of(opened.config).vocab_size, own=not config.tokenizer)
        check_pairs(opened.config.pairs, first)
        whole = dataclasses.replace(opened.config, problem=data.problem, pairs=first.pair is not None)
        notes = [*opened.notes, *(give_pad(tokenizer) if isinstance(whole, ScorerConfig) else ())]
        tokens = {"pad_token_id": tokenizer.pad_token_id} if isinstance(whole, ScorerConfig) else {}
        return Start(opened.spec, whole, tokenizer, opened, tuple(notes), tokens)
    shape, tokenizer = from_scratch(config, (text for row in rows for text in (row.text, row.pair) if text))
    head = {"transform_bias": False, "transform_activation": "gelu", "transform_norm": True, "mean": True}
    told = {"problem": data.problem, "pairs": first.pair is not None}
    whole = ClassifierConfig(shape, data.labels, **told, **head)  # type: ignore[arg-type]
    return Start(describe_model(whole), whole, tokenizer, None, ())


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    config = fill_in(config, RECIPES, PRESETS)
    session = open_session("classify", config)
    run, console, mesh = session.run, session.console, session.mesh
    data = read_labelled(config)
    loss = find_loss(config, data.problem)
    begin = start(config, data)
    trunk, last = trunk_of(begin.config), isinstance(begin.config, ScorerConfig)
    limit, types = min(config.max_length, trunk.max_positions), getattr(trunk, "token_types", 0)
    encoded = functools.partial(encode, tokenizer=begin.tokenizer, max_length=limit, last=last, types=types)
    examples = {name: encoded(split.rows, report=split.report) for name, split in data.splits.items()}
    targets, weights = data.training_targets()
    train = with_targets(examples["train"], targets, weights)
    plan = session.plan(lengths(train))
    arguments = fit_arguments(config, plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [*data.lines, ("rows", plan.describe())])

    def scored(split: str, predictions: Path | None = None) -> Any:
        batches = EvalBatches(examples[split], session.eval_plan(lengths(examples[split])))
        return evaluation.evaluator(
            data.splits[split].rows, examples[split], data.targets(split), data.labels, data.problem, batches,
            predictions=predictions,
        )  # fmt: skip

    held_out = [name for name in ("dev", "test") if name in examples]
    fitted = fit(
        begin.model, loss=loss, data=labelled_loader(train, targets, plan), optimizer=optim_config(config),
        run=session.describing(begin), mesh=mesh, evals={"dev": scored("dev")} if "dev" in examples else {},
        head=begin.config.head_parameters, **arguments,
    )  # fmt: skip

    finals, confused = dict[str, float](), dict[str, Any]()
    for split in held_out:
        path = run.folder / ("predictions.jsonl" if split == held_out[-1] else f"predictions-{split}.jsonl")
        numbers = scored(split, path)(fitted.model)
        finals |= {f"{split}/{name}": x for name, x in numbers.items()}
        console.print(f"\n{split}, step {fitted.position}")
        console.print(evaluation.table(numbers, data.problem, data.labels))
        if data.problem == "single" and path.is_file():  # the first process writes it
            confused[split] = evaluation.confusion(path, data.labels)
            console.print(evaluation.confusion_table(confused[split]))
    if config.dataset == "builtin":
        console.print("\ntexts it never saw")
        demo = encoded([Text(text, None, None, "text") for text in requests.DEMO])
        scores = evaluation.scores_of(evaluation.classify(fitted.model, demo), data.problem)
        for text, one in zip(requests.DEMO, scores, strict=True):
            found = evaluation.answer(one, data.labels, data.problem)
            console.print(f"  {found['label']:<10} {found['score']:.2f}  {text}", markup=False)
    session.finish(
        begin, fitted, arguments["steps"], finals, confusion=confused, problem=data.problem, labels=list(data.labels),
        **summary_of(data.splits),
    )  # fmt: skip


if __name__ == "__main__":
    run_script(main, Config)
