"""The encoder equals `transformers`, weights and gradients, on small random configurations of every family."""

import dataclasses
import re
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification

from jaxllm import hf
from jaxllm.hf import table
from jaxllm.models import encoder
from jaxllm.models.heads import SHARDING, Tagger, TaggerConfig
from jaxllm.params import bind, describe, materialize
from jaxllm.types import Batch, InputError

torch = pytest.importorskip("torch")

torch.set_num_threads(1)

PAD, VOCAB, LABELS = 1, 53, 5
BERT = {"num_attention_heads": 3, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2}
MODERN = {
    **BERT, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "hidden_size": 36,
    "num_hidden_layers": 4, "local_attention": 6,
}  # fmt: skip
DEBERTA = {
    **BERT, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 8, "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False,
}  # fmt: skip
CASES = {
    "bert": ("bert", BERT),
    "bert-relu-one-type": ("bert", {**BERT, "hidden_act": "relu", "type_vocab_size": 1, "layer_norm_eps": 1e-3}),
    "bert-gelu-new": ("bert", {**BERT, "hidden_size": 36, "hidden_act": "gelu_new", "num_hidden_layers": 3}),
    "roberta": ("roberta", {**BERT, "type_vocab_size": 1}),
    "roberta-wide": ("roberta", {**BERT, "hidden_size": 36, "layer_norm_eps": 1e-5}),
    "roberta-silu": ("roberta", {**BERT, "hidden_act": "silu", "num_hidden_layers": 1, "pad_token_id": 3}),
    "xlm-roberta": ("xlm-roberta", {**BERT, "type_vocab_size": 1, "num_attention_heads": 2}),
    "camembert": ("camembert", {**BERT, "type_vocab_size": 1}),
    "camembert-two-types": ("camembert", {**BERT, "pad_token_id": 2, "layer_norm_eps": 1e-5}),
    "camembert-relu": ("camembert", {**BERT, "hidden_size": 36, "hidden_act": "relu", "num_hidden_layers": 3}),
    "electra": ("electra", {**BERT, "embedding_size": 10}),
    "electra-one-width": ("electra", {**BERT, "embedding_size": 24, "type_vocab_size": 1, "hidden_act": "gelu_new"}),
    "electra-wide-tables": ("electra", {**BERT, "embedding_size": 30, "num_hidden_layers": 3, "layer_norm_eps": 1e-4}),
    "albert": ("albert", {**BERT, "embedding_size": 10, "num_hidden_layers": 3}),
    "albert-groups": ("albert", {**BERT, "embedding_size": 24, "num_hidden_layers": 5, "num_hidden_groups": 2}),
    "albert-gelu": ("albert", {**BERT, "hidden_size": 36, "embedding_size": 7, "hidden_act": "gelu"}),
    "deberta-v3": ("deberta-v2", DEBERTA),
    "deberta-v2-convolution": (
        "deberta-v2",
        {**DEBERTA, "hidden_size": 36, "conv_kernel_size": 3, "conv_act": "gelu", "position_buckets": 4},
    ),
    "deberta-own-projections": (
        "deberta-v2",
        {**BERT, "relative_attention": True, "pos_att_type": ["c2p", "p2c"], "max_relative_positions": 5,
         "type_vocab_size": 2, "hidden_act": "relu", "layer_norm_eps": 1e-4, "conv_kernel_size": 5, "conv_act": "relu"},
    ),
    "deberta-c2p": ("deberta-v2", {**DEBERTA, "pos_att_type": ["c2p"], "share_att_key": False}),
    "deberta-p2c": ("deberta-v2", {**DEBERTA, "pos_att_type": ["p2c"], "norm_rel_ebd": "none", "num_hidden_layers": 3}),
    "deberta-content-alone": ("deberta-v2", {**BERT, "type_vocab_size": 1}),
    "distilbert": ("distilbert", {"n_heads": 3, "dim": 24, "hidden_dim": 41, "n_layers": 2}),
    "distilbert-relu": ("distilbert", {"n_heads": 3, "dim": 36, "hidden_dim": 29, "n_layers": 3, "activation": "relu"}),
    "distilbert-one": ("distilbert", {"n_heads": 1, "dim": 10, "hidden_dim": 7, "n_layers": 1}),
    "modernbert": ("modernbert", MODERN),
    "modernbert-biases": (
        "modernbert",
        {**MODERN, "attention_bias": True, "mlp_bias": True, "norm_bias": True, "classifier_bias": True},
    ),
    "modernbert-every-other": (
        "modernbert",
        {**MODERN, "hidden_size": 12, "global_attn_every_n_layers": 2, "local_attention": 3, "global_rope_theta": 500.0,
         "local_rope_theta": 50.0, "hidden_activation": "silu"},
    ),
}  # fmt: skip


def torch_model(kind: str, fields: dict) -> torch.nn.Module:
    """A random model in which no parameter is at its special initial value."""
    config = CONFIG_MAPPING[kind](**{
        "vocab_size": VOCAB, "max_position_embeddings": 40, "pad_token_id": PAD, "num_labels": LABELS, **fields
    })  # fmt: skip
    torch.manual_seed(0)
    model = AutoModelForTokenClassification.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for name, x in model.named_parameters():
            x.add_(0.1 * torch.randn(x.shape))
            if "word_embeddings" in name or "tok_embeddings" in name:
                x[config.pad_token_id] = 3.0  # whoever looks at padding is found out
    return model


@dataclasses.dataclass
class Text:
    """A sentence at a place in the batch."""

    row: int
    start: int
    tokens: np.ndarray
    labels: np.ndarray
    weights: np.ndarray
    segment: int = 1


def texts(pad: int) -> list[Text]:
    """Row 0 padded, row 1 padded on the left, row 2 packed with three."""
    rng = np.random.default_rng(0)
    ids = np.array([i for i in range(VOCAB) if i != pad])

    def text(row: int, start: int, length: int, segment: int = 1) -> Text:
        weights = (rng.random(length) < 0.7).astype(np.float32)
        return Text(row, start, rng.choice(ids, length), rng.integers(0, LABELS, length), weights, segment)

    return [text(0, 0, 13), text(1, 5, 12), text(2, 0, 8, 1), text(2, 8, 1, 2), text(2, 9, 7, 3)]


def batch_of(parts: list[Text], pad: int, length: int = 17) -> Batch:
    shape = (1 + max(text.row for text in parts), length)
    tokens, labels, segments, positions = (np.full(shape, x, np.int32) for x in (pad, 0, 0, 0))
    weights = np.zeros(shape, np.float32)
    for text in parts:
        at = text.row, slice(text.start, text.start + len(text.tokens))
        tokens[at], labels[at], weights[at] = text.tokens, text.labels, text.weights
        segments[at], positions[at] = text.segment, np.arange(len(text.tokens))
    return Batch(*map(jnp.asarray, (tokens, labels, weights, segments, positions)))


def torch_run(model: torch.nn.Module, parts: list[Text], batch: Batch, offset: int) -> dict:
    """Hidden states and logits, padded rows as they are and packed texts alone; gradients of the mean cross entropy."""
    shape = batch.tokens_BT.shape
    hidden = np.zeros((*shape, model.config.hidden_size), np.float32)
    logits = np.zeros((*shape, LABELS), np.float32)
    total = torch.zeros(())
    for text in parts:
        row, at = text.row, slice(text.start, text.start + len(text.tokens))
        alone = text.row == 2
        cut = at if alone else slice(None)
        inputs = {
            "input_ids": torch.tensor(np.asarray(batch.tokens_BT[row : row + 1, cut])).long(),
            "attention_mask": torch.tensor(np.asarray(batch.segments_BT[row : row + 1, cut] > 0)).long(),
            "position_ids": torch.tensor(np.asarray(batch.positions_BT[row : row + 1, cut])).long() + offset,
        }
        inner = model.base_model(**inputs).last_hidden_state[0]
        out = model(**inputs).logits[0]
        if not alone:
            inner, out = inner[at], out[at]
        hidden[row, at], logits[row, at] = inner.detach().numpy(), out.detach().numpy()
        losses = torch.nn.functional.cross_entropy(out, torch.tensor(text.labels), reduction="none")
        total = total + (losses * torch.tensor(text.weights)).sum()
    loss = total / sum(text.weights.sum() for text in parts)
    loss.backward()
    return {"hidden": hidden, "logits": logits, "loss": loss.item()}


def open_one(folder, **overrides):
    """The checkpoint and its parameters on one device."""
    opened = hf.open_model(str(folder), "tagger", **overrides)
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    return opened, materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)


def run(graphdef, params, batch: Batch):
    """(loss, (hidden_BTD, logits_BTV)), gradients; the encoder is read, and compiled, once for both."""

    def loss(params):
        model = bind(graphdef, params)
        hidden = model.body(batch)
        read = SimpleNamespace(body=lambda *_: hidden, transform=model.transform, config=model.config)
        logits = model.head(Tagger.hidden(read, batch)[0])
        logps = jax.nn.log_softmax(logits)
        own = jnp.take_along_axis(logps, batch.targets_BT[..., None], axis=-1)[..., 0]
        return -jnp.sum(own * batch.weights_BT) / jnp.sum(batch.weights_BT), (hidden, logits)

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers(case, tmp_path):
    kind, fields = CASES[case]
    model = torch_model(kind, fields)
    model.save_pretrained(tmp_path)
    opened, params = open_one(tmp_path, unroll=1)
    assert opened.notes == [] or opened.notes[0].startswith("config.json")
    pad = model.config.pad_token_id
    parts = texts(pad)
    batch = batch_of(parts, pad)
    theirs = torch_run(model, parts, batch, opened.config.encoder.position_offset)
    (loss, (hidden, logits)), grads = jax.jit(partial(run, opened.spec.graphdef))(params, batch)

    real = np.asarray(batch.segments_BT) > 0
    np.testing.assert_allclose(hidden[real], theirs["hidden"][real], atol=1e-5, rtol=0)
    np.testing.assert_allclose(logits[real], theirs["logits"][real], atol=1e-4, rtol=0)
    np.testing.assert_allclose(loss, theirs["loss"], atol=1e-5, rtol=0)

    tensors = table.layout(opened.table, params)
    expected = {name: x.grad.numpy() for name, x in model.named_parameters() if x.grad is not None}
    rows = table.sources(tensors)
    largest = max(np.abs(x).max() for x in expected.values())
    for name, grad in grads.items():
        whole = (slice(None),) * grad.ndim
        wanted = table.piece(rows[name], grad.shape, whole, np.float32, expected.__getitem__)
        for mine, other in zip(grad, wanted, strict=True) if name.startswith("blocks.") else [(grad, wanted)]:
            if name.startswith("blocks.attn_norm.") and not np.any(np.asarray(mine)):
                continue  # the first layer of ModernBERT has none; its row learns nothing
            bound = 1e-4 * max(np.abs(other).max(), largest / 1000)
            assert np.abs(mine - other).max() <= bound, name


def test_padding_ids_in_a_text_have_the_positions_of_transformers(tmp_path):
    model = torch_model("roberta", {**BERT, "num_hidden_layers": 1, "type_vocab_size": 1})
    model.save_pretrained(tmp_path)
    opened, params = open_one(tmp_path, unroll=1)
    given = [[7, 8, PAD, 9, PAD, PAD, 10], [PAD, 11, 12, PAD], [5, 6]]  # packed, then four columns of padding
    parts, start = [], 0
    for segment, ids in enumerate(given, start=1):
        parts.append(Text(0, start, np.array(ids), np.zeros(len(ids)), np.ones(len(ids)), segment))
        start += len(ids)
    batch = batch_of(parts, PAD)

    def forward(params):
        bound = bind(opened.spec.graphdef, params)
        return bound.head(bound.hidden(batch)[0])

    logits = np.asarray(jax.jit(forward)(params))[0]
    for part in parts:
        ids = torch.tensor(part.tokens[None])
        wanted = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits[0].detach().numpy()
        np.testing.assert_allclose(logits[part.start : part.start + len(part.tokens)], wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("pad", [1, 3])
def test_roberta_at_its_full_length(pad, tmp_path):
    """Positions begin behind the padding token's number: 510 of 514 are left where that is 3."""
    model = torch_model("roberta", {**BERT, "num_hidden_layers": 1, "type_vocab_size": 1, "pad_token_id": pad})
    model.save_pretrained(tmp_path)
    opened, params = open_one(tmp_path, unroll=1)
    length = opened.config.encoder.max_positions
    assert length == 40 - pad - 1
    ids = np.random.default_rng(0).choice([i for i in range(VOCAB) if i != pad], length)
    batch = batch_of([Text(0, 0, ids, np.zeros(length), np.ones(length))], pad, length)

    def forward(params):
        bound = bind(opened.spec.graphdef, params)
        return bound.head(bound.hidden(batch)[0])

    wanted = model(input_ids=torch.tensor(ids[None])).logits[0].detach().numpy()
    np.testing.assert_allclose(np.asarray(jax.jit(forward)(params))[0], wanted, atol=1e-4, rtol=0)


def random_params(abstract):
    rng = np.random.default_rng(0)
    return {
        name: jnp.asarray(name.endswith(".scale") + 0.1 * rng.normal(size=x.shape), x.dtype)
        for name, x in abstract.items()
    }


SMALL = encoder.Config(vocab_size=31, width=12, depth=3, heads=3, mlp_width=17, max_positions=16, unroll=1)
ROTARY = dataclasses.replace(
    SMALL, token_types=0, rope_base=100.0, local_rope_base=10.0, window=2, global_every=2, pre_norm=True, gated=True
)
SHARED = dataclasses.replace(SMALL, groups=2, embedding_width=7)


@pytest.mark.parametrize("config", [SMALL, ROTARY, SHARED], ids=["learned", "rotary", "shared"])
def test_the_same_however_it_is_computed(config):
    """More padding, an unrolled stack instead of a loop, recomputation: the same numbers. bfloat16: close."""
    rng = np.random.default_rng(1)
    parts = [
        Text(0, 0, rng.integers(2, 31, 9), rng.integers(0, 3, 9), np.ones(9, np.float32)),
        Text(1, 0, rng.integers(2, 31, 4), rng.integers(0, 3, 4), np.ones(4, np.float32)),
        Text(1, 4, rng.integers(2, 31, 5), rng.integers(0, 3, 5), np.ones(5, np.float32), segment=2),
    ]
    batch, longer = batch_of(parts, 0, 9), batch_of(parts, 0, 14)

    def spec(**changes):
        tagger = TaggerConfig(dataclasses.replace(config, **changes), ("O", "B", "I"))
        return describe(lambda rngs: Tagger(tagger, rngs), ())

    params = random_params(spec().graphdef.abstract)
    (loss, (hidden, _)), grads = jax.jit(partial(run, spec().graphdef))(params, batch)
    variants = {
        "padding": (spec(), longer),
        "unrolled": (spec(unroll=3), batch),
        "recomputed": (spec(remat="full"), batch),
        "recomputed but for matmuls": (spec(remat="dots"), batch),
    }
    real = np.asarray(batch.segments_BT) > 0
    for name, (variant, inputs) in variants.items():
        (loss_, (hidden_, _)), grads_ = jax.jit(partial(run, variant.graphdef))(params, inputs)
        np.testing.assert_allclose(loss_, loss, rtol=1e-6, err_msg=name)
        np.testing.assert_allclose(hidden_[:, :9][real], hidden[real], atol=2e-6, err_msg=name)
        for path, grad in grads.items():
            np.testing.assert_allclose(grads_[path], grad, atol=1e-6, err_msg=f"{name} {path}")

    (low, (hidden_, logits_)), _ = jax.jit(partial(run, spec(dtype="bfloat16").graphdef))(params, batch)
    assert hidden_.dtype == jnp.bfloat16
    assert logits_.dtype == jnp.float32
    np.testing.assert_allclose(low, loss, rtol=0.02)
    assert 0 < np.abs(hidden_[real].astype(np.float32) - hidden[real]).max() < 0.1


def test_dropout_needs_a_key_and_follows_it():
    """And its mean over keys is what comes out without one, where dropout is the last thing done."""
    spec = describe(lambda rngs: encoder.Embeddings(SMALL, rngs), ())
    params = random_params(spec.graphdef.abstract)
    rng = np.random.default_rng(1)
    batch = batch_of([Text(0, 0, rng.integers(2, 31, 9), np.zeros(9), np.ones(9))], 0, 9)
    embed = jax.jit(lambda key: bind(spec.graphdef, params)(batch, key))
    one, again, other = embed(jax.random.key(1)), embed(jax.random.key(1)), embed(jax.random.key(2))
    np.testing.assert_array_equal(one, again)
    assert 0.02 < np.mean(np.asarray(one) == 0) < 0.2
    assert np.any(one != other)
    plain = jax.jit(lambda: bind(spec.graphdef, params)(batch, None))()
    mean = np.mean(jax.jit(jax.vmap(embed))(jax.random.split(jax.random.key(3), 4000)), axis=0)
    np.testing.assert_allclose(mean, plain, atol=0.05)


def test_every_rate_is_used():
    """Each dropout of the configuration, alone, changes the output; all off, a key changes nothing."""
    off = {field.name: 0.0 for field in dataclasses.fields(encoder.Config) if field.name.endswith("dropout")}
    rng = np.random.default_rng(1)
    batch = batch_of([Text(0, 0, rng.integers(2, 31, 9), np.zeros(9), np.ones(9))], 0, 9)
    params = None
    outputs = {}
    for rate in ("", *off):
        config = dataclasses.replace(SMALL, depth=1, **off | ({rate: 0.5} if rate else {}))
        spec = describe(lambda rngs, config=config: encoder.Encoder(config, rngs), ())
        params = params or random_params(spec.graphdef.abstract)
        outputs[rate] = np.asarray(
            jax.jit(bind_and_run, static_argnums=0)(spec.graphdef, params, batch, jax.random.key(0))
        )
    for rate in off:
        assert np.abs(outputs[rate] - outputs[""]).max() > 1e-3, rate
    np.testing.assert_allclose(
        jax.jit(bind_and_run, static_argnums=0)(spec.graphdef, params, batch, None), outputs[""], atol=1e-6
    )


def bind_and_run(graphdef, params, batch, key):
    return bind(graphdef, params)(batch, key)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 5}, "5 heads do not divide a width of 12"),
        ({"depth": 0}, "at least 1"),
        ({"groups": 4}, "4 groups for 3 layers; choose at most one group a layer"),
        ({"rope_base": 1e4, "heads": 4}, "even width, not 3"),
    ],
)
def test_impossible_sizes_are_refused(changes, message):
    with pytest.raises(InputError, match=message):
        dataclasses.replace(SMALL, **changes)


@pytest.mark.parametrize("config", [SMALL, ROTARY], ids=["learned", "rotary"])
def test_every_parameter_has_one_sharding_rule(config):
    tagger = TaggerConfig(config, ("O", "B"), transform=config.pre_norm, transform_bias=True)
    for name, x in describe(lambda rngs: Tagger(tagger, rngs), ()).graphdef.abstract.items():
        specs = [spec for pattern, spec in SHARDING if re.fullmatch(pattern, name)]
        assert len(specs) == 1, name
        assert len(specs[0]) <= len(x.shape), name
