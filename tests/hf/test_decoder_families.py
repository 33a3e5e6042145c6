"""Every decoder family against `transformers`: logits, loss, gradients, generation, and files both ways."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from decoder_cases import CASES, LINEAR, ONE_EACH
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file

from jaxllm.evals.generate import generate
from jaxllm.hf import export, open_model
from jaxllm.params import bind, materialize
from jaxllm.types import Batch, InputError, value

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

torch.set_num_threads(1)  # on a busy machine its threads wait for each other, a hundred times longer than they work
LENGTH = 40


def make(name):
    """A torch model whose parameters are large enough that every part of it shows in the logits."""
    kind, fields = CASES[name]
    config = transformers.CONFIG_MAPPING[kind](**fields, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.2 * torch.randn_like(parameter))
            else:
                parameter.copy_(0.25 * torch.randn_like(parameter))
    return model


def read(folder, **overrides):
    opened = open_model(str(folder), "lm", **overrides)
    here = SingleDeviceSharding(jax.devices()[0])
    return opened, materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, here), seed=0)


def documents():
    """Texts: one of full length, one to pad on the left, two to pack into one row."""
    draw = np.random.default_rng(1)
    return [draw.integers(2, 67, n) for n in (LENGTH, 29, 21, 14)]


def rows(documents):
    """Three rows of them, and where each token of each document went: (row, first column)."""
    places = [(0, 0), (1, LENGTH - 29), (2, 0), (2, 21)]
    tokens, targets, segments, positions = (np.zeros((3, LENGTH), np.int32) for _ in range(4))
    weights = np.zeros((3, LENGTH), np.float32)
    for number, (text, (row, at)) in enumerate(zip(documents, places, strict=True), 1):
        here = (row, slice(at, at + len(text)))
        tokens[here], segments[here], positions[here] = text, number, np.arange(len(text))
        targets[row, at : at + len(text) - 1], weights[row, at : at + len(text) - 1] = text[1:], 1.0
    return Batch(tokens, targets, weights, segments, positions), places


def by_torch(model, documents):
    """Logits per document, loss and balance of all, and gradients in the model."""
    ids = torch.zeros(len(documents), LENGTH, dtype=torch.long)
    mask = torch.zeros_like(ids)
    for row, text in enumerate(documents):
        ids[row, : len(text)], mask[row, : len(text)] = torch.tensor(text), 1
    mixture = hasattr(model.config, "num_experts_per_tok")
    out = model(ids, attention_mask=mask, **({"output_router_logits": True} if mixture else {}))
    labels = torch.where(mask.bool(), ids, -100)[:, 1:]
    loss = torch.nn.functional.cross_entropy(out.logits[:, :-1].flatten(0, 1), labels.flatten(), ignore_index=-100)
    balance = model.config.router_aux_loss_coef * out.aux_loss if mixture else torch.tensor(0.0)
    (loss + balance).backward()
    logits = [row[: len(text)].detach().numpy() for row, text in zip(out.logits, documents, strict=True)]
    return logits, loss.item(), balance.item()


def gradients_by_name(model, folder):
    """The gradients of a torch model in our names: written as a checkpoint, and read as one."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.zeros_like(parameter) if parameter.grad is None else parameter.grad)
    model.save_pretrained(folder)
    return read(folder)[1]


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path / "hf")
    opened, params = read(tmp_path / "hf", unroll=1)
    assert opened.notes == []
    batch, places = rows(documents())

    @jax.jit
    def ours(params):
        def objective(params):
            bound = bind(opened.spec.graphdef, params)
            hidden_BTD, metrics = bound.hidden(batch)
            logits = bound.head(hidden_BTD)
            nats = -jnp.take_along_axis(jax.nn.log_softmax(logits), batch.targets_BT[..., None], axis=-1)[..., 0]
            loss, balance = jnp.sum(nats * batch.weights_BT) / batch.weights_BT.sum(), metrics.get("router_balance", ())
            return loss + value(balance), (loss, value(balance), logits)

        return jax.grad(objective, has_aux=True)(params)

    gradients, (loss, balance, logits) = ours(params)
    expected_logits, expected_loss, expected_balance = by_torch(model, documents())
    assert max(np.abs(x).max() for x in expected_logits) > 1.5
    for (row, at), expected in zip(places, expected_logits, strict=True):
        np.testing.assert_allclose(logits[row, at : at + len(expected)], expected, atol=1e-4, rtol=0)
    assert loss == pytest.approx(expected_loss, abs=1e-5)
    assert balance == pytest.approx(expected_balance, rel=1e-5)

    expected = gradients_by_name(model, tmp_path / "gradients")
    largest = max(float(jnp.abs(x).max()) for x in expected.values())
    assert expected.keys() == gradients.keys()
    for key, x in expected.items():
        # That of a key's bias is 0 but for rounding, for softmax does not see it: a few epsilons of the largest stay.
        bound = max(1e-4 * float(jnp.abs(x).max()), 4 * float(jnp.finfo(jnp.float32).eps) * largest)
        assert float(jnp.abs(gradients[key] - x).max()) <= bound, key


@pytest.mark.parametrize("name", ONE_EACH)
def test_generates_as_transformers(name, tmp_path):
    model = make(name)
    model.save_pretrained(tmp_path)
    opened, params = read(tmp_path)
    prompts = [text.tolist() for text in documents()[1:]]
    width = max(map(len, prompts))
    ids = torch.tensor([[0] * (width - len(prompt)) + prompt for prompt in prompts])
    mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts])
    expected = model.generate(ids, attention_mask=mask, do_sample=False, max_new_tokens=64, pad_token_id=0)
    assert generate(opened.spec.graphdef, params, prompts, max_tokens=64) == expected[:, width:].tolist()


@pytest.mark.parametrize("name", ONE_EACH)
def test_files_go_both_ways(name, tmp_path):
    model = make(name).to(torch.bfloat16)
    model.save_pretrained(tmp_path / "in")
    opened, params = read(tmp_path / "in")
    export(tmp_path / "out", params, opened.config, None, source=opened)
    before, after = (load_file(tmp_path / x / "model.safetensors") for x in ("in", "out"))
    assert before.keys() == after.keys()
    for key, x in before.items():
        assert x.dtype == after[key].dtype == jnp.bfloat16
        assert x.tobytes() == after[key].tobytes(), key

    export(tmp_path / "new", params, opened.config, None)
    weights = model.float().state_dict()
    for folder in ("out", "new"):
        loaded, info = transformers.AutoModelForCausalLM.from_pretrained(
            tmp_path / folder, dtype=torch.float32, output_loading_info=True
        )
        assert not any(info.values())
        assert type(loaded) is type(model)
        assert loaded.state_dict().keys() == weights.keys()
        assert all(torch.equal(x, weights[key]) for key, x in loaded.state_dict().items())


@pytest.mark.parametrize(
    ("name", "change", "words"),
    [
        (
            "llama-2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            ["dynamic", "rope"],
        ),
        ("llama-2", {"rope_parameters": {**LINEAR, "partial_rotary_factor": 0.5}}, ["partial_rotary_factor"]),
        ("llama-2", {"hidden_act": "mish"}, ["hidden_act", "mish"]),
        ("llama-2", {"quantization_config": {"bits": 4}}, ["quantization_config"]),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, ["scale_attn_by_inverse_layer_idx"]),
        ("gpt2", {"add_cross_attention": True}, ["add_cross_attention"]),
        ("gemma3", {"use_bidirectional_attention": True}, ["use_bidirectional_attention"]),
        ("mixtral", {"router_jitter_noise": 0.1}, ["router_jitter_noise"]),
        ("qwen3-moe", {"mlp_only_layers": [0]}, ["mlp_only_layers"]),
        ("qwen3-moe", {"decoder_sparse_step": 2}, ["decoder_sparse_step"]),
        ("qwen3-windows", {"layer_types": ["chunked_attention"] * 3}, ["chunked_attention"]),
        (
            "qwen3",
            {"num_hidden_layers": 3, "layer_types": None},
            ["missing model.layers.2.mlp.up_proj.weight (32, 24)"],
        ),
        ("qwen3", {"model_type": "mamba"}, ["mamba", "supported"]),
    ],
)
def test_what_is_not_honoured_is_refused(name, change, words, tmp_path):
    make(name).save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError) as caught:
        open_model(str(tmp_path), "lm")
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words), message


def test_gpt2_as_first_published(tmp_path):
    """Names without a prefix, the causal mask among the weights, no lm_head."""
    model = make("gpt2")
    model.transformer.save_pretrained(tmp_path / "bare")
    tensors = load_file(tmp_path / "bare" / "model.safetensors")
    assert "wte.weight" in tensors
    from safetensors.numpy import save_file

    masks = {"h.0.attn.bias": np.ones((1, 1, 8, 8), np.float32), "h.0.attn.masked_bias": np.array(-1e4, np.float32)}
    save_file({**tensors, **masks}, tmp_path / "bare" / "model.safetensors")
    model.save_pretrained(tmp_path / "whole")
    shutil.copy(tmp_path / "whole" / "config.json", tmp_path / "bare" / "config.json")
    (bare, own), (_, whole) = read(tmp_path / "bare"), read(tmp_path / "whole")
    assert all((own[name] == whole[name]).all() for name in whole)
    assert bare.notes == ["not read: h.0.attn.bias, h.0.attn.masked_bias"]
