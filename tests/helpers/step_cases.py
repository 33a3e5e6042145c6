"""A model, a loss and a batch of every kind, each with a mesh that cuts it."""

import dataclasses

import numpy as np
import optax

from jaxllm.data.packing import Example, collate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.data.rollouts import Completion, RolloutRows, Sampled
from jaxllm.models import decoder, encoder, heads, mlm_head

VOCAB, B, T = 48, 8, 24
SIZES = {"vocab_size": VOCAB, "width": 16, "depth": 2, "heads": 4, "mlp_width": 24, "max_positions": 32, "unroll": 1}
LLAMA = decoder.Config(**SIZES, kv_heads=2)
GEMMA = dataclasses.replace(LLAMA, windows=(4, 0), attention_softcap=5.0, logit_softcap=7.0, tied=True, qk_norm="head")
UNEVEN = dataclasses.replace(LLAMA, vocab_size=VOCAB + 1)
MIXTURE = dataclasses.replace(LLAMA, experts=4)
MODERNBERT = encoder.Config(
    **SIZES,
    token_types=0,
    rope_base=1e4,
    local_rope_base=1e3,
    window=3,
    global_every=2,
    pre_norm=True,
    gated=True,
    embedding_dropout=0.0,
    attention_dropout=0.0,
    attention_output_dropout=0.0,
    mlp_output_dropout=0.0,
)
TAGGER = heads.TaggerConfig(MODERNBERT, tuple("OABCDEFG"), classifier_dropout=0.0)
MASKED = mlm_head.MaskedConfig(dataclasses.replace(MODERNBERT, vocab_size=VOCAB + 1), learned=0.3)
SGD = optax.sgd(1.0)


def rows():
    """Packed documents of uneven lengths and weights."""
    rng = np.random.default_rng(0)

    def example(length):
        of = rng.integers(0, VOCAB, length + 1).astype(np.int32)
        return Example(of[:-1], of[1:], rng.uniform(0, 2, length).astype(np.float32) * (rng.random(length) < 0.7))

    return collate([[example(n) for n in lengths] for lengths in [(24,), (5, 11), (9, 9, 2), (20,), (7, 3)]], T, B)


def tags():
    batch = rows()
    return dataclasses.replace(batch, targets_BT=batch.tokens_BT % 8)


def answers(closed=False, reference=False):
    """Pairs that share their prompts, two in some rows."""
    rng = np.random.default_rng(1)

    def answer(side):
        length = int(rng.integers(2, 5))
        return Answer(rng.integers(0, VOCAB, length).astype(np.int32), np.ones(length, bool), side)

    groups = [Group(rng.integers(0, VOCAB, 3).astype(np.int32), (answer(1), answer(-1))) for _ in range(11)]
    layout = Layout(closed=closed)
    logps = [[-rng.uniform(1, 4, layout.size(a)).astype(np.float32) for a in g.answers] for g in groups]
    made = AnswerRows(groups, layout, logps if reference else None)
    return made.collate([[0, 1], [2], [3, 4], [5], [6], [7, 8], [9], [10]], T, B, 4)


def rollouts(logps=("old", "ref", "sampler"), share=True):
    """Completions that share their prompts, one of them without a token to learn from, two prompts in some rows."""
    rng = np.random.default_rng(2)

    def completion(learn=True):
        length = int(rng.integers(2, 5))
        given = {f"{name}_logps": -rng.uniform(1, 6, length).astype(np.float32) for name in logps}
        trained = (rng.random(length) < 0.8) & learn
        return Completion(rng.integers(0, VOCAB, length).astype(np.int32), float(rng.normal()), trained, **given)

    prompts = [
        Sampled(rng.integers(0, VOCAB, 3).astype(np.int32), (completion(n != 4), completion())) for n in range(11)
    ]
    made = RolloutRows(prompts, Layout(share=share), max_length=6)
    return made.collate([[0, 1], [2], [3, 4], [5], [6], [7, 8], [9], [10]], T, B, 4)


def masked():
    """Tokens of which three in ten are asked for; a row without one."""
    batch = rows()
    asked = np.random.default_rng(3).random(batch.weights_BT.shape) < 0.3
    asked[1] = False
    weights, targets = np.float32(asked & (batch.segments_BT > 0)), np.roll(batch.tokens_BT, 5, axis=1)
    return dataclasses.replace(batch, targets_BT=targets, weights_BT=weights)


def masked_lm(rngs):
    return mlm_head.MaskedLM(MASKED, rngs)


def tagger(rngs):
    return heads.Tagger(TAGGER, rngs)


def scored(config):
    return lambda rngs: heads.Scorer(heads.ScorerConfig(config), rngs)


def plain(config):
    return lambda rngs: decoder.Decoder(config, rngs)


CASES = {
    "tagger": (tagger, heads.SHARDING, "cross_entropy", tags, "data=2,fsdp=2,context=2"),
    "masked": (masked_lm, mlm_head.SHARDING, "cross_entropy", masked, "data=2,fsdp=2,tensor=2"),
    "llama": (plain(LLAMA), decoder.SHARDING, "cross_entropy", rows, "fsdp=2,tensor=2,context=2"),
    "gemma": (plain(GEMMA), decoder.SHARDING, "unlikelihood", rows, "data=2,context=4"),
    "mixture": (plain(MIXTURE), decoder.SHARDING, "focal", rows, "fsdp=2,context=2,expert=2"),
    "reward": (scored(LLAMA), heads.SCORER_SHARDING, "bradley_terry", lambda: answers(closed=True), "fsdp=2,context=4"),
    "dpo": (plain(UNEVEN), decoder.SHARDING, "dpo", lambda: answers(reference=True), "data=2,tensor=2,context=2"),
    "dapo": (plain(UNEVEN), decoder.SHARDING, "dapo", rollouts, "fsdp=2,tensor=2,context=2"),
    "gspo": (plain(MIXTURE), decoder.SHARDING, "gspo:0.5+dr_grpo:0.5", rollouts, "data=2,fsdp=2,expert=2"),
    "simpo": (plain(MIXTURE), decoder.SHARDING, "simpo", answers, "fsdp=2,tensor=2,expert=2"),
}
