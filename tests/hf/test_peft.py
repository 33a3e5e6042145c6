"""Adapters in PEFT's files, both ways, against `peft`."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from jax.sharding import SingleDeviceSharding
from safetensors.numpy import load_file, save_file

from jaxllm import hf
from jaxllm.models import lora
from jaxllm.params import bind, materialize
from jaxllm.types import Batch, InputError

pytestmark = pytest.mark.slow

torch = pytest.importorskip("torch")

torch.set_num_threads(1)
ENCODER = {"vocab_size": 41, "hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2,
           "intermediate_size": 10, "max_position_embeddings": 24, "pad_token_id": 0}  # fmt: skip
LLAMA = {**ENCODER, "num_key_value_heads": 1, "pad_token_id": 0}
GPT2 = {"vocab_size": 41, "n_embd": 8, "n_layer": 3, "n_head": 2, "n_positions": 24}
LABELS = {"id2label": {0: "O", 1: "B-X", 2: "I-X"}, "label2id": {"O": 0, "B-X": 1, "I-X": 2}}
ALL = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]


@pytest.fixture(scope="module", autouse=True)
def _peft():
    """Imported where a test runs: the quick tier has none of these, and it takes seconds."""
    global peft
    peft = pytest.importorskip("peft")


CASES = {
    "llama": ("llama", LLAMA, "CAUSAL_LM", {"target_modules": ALL}),
    "llama-patterns": (
        "llama", LLAMA, "CAUSAL_LM",
        {"target_modules": ["q_proj", "v_proj"], "rank_pattern": {"q_proj": 2, r"layers\.1\.self_attn\.v_proj": 5},
         "alpha_pattern": {r"layers\.[02]\.self_attn\.q_proj": 3}, "use_rslora": True},
    ),
    "llama-some-layers": (
        "llama", LLAMA, "CAUSAL_LM",
        {"target_modules": ["up_proj", "lm_head"], "layers_to_transform": [1], "modules_to_save": ["embed_tokens"]},
    ),
    "llama-new-head": (
        "llama", LLAMA, "CAUSAL_LM",
        {"target_modules": ["q_proj", "v_proj"], "modules_to_save": ["lm_head", "norm"],
         "alpha_pattern": {"^model.layers.0.self_attn.q_proj": 7, "^layers.1.self_attn.v_proj": 9}},
    ),
    "llama-new-embeddings": (
        "llama", LLAMA, "CAUSAL_LM",
        {"target_modules": "all-linear", "modules_to_save": ["embed_tokens", "lm_head"]},
    ),
    "llama-by-expression": ("llama", LLAMA, "CAUSAL_LM", {"target_modules": r".*\.[02]\.self_attn\.q_proj|lm_head"}),
    "bert": (
        "bert", {**ENCODER, **LABELS}, "TOKEN_CLS",
        {"target_modules": ["query", "value", "attention.output.dense", "output.dense"]},
    ),
    "deberta": (
        "deberta-v2",
        {**ENCODER, **LABELS, "relative_attention": True, "pos_att_type": ["p2c", "c2p"], "position_buckets": 4},
        "TOKEN_CLS", {"target_modules": ["query_proj", "pos_key_proj", "intermediate.dense"]},
    ),
    "albert": ("albert", {**ENCODER, **LABELS, "embedding_size": 6}, "TOKEN_CLS", {"target_modules": ["query", "ffn"]}),
    "reward": ("llama", {**LLAMA, "num_labels": 1}, "SEQ_CLS", {"target_modules": ["k_proj", "down_proj"]}),
    "gpt2": ("gpt2", GPT2, "CAUSAL_LM", {"target_modules": ["c_attn", "mlp.c_proj"], "fan_in_fan_out": True}),
}  # fmt: skip


def shake(model):
    with torch.no_grad():
        for name, x in model.named_parameters():
            if x.requires_grad:
                x.copy_(torch.randn(x.shape) * (0.3 if "lora" in name else 1.0))


AUTO = {
    "CAUSAL_LM": (transformers.AutoModelForCausalLM, "lm"),
    "TOKEN_CLS": (transformers.AutoModelForTokenClassification, "tagger"),
    "SEQ_CLS": (transformers.AutoModelForSequenceClassification, "scorer"),
}


def auto(task):
    return AUTO[task][0]


def opened(folder, task):
    return hf.open_model(str(folder), AUTO[task][1])


def arrays(spec):
    return materialize(spec, dict.fromkeys(spec.graphdef.abstract, SingleDeviceSharding(jax.devices()[0])), 0)


TOKENS = np.random.default_rng(0).integers(1, 41, (2, 9))


def logits(spec, params):
    tokens = jnp.asarray(TOKENS, jnp.int32)
    ones = jnp.ones_like(tokens)
    batch = Batch(tokens, tokens, ones.astype(jnp.float32), ones, jnp.broadcast_to(jnp.arange(9), (2, 9)))

    @jax.jit
    def run(params):
        model = bind(spec.graphdef, params)
        return model.head(model.hidden(batch)[0])

    found = np.asarray(run(params))
    return found[:, -1] if found.shape[-1] == 1 else found  # a reward is that of the last token


def their_logits(model):
    with torch.no_grad():
        return model.eval()(torch.tensor(TOKENS)).logits.numpy()


@pytest.fixture(scope="module", params=CASES)
def case(request, tmp_path_factory):
    """(folder of a base, folder of an adapter that peft wrote, its logits, task)."""
    kind, shape, task, fields = CASES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    torch.manual_seed(0)
    base = auto(task).from_config(transformers.CONFIG_MAPPING[kind](**shape))
    shake(base)
    base.save_pretrained(folder / "base")
    config = peft.LoraConfig(task_type=task, r=3, lora_alpha=5, lora_dropout=0.1, **fields)
    adapted = peft.get_peft_model(base, config)
    shake(adapted)
    adapted.save_pretrained(folder / "adapter")
    return folder, task, their_logits(adapted)


SAVED = {
    "bert": ["classifier.bias", "classifier.kernel"],
    "reward": ["score.kernel"],
    "layers": ["embeddings.tokens.embedding"],
    "new-head": ["blocks.attn_norm.scale", "blocks.mlp_norm.scale", "norm.scale", "unembed.kernel"],  # each ends so
    "new-embeddings": ["embeddings.tokens.embedding", "unembed.kernel"],
}


def test_what_peft_wrote_gives_its_logits(case):
    folder, task, wanted = case
    base = opened(folder / "base", task)
    names, _ = hf.names(base.config, base)
    spec = hf.open_adapter(str(folder / "adapter"), base.spec, names)
    params = arrays(spec)
    np.testing.assert_allclose(logits(spec, params), wanted, atol=1e-4, rtol=1e-4)
    merged = lora.merge(spec.graphdef, params)
    assert merged.keys() == base.spec.graphdef.abstract.keys()
    np.testing.assert_allclose(logits(base.spec, merged), wanted, atol=1e-4, rtol=1e-4)
    saved = [name for name in spec.trained if not name.endswith((lora.A, lora.B))]
    assert saved == next((names for name, names in SAVED.items() if name in folder.name), [])


def test_what_we_write_gives_peft_our_logits(case, tmp_path):
    folder, task, _ = case
    base = opened(folder / "base", task)
    names, architecture = hf.names(base.config, base)
    read = hf.open_adapter(str(folder / "adapter"), base.spec, names)
    rng = np.random.default_rng(1)
    params = {
        name: jnp.asarray(np.where(np.asarray(x) == 0, 0, rng.normal(size=x.shape) * 0.3), jnp.float32)
        if name in read.trained else x for name, x in arrays(read).items()
    }  # fmt: skip
    hf.save_adapter(tmp_path / "ours", read, params, names, base=str(folder / "base"), architecture=architecture)
    again = hf.open_adapter(str(tmp_path / "ours"), base.spec, names)
    np.testing.assert_allclose(logits(again, arrays(again)), logits(read, params), atol=1e-4, rtol=1e-4)
    written = json.loads((tmp_path / "ours" / "adapter_config.json").read_text())
    assert written["task_type"] == task
    model = peft.PeftModel.from_pretrained(auto(task).from_pretrained(folder / "base"), tmp_path / "ours")
    found = peft.get_peft_model_state_dict(model, save_embedding_layers=False)
    wrote = load_file(tmp_path / "ours" / "adapter_model.safetensors")
    assert found.keys() == wrote.keys(), "peft makes adapters where we have them, and nowhere else"
    np.testing.assert_allclose(their_logits(model), logits(read, params), atol=1e-4, rtol=1e-4)
    if "llama0" in folder.name:
        assert written["target_modules"] == ALL
        assert (written["r"], written["lora_alpha"], written["rank_pattern"]) == (3, 5, {})


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    """A GPT-2 and a Llama, opened, by kind, with the names of their tensors."""
    found = {}
    for kind, shape in {"gpt2": GPT2, "llama": LLAMA}.items():
        folder = tmp_path_factory.mktemp(kind)
        auto("CAUSAL_LM").from_config(transformers.CONFIG_MAPPING[kind](**shape)).save_pretrained(folder)
        base = opened(folder, "CAUSAL_LM")
        found[kind] = base.spec, hf.names(base.config, base)[0]
    return found


@pytest.mark.parametrize(
    ("kind", "patterns", "found"),
    [
        ("llama", ["q_proj", "mlp.up_proj"], ("blocks.attn.q", "blocks.mlp.up")),
        ("llama", ["blocks.attn.*", "v_proj"], ("blocks.attn.*", "blocks.attn.v")),
        ("llama", ["blocks[:2].mlp.up"], ("blocks[:2].mlp.up",)),
        ("llama", ["all-linear"], ()),
        ("llama", ["lm_head"], ("unembed",)),
        ("gpt2", ["c_attn"], ("blocks.attn.q", "blocks.attn.k", "blocks.attn.v")),
    ],
)
def test_targets_may_be_named_in_either_tongue(tiny, kind, patterns, found):
    assert hf.find_targets(patterns, *tiny[kind]) == found


def test_a_module_that_is_not_there_is_named_with_those_that_are(tiny):
    with pytest.raises(InputError, match=r"no module is called 'q_porj'; there are blocks\.attn\.k.*self_attn\.q_proj"):
        hf.find_targets(["q_porj"], *tiny["llama"])


CONFIG = {"peft_type": "LORA", "r": 2, "lora_alpha": 4}
Q = "base_model.model.model.layers.1.self_attn.q_proj.lora_"
EMBEDDING = "base_model.model.model.embed_tokens"


@pytest.mark.parametrize(
    ("changes", "tensors", "message"),
    [
        ({"peft_type": "IA3"}, {}, "peft_type is 'IA3', supported: 'LORA'"),
        ({"use_dora": True}, {}, "use_dora=True not supported"),
        ({"bias": "all"}, {}, "bias='all' not supported"),
        ({"lora_bias": True}, {}, "lora_bias=True not supported"),
        ({"trainable_token_indices": [3, 4]}, {}, "trainable_token_indices=[3, 4] not supported"),
        ({"init_lora_weights": "pissa_niter_16"}, {}, "pissa_niter_16 changes the base as well"),
        ({"init_lora_weights": "pissa"}, {}, "pissa changes the base as well"),
        ({"init_lora_weights": "OLoRA"}, {}, "OLoRA changes the base as well"),
        ({"lora_alpha": "x"}, {}, "adapter_config.json: lora_alpha is 'x', wanted a number; mend the field"),
        ({"alpha_pattern": {"(": 2}}, {}, "alpha_pattern is {'(': 2}, wanted patterns and numbers; mend the field"),
        ({"alpha_pattern": {"q_proj": None}}, {}, "alpha_pattern of q_proj is None, wanted a number; mend the field"),
        ({}, {}, "it holds no adapter"),
        (
            {},
            {"base_model.model.other.lora_A.weight": (2, 8)},
            "unexpected base_model.model.other.lora_A.weight (2, 8)",
        ),
        ({}, {Q + "A.weight": (2, 8)}, "has no B beside it"),
        ({}, {Q + "A.weight": (2, 9), Q + "B.weight": (8, 2)}, "is (2, 9) and its B (8, 2), wanted (r, 8) and (8, r)"),
        ({}, {Q + "magnitude_vector": (8,)}, "unexpected"),
        (
            {},
            {Q + "A.default.weight": (2, 8), Q + "B.default.weight": (8, 2)},
            f"unexpected {Q}A.default.weight (2, 8)",
        ),
        ({}, {EMBEDDING + ".lora_embedding_A": (2, 41)}, f"unexpected {EMBEDDING}.lora_embedding_A (2, 41)"),
        ({}, {EMBEDDING + ".weight": (45, 8)}, f"{EMBEDDING}.weight is (45, 8), wanted (41, 8)"),
        ({}, {"base_model.model.model.norm.weight": (9,)}, "is (9,), wanted (8,)"),
        ({}, {"base_model.model.model.layers.0.input_layernorm.weight": (8,)}, "of blocks.attn_norm.scale only a part"),
    ],
)
def test_what_is_not_honoured_is_refused(tiny, tmp_path, changes, tensors, message):
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG | changes))
    save_file({name: np.ones(shape, np.float32) for name, shape in tensors.items()},
              tmp_path / "adapter_model.safetensors")  # fmt: skip
    with pytest.raises(InputError) as error:
        hf.open_adapter(str(tmp_path), *tiny["llama"])
    assert message in str(error.value)


def test_new_embeddings_of_a_tied_base_without_tying_are_refused(assets):
    """`peft` gives them to the input alone."""
    folder = assets / "cases" / "adapter_embed_on_tied"
    base = opened(folder / "base", "CAUSAL_LM")
    with pytest.raises(
        InputError, match="replaces the embeddings of a tied base, and without ensure_weight_tying peft"
    ):
        hf.open_adapter(str(folder / "adapter"), base.spec, hf.names(base.config, base)[0])


def test_a_new_head_of_a_tied_base_is_one_line(tmp_path):
    torch.manual_seed(0)
    base = auto("CAUSAL_LM").from_config(transformers.CONFIG_MAPPING["llama"](**LLAMA, tie_word_embeddings=True))
    shake(base)
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(task_type="CAUSAL_LM", r=3, target_modules=["q_proj"], modules_to_save=["lm_head"])
    adapted = peft.get_peft_model(base, config)
    shake(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    ours = opened(tmp_path / "base", "CAUSAL_LM")
    with pytest.raises(InputError, match=r"unexpected base_model\.model\.lm_head\.weight \(41, 8\)$"):
        hf.open_adapter(str(tmp_path / "adapter"), ours.spec, hf.names(ours.config, ours)[0])


def test_new_embeddings_of_a_tied_base_with_tying_are_those_of_peft(tmp_path):
    torch.manual_seed(0)
    base = auto("CAUSAL_LM").from_config(transformers.CONFIG_MAPPING["llama"](**LLAMA, tie_word_embeddings=True))
    shake(base)
    base.save_pretrained(tmp_path / "base")
    config = peft.LoraConfig(
        task_type="CAUSAL_LM", r=3, target_modules=["q_proj"], modules_to_save=["embed_tokens"],
        ensure_weight_tying=True,
    )  # fmt: skip
    adapted = peft.get_peft_model(base, config)
    shake(adapted)
    adapted.save_pretrained(tmp_path / "adapter")
    assert "base_model.model.lm_head.weight" in load_file(tmp_path / "adapter" / "adapter_model.safetensors")
    ours = opened(tmp_path / "base", "CAUSAL_LM")
    names, architecture = hf.names(ours.config, ours)
    spec = hf.open_adapter(str(tmp_path / "adapter"), ours.spec, names)
    params = arrays(spec)
    np.testing.assert_allclose(logits(spec, params), their_logits(adapted), atol=1e-4, rtol=1e-4)
    hf.save_adapter(tmp_path / "ours", spec, params, names, base=str(tmp_path / "base"), architecture=architecture)
    model = peft.PeftModel.from_pretrained(auto("CAUSAL_LM").from_pretrained(tmp_path / "base"), tmp_path / "ours")
    np.testing.assert_allclose(their_logits(model), their_logits(adapted), atol=1e-4, rtol=1e-4)


def test_what_is_no_adapter_is_refused(tiny, tmp_path):
    with pytest.raises(InputError, match=r"has no adapter_config\.json; name the folder of an adapter"):
        hf.open_adapter(str(tmp_path), *tiny["llama"])
    (tmp_path / "adapter_config.json").write_text(json.dumps(CONFIG))
    (tmp_path / "adapter_model.bin").touch()
    with pytest.raises(InputError, match="pickled adapters are not read"):
        hf.open_adapter(str(tmp_path), *tiny["llama"])
    with pytest.raises(InputError, match="the model has no adapter to write"):
        hf.save_adapter(tmp_path / "x", tiny["llama"][0], {}, tiny["llama"][1], base="", architecture="X")
