"""Masked language models equal `transformers`, logits and gradients, on small random configurations of every family."""

from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from drawn import drawn
from transformers import CONFIG_MAPPING, AutoModelForMaskedLM

from jaxllm import hf
from jaxllm.data.packing import Example, collate
from jaxllm.hf import table
from jaxllm.losses import resolve
from jaxllm.models import encoder
from jaxllm.models.heads import describe_model
from jaxllm.models.mlm_head import MaskedConfig
from jaxllm.params import bind, materialize
from jaxllm.types import Batch

torch = pytest.importorskip("torch")

torch.set_num_threads(1)

PAD, VOCAB = 1, 53
BERT = {"num_attention_heads": 3, "hidden_size": 24, "intermediate_size": 37, "num_hidden_layers": 2}
MODERN = {
    **BERT, "cls_token_id": 2, "sep_token_id": 3, "bos_token_id": 2, "eos_token_id": 3, "local_attention": 6,
    "num_attention_heads": 2,
}  # fmt: skip
DEBERTA = {
    **BERT, "relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 8, "share_att_key": True,
    "norm_rel_ebd": "layer_norm", "position_biased_input": False,
}  # fmt: skip
DISTIL = {"n_heads": 3, "dim": 24, "hidden_dim": 41, "n_layers": 2}
CASES = {
    "bert": ("bert", BERT),
    "bert-relu": ("bert", {**BERT, "hidden_act": "relu", "layer_norm_eps": 1e-3}),
    "bert-untied": ("bert", {**BERT, "tie_word_embeddings": False}),
    "roberta": ("roberta", {**BERT, "type_vocab_size": 1, "layer_norm_eps": 1e-5}),
    "roberta-silu": ("roberta", {**BERT, "hidden_act": "silu"}),
    "xlm-roberta": ("xlm-roberta", {**BERT, "type_vocab_size": 1}),
    "camembert": ("camembert", {**BERT, "type_vocab_size": 1}),
    "distilbert": ("distilbert", DISTIL),
    "distilbert-relu": ("distilbert", {**DISTIL, "activation": "relu", "n_layers": 1}),
    "modernbert": ("modernbert", MODERN),
    "modernbert-biases": (
        "modernbert",
        {**MODERN, "norm_bias": True, "classifier_bias": True, "decoder_bias": False, "classifier_activation": "silu"},
    ),
    "modernbert-untied": ("modernbert", {**MODERN, "tie_word_embeddings": False}),
    "modernbert-one-layer": ("modernbert", {**MODERN, "num_hidden_layers": 1}),
    "electra": ("electra", {**BERT, "embedding_size": 10, "hidden_act": "relu"}),
    "electra-one-width": ("electra", {**BERT, "embedding_size": 24}),
    "albert": ("albert", {**BERT, "embedding_size": 10, "num_hidden_layers": 3}),
    "deberta": ("deberta-v2", DEBERTA),
    "deberta-v3": ("deberta-v2", {**DEBERTA, "legacy": False}),
}  # fmt: skip


def torch_model(kind: str, fields: dict) -> torch.nn.Module:
    """A random model in which no parameter is at its special initial value."""
    shape = {"vocab_size": VOCAB, "max_position_embeddings": 40, "pad_token_id": PAD, **fields}
    torch.manual_seed(0)
    config = CONFIG_MAPPING[kind](**shape)
    model = AutoModelForMaskedLM.from_config(config, attn_implementation="eager").eval()
    with torch.no_grad():
        for x in model.parameters():
            x.add_(0.1 * torch.randn(x.shape))
    return model


def examples() -> list[list[Example]]:
    """Two rows: a text with padding, and three packed; about a fifth of the tokens is learned."""
    rng = np.random.default_rng(0)

    def example(length: int) -> Example:
        ids, targets = rng.integers(4, VOCAB, (2, length)).astype(np.int32)
        weights = (rng.random(length) < 0.3).astype(np.float32)
        weights[0] = 1
        return Example(ids, targets, weights)

    return [[example(13)], [example(8), example(1), example(7)]]


def torch_run(model: torch.nn.Module, rows: list[list[Example]], offset: int) -> tuple[list, float]:
    """Logits of every text alone, and the loss, whose gradients are left in the model."""
    logits, total, count = [], torch.zeros(()), 0.0
    for example in (example for row in rows for example in row):
        ids = torch.tensor(example.tokens[None]).long()
        positions = torch.arange(len(example.tokens))[None] + offset
        out = model(input_ids=ids, attention_mask=torch.ones_like(ids), position_ids=positions).logits[0]
        logits.append(out.detach().numpy())
        losses = torch.nn.functional.cross_entropy(out, torch.tensor(example.targets).long(), reduction="none")
        total = total + (losses * torch.tensor(example.weights)).sum()
        count += float(example.weights.sum())
    (total / count).backward()
    return logits, total.item() / count


@pytest.mark.parametrize("case", CASES)
def test_equals_transformers_which_loads_its_export(case, tmp_path):
    kind, fields = CASES[case]
    model = torch_model(kind, fields)
    model.save_pretrained(tmp_path)
    opened = hf.open_model(str(tmp_path), unroll=1)
    assert (opened.task, opened.notes, opened.initialised) == ("masked", [], frozenset())
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)
    rows, loss = examples(), resolve("cross_entropy")
    batch = collate(rows, 17, 2)
    wanted, wanted_loss = torch_run(model, rows, opened.config.encoder.position_offset)

    def run(params):
        model = bind(opened.spec.graphdef, params)
        hidden = model.hidden(batch)
        read = SimpleNamespace(hidden=lambda *_: hidden, head=model.head, learned=model.learned)  # once for both
        return loss(read, batch)["loss"].value(), model.head(hidden[0])

    forward = jax.jit(jax.value_and_grad(run, has_aux=True))
    (value, logits), grads = forward(params)
    assert value == pytest.approx(wanted_loss, abs=1e-5)
    found = [logits[0, :13], logits[1, :8], logits[1, 8:9], logits[1, 9:16]]
    for ours, theirs in zip(found, wanted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4, rtol=0)

    tensors = table.layout(opened.table, params)
    named = model.named_parameters(remove_duplicate=False)
    expected = {name: x.grad.numpy() for name, x in named if x.grad is not None}
    sources, largest = table.sources(tensors), max(np.abs(x).max() for x in expected.values())
    for name, grad in grads.items():
        whole = (slice(None),) * grad.ndim
        theirs = table.piece(sources[name], grad.shape, whole, np.float32, expected.__getitem__)
        for mine, other in zip(grad, theirs, strict=True) if name.startswith("blocks.") else [(grad, theirs)]:
            if kind == "modernbert" and name.startswith("blocks.attn_norm.") and not np.any(np.asarray(mine)):
                continue  # the first layer has none
            assert np.abs(mine - other).max() <= 1e-4 * max(np.abs(other).max(), largest / 1000), name

    trained = {name: x - grads[name] for name, x in params.items()}
    ours = np.asarray(forward(trained)[0][1])
    for source in (opened, None):
        hf.export(tmp_path / "out", trained, opened.config, None, source=source, tokens={"pad_token_id": PAD})
        again, info = AutoModelForMaskedLM.from_pretrained(tmp_path / "out", output_loading_info=True)
        assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        theirs, _ = torch_run(again.eval(), rows, opened.config.encoder.position_offset)
        np.testing.assert_allclose(ours[0, :13], theirs[0], atol=1e-4, rtol=0)
        np.testing.assert_allclose(ours[1, 9:16], theirs[3], atol=1e-4, rtol=0)


SMALL = encoder.Config(vocab_size=600, width=12, depth=1, heads=3, mlp_width=17, max_positions=64, unroll=1)


def sparse(length: int = 64) -> Batch:
    """Rows of which about a tenth is learned, each at places of its own."""
    rng = np.random.default_rng(0)
    texts = [
        Example(*rng.integers(0, 600, (2, length)).astype(np.int32), (rng.random(length) < 0.1).astype(np.float32))
        for _ in range(4)
    ]
    return jax.tree.map(jnp.asarray, collate([[text] for text in texts], length, 4))


@pytest.mark.parametrize(("learned", "computed"), [(1.0, 4 * 64), (0.1, 4 * 8 * 2)])
def test_the_head_is_computed_for_chunks_with_masked_positions_alone(learned, computed):
    """As many positions at once as are masked in a row on average, and as often as the fullest row needs."""
    spec, batch = describe_model(MaskedConfig(SMALL, learned=learned)), sparse()
    loss, calls = resolve("cross_entropy"), []
    fullest = int(batch.weights_BT.sum(axis=1).max())
    assert fullest == 9  # and chunks are of 8

    class Counting:
        """A model that notes for how many positions its head is computed."""

        def __init__(self, model):
            self.model, self.learned, self.hidden = model, model.learned, model.hidden

        def head(self, hidden):
            jax.debug.callback(lambda: calls.append(int(np.prod(hidden.shape[:-1]))))
            return self.model.head(hidden)

    def run(params, model):
        return loss(model(bind(spec.graphdef, params)), batch)["loss"].value()

    params = drawn(spec, std=0.3)
    jax.jit(lambda params: run(params, Counting))(params)
    jax.effects_barrier()
    assert sum(calls) == computed
