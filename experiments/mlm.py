"""Masked-language-model pretraining of an encoder, from scratch or continued on text of your own.

    python experiments/mlm.py
    python experiments/mlm.py --model bert-base-cased --dataset books.jsonl --whole-words

Paper: Devlin et al. 2018, BERT, section 3.1. `experiments/ner.py --model runs/mlm-...` goes on from the result.

Of each text a share of the tokens (--mask-rate) is to be predicted: 80% of them are replaced by the mask token, 10% by
random ones, 10% stay; special tokens never. The masks of a piece of text follow from seed, epoch and piece alone.
Targets and weights stand at those positions only, so that the loss computes the head for them alone.
"""

from __future__ import annotations

from jaxllm.allocator import restart

restart(__name__)

import dataclasses
import functools
import itertools
from collections.abc import Sequence
from typing import Any

from jaxllm import hf
from jaxllm.data.text.documents import Documents
from jaxllm.data.text.masking import MaskedBatches, Masking, Pieces, masked_loader, masking_of
from jaxllm.data.text.token_cache import Marks, open_corpus
from jaxllm.distributed.mesh import row_multiple
from jaxllm.evals import mlm as evaluation
from jaxllm.models.heads import describe_model
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.recipes.encoders import PRESETS, EncoderFlags, from_scratch
from jaxllm.recipes.flags import Common, fit_arguments, optim_config
from jaxllm.recipes.help import DATA, flag
from jaxllm.recipes.losses import token_loss
from jaxllm.recipes.recipe import fill_in
from jaxllm.recipes.script import run as run_script
from jaxllm.recipes.session import open_session
from jaxllm.recipes.start import Start, check_vocabulary
from jaxllm.recipes.texts import Texts, lines_of, read_texts, summary_of
from jaxllm.recipes.weights import open_weights
from jaxllm.run.best import check_best
from jaxllm.run.folder import operational
from jaxllm.train.fit import fit
from jaxllm.types import InputError

RECIPES: dict[str, dict[str, Any]] = {
    "pretrained": {
        "max_length": 128, "batch_size": 16, "learning_rate": 5e-5, "schedule": "linear", "warmup": 0.06,
        "weight_decay": 0.01, "beta2": 0.98,
    },
    "scratch": {
        "max_length": 64, "batch_size": 8, "learning_rate": 2e-3, "schedule": "cosine", "warmup": 0.05,
        "weight_decay": 0.05, "beta2": 0.98,
    },
}  # fmt: skip
"""What flags that are not given are, by where the weights come from."""

BUILTIN = "builtin-requests"

DEMO_STEPS = 800
"""Of the run with no flags."""

DEMO = ("I {} not happy with the lamp.", "How much does the kettle {}?", "Please {} the parcel on Friday.")
"""What the model of the embedded corpus fills in at the end."""


@dataclasses.dataclass(frozen=True)
class Config(EncoderFlags, Common):  # type: ignore[misc]
    """Masked-language-model pretraining of an encoder."""

    model: str = "tiny"
    """Hugging Face id or folder of an encoder, a run folder, or a preset trained from scratch: tiny, small."""
    dataset: tuple[str, ...] = (BUILTIN,)  # type: ignore[assignment]
    """Text files, folders, patterns or hub ids, each with a weight if wanted, as in a.txt:0.7 b.jsonl:0.3;
    `builtin-requests` is the text of `classify.py`'s embedded corpus, and `builtin` the source and documentation of
    Python's standard library."""
    holdout: float = flag(0.05, DATA)
    """Share of a data set without a dev split to evaluate on; 0 for none."""
    mask_rate: float = flag(0.15, DATA)
    """Share of the tokens of a text that are to be predicted, drawn anew in each epoch."""
    mask_replace_prob: float = flag(0.8, DATA)
    """Share of the tokens to be predicted that the mask token replaces."""
    random_replace_prob: float = flag(0.1, DATA)
    """Share of the tokens to be predicted that random tokens replace; the rest stays as it is."""
    whole_words: bool = flag(False, DATA)
    """Mask all sub-words of a word or none."""
    max_length: int | None = None  # type: ignore[assignment]
    """Length of a row in tokens; longer texts are cut into pieces."""
    epochs: float = 0.0
    """Length of the run in passes over the data; 0 for one, or on the embedded corpus for 800 steps."""
    batch_size: int | None = None
    """Rows of --max-length tokens per optimizer step, over all devices."""
    eval_every: str = operational("200")
    checkpoint_every: str = operational("500")


def settle(config: Config) -> Config:
    """Fills in what was not given, by the weights, and the length of the run."""
    config = fill_in(config, RECIPES, PRESETS)
    if config.steps or config.epochs:
        return config
    return dataclasses.replace(config, steps=DEMO_STEPS if config.dataset == (BUILTIN,) else 0, epochs=1.0)


def start(config: Config, data: Texts) -> Start:
    """A pretrained encoder with its head, or a preset with a tokenizer trained on the text."""
    if config.model not in PRESETS:
        opened = open_weights(config.model, "masked", dtype=config.dtype, remat=config.remat)
        tokenizer = hf.load_tokenizer(config.tokenizer or str(opened.folder))
        check_vocabulary(tokenizer, opened.config.encoder.vocab_size, own=not config.tokenizer)
        return Start(opened.spec, opened.config, tokenizer, opened, tuple(opened.notes))
    shape, tokenizer = from_scratch(config, (text for documents in data.train for text in documents.texts()))
    masked = MaskedConfig(shape, transform_bias=False)
    return Start(describe_model(masked), masked, tokenizer, None, ())


def with_share(begin: Start, masking: Masking) -> Start:
    """The model that knows what share of the positions is asked for."""
    config = dataclasses.replace(begin.config, learned=masking.rate)
    described = describe_model(config)
    return dataclasses.replace(
        begin, config=config, model=dataclasses.replace(described, load=begin.model.load, frozen=begin.model.frozen)
    )


def main(config: Config) -> None:
    """Reads, trains, evaluates, shows and exports."""
    config = settle(config)
    loss = token_loss(config)
    session = open_session("mlm", config)
    console, mesh = session.console, session.mesh
    data = read_texts(config)
    check_best(config.best, evals={"dev": evaluation.NUMBERS} if data.dev else {})
    begin = start(config, data)
    masking = masking_of(
        begin.tokenizer, rate=config.mask_rate, replace=config.mask_replace_prob, random=config.random_replace_prob,
        whole_words=config.whole_words,
    )  # fmt: skip
    length, most = config.max_length or 0, begin.config.encoder.max_positions
    if not 3 <= length <= most:
        raise InputError(f"--max-length {length}: give 3 to {most}, the context of the model")
    begin, marks = with_share(begin, masking), Marks.of(begin.tokenizer)

    def rows(found: Sequence[Documents]) -> list[Pieces]:
        size = begin.config.encoder.vocab_size
        corpora = [open_corpus(one, begin.tokenizer, size, say=console.print) for one in found]
        return [Pieces(corpus, length, marks, config.pack) for corpus in corpora]

    train, dev = rows(data.train), rows(data.dev)
    feed = masked_loader(train, data.weights, masking, batch_size=config.batch_size, seed=config.seed)
    arguments = fit_arguments(config, feed.plan)
    if session.finished(arguments["steps"]):
        return
    corpora = [[part.corpus for part in parts] for parts in (train, dev)]
    lines, known = lines_of(*corpora), dict[str, float]()
    if dev:
        tokens = ([one.tokens for one in part] for part in corpora)
        known["frequency_loss"] = evaluation.frequency_loss(*tokens, masking.special_V)
        lines.append(("", f"dev loss of token frequencies alone: {known['frequency_loss']:.3f}"))
    session.header(begin, [*lines, ("rows", feed.plan.describe())])

    batches = MaskedBatches(dev, masking, config.eval_batch_size, row_multiple(mesh))
    evals: dict[str, Any] = {"dev": functools.partial(evaluation.evaluate, batches=batches)} if dev else {}
    fitted = fit(
        begin.model, loss=loss, data=feed, optimizer=optim_config(config), run=session.describing(begin), mesh=mesh,
        evals=evals, **arguments,
    )  # fmt: skip
    if config.dataset == (BUILTIN,):
        texts = [text.format(begin.tokenizer.mask_token) for text in DEMO]
        for text, found in zip(texts, evaluation.fill(fitted.model, begin.tokenizer, texts), strict=True):
            console.print(f"{text}: " + ", ".join(f"{token} {p:.2f}" for token, p in found), markup=False)
    session.finish(begin, fitted, arguments["steps"], **summary_of([*itertools.chain(*corpora)]), **known)


if __name__ == "__main__":
    run_script(main, Config)
