"""Token classification: fine-tune BERT, or train a small encoder from scratch, to find named entities.

    python experiments/ner.py
    python experiments/ner.py --model bert-base-cased --dataset conll2003
    python experiments/ner.py --model path/to/MiniLM --dataset path/to/wnut17 --best dev/f1:max

Paper: Devlin et al. 2018, BERT, section 5.3; scored by seqeval on whole sentences.
Expected: see experiments/README.md, which has the numbers and the time they took.

What the collation does that padding the inputs alone would not: a tagged sentence is tokens, a label for each word and
the words' boundaries. Its words become sub-words; the label goes to the first of each and the rest carry weight 0, as
do [CLS], [SEP] and padding. So labels and weights are made per token, together with the tokens, and are cut, packed and
padded with them, as are segments (who may attend to whom) and positions (which restart with each sentence). Long
sentences become overlapping windows in which every word carries weight once, and which word each label answers for is
kept, so that predictions come back as one tag for every word of every sentence.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
from pathlib import Path
from typing import Any

from jaxllm import hf
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.loader import EvalBatches, lengths, loader, token_dropout
from jaxllm.data.tagging import examples as ner
from jaxllm.evals import ner as ner_eval
from jaxllm.evals.decoding import check_decode, find_chain
from jaxllm.evals.tag import show, tag_words
from jaxllm.losses import Loss
from jaxllm.models.heads import TaggerConfig, describe_model
from jaxllm.recipes.encoders import PRESETS, EncoderFlags, from_scratch
from jaxllm.recipes.flags import fit_arguments, optim_config
from jaxllm.recipes.help import DATA, EVALUATION, OPTIMISATION, flag
from jaxllm.recipes.losses import named_loss, token_loss
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.rows import summary_of
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.recipes.start import Start
from jaxllm.recipes.tagged import Tagged, TaggedFlags, read_tagged
from jaxllm.recipes.weights import open_weights
from jaxllm.train.fit import fit

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {
        "epochs": 3.0, "batch_size": 16, "learning_rate": 5e-5, "schedule": "linear", "warmup": 0.0,
        "weight_decay": 0.01, "beta2": 0.999, "token_dropout": 0.0,
    },
    "scratch": {
        "epochs": 6.0, "batch_size": 32, "learning_rate": 2e-3, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.05, "beta2": 0.98, "token_dropout": 0.2,
    },
}  # fmt: skip
"""What flags that are not given are, by where the weights come from."""


@dataclasses.dataclass(frozen=True)
class Config(EncoderFlags, TaggedFlags):  # type: ignore[misc]
    """Named entity recognition by token classification."""

    RECIPES = RECIPES

    model: str = "tiny"
    """Hugging Face id or folder, a run folder, or a preset trained from scratch: tiny, small."""
    head_learning_rate: float | None = flag(None, OPTIMISATION)
    """Learning rate of the classifier at the peak of the schedule; by default --learning-rate."""
    token_dropout: float | None = flag(None, DATA)
    """Share of the training tokens that are replaced by the unknown token, drawn anew at each step."""
    decode: str = flag("", EVALUATION)
    """argmax: each word's own likeliest label. viterbi: the likeliest tags that the scheme allows. By default the
    likeliest path for --loss crf, and argmax for others."""


def find_loss(config: Config) -> Loss:
    """The loss that --loss names: of tokens, or of whole tag sequences."""
    loss = named_loss(config)
    return loss if loss.kind == "sentences" else token_loss(config)


def start(config: Config, data: Tagged, crf: bool = False) -> Start:
    """A pretrained encoder, or a preset with a tokenizer trained on the words of the training split."""
    own: dict[str, Any] = {"crf": crf, "decode": config.decode, "document_context": config.document_context}
    if config.model not in PRESETS:
        opened = open_weights(config.model, "tagger", labels=data.labels, dtype=config.dtype, remat=config.remat, **own)
        tokenizer = hf.load_tokenizer(config.tokenizer or str(opened.folder))
        return Start(opened.spec, opened.config, tokenizer, opened, tuple(opened.notes))
    shape, tokenizer = from_scratch(config, (" ".join(sentence.words) for sentence in data.splits["train"].rows))
    tagger = TaggerConfig(shape, data.labels, transform=True, **own)
    return Start(describe_model(tagger), tagger, tokenizer, None, ())


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    config = fill_in(config, RECIPES, PRESETS)
    loss = find_loss(config)
    check_decode(config.decode)
    session = open_session("ner", config)
    run, console, mesh = session.run, session.console, session.mesh
    data = read_tagged(config)
    begin = start(config, data, crf=loss.kind == "sentences")
    limit = min(config.max_length, begin.config.encoder.max_positions)
    windows = {
        name: ner.encode(split.rows, begin.tokenizer, data.labels, limit, config.document_context)
        for name, split in data.splits.items()
    }
    train = windows["train"].examples
    plan = session.plan(lengths(train))
    arguments = fit_arguments(config, plan)
    if session.finished(arguments["steps"]):
        return
    session.header(begin, [*data.lines, ("rows", plan.describe())])

    def evaluation(split: str, predictions: Path | None = None) -> Any:
        examples = windows[split].examples
        batches = EvalBatches(examples, session.eval_plan(lengths(examples)))
        return ner_eval.evaluator(
            windows[split], data.splits[split].rows, data.labels, data.scheme, batches,
            predictions=predictions, decode=config.decode,
        )  # fmt: skip

    held_out = [name for name in ("dev", "test") if name in windows]
    evals = {"dev": evaluation("dev")} if "dev" in windows else {}
    tokenizer = begin.tokenizer
    noise = token_dropout(config.token_dropout, tokenizer.unk_token_id, tokenizer.all_special_ids, config.seed)
    fitted = fit(
        begin.model, loss=loss, data=loader(train, plan, noise if config.token_dropout else None),
        optimizer=optim_config(config),
        run=session.describing(begin), mesh=mesh, evals=evals, head=begin.config.head_parameters,
        **arguments,
    )  # fmt: skip

    finals: dict[str, float] = {}
    for split in held_out:
        path = run.folder / ("predictions.jsonl" if split == held_out[-1] else f"predictions-{split}.jsonl")
        numbers = evaluation(split, path)(fitted.model)
        finals |= {f"{split}/{name}": x for name, x in numbers.items()}
        console.print(f"\n{split}, step {fitted.position}")
        console.print(ner_eval.table(numbers))
    if config.dataset == "builtin":
        console.print("\nsentences it never saw")
        chain = find_chain(fitted.model.params, data.labels, data.scheme, config.decode)
        shown = tag_words(fitted.model, begin.tokenizer, data.labels, builtin.NER_DEMO, limit, chain)
        for text, entities in zip(builtin.NER_DEMO, shown, strict=True):
            console.print("  " + show(text, entities))
    session.finish(begin, fitted, arguments["steps"], finals, **summary_of(data.splits))


if __name__ == "__main__":
    run_script(main, Config)
