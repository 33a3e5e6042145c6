"""Classifiers of texts of every family against `transformers`: logits, gradients, packed rows, files both ways."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import transformers
from families import DECODER, ENCODER, ENCODERS, OWN
from safetensors.numpy import load_file

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.hf import export, open_model
from jaxllm.hf.config import Fields
from jaxllm.hf.families import CLASSIFIERS, task_in
from jaxllm.models.heads import PROBLEMS
from jaxllm.params import bind, materialize
from jaxllm.types import Batch, InputError

torch = pytest.importorskip("torch")

torch.set_num_threads(1)

NAMES = {0: "bad", 1: "fair", 2: "good"}
PAIRED = ("bert", "electra", "albert")
"""The families that tell the second text from the first by the token type."""

CASES = {kind: {} for kind in (*ENCODERS, "gpt2", "llama", "qwen3")} | {
    "bert/tanh": {"hidden_act": "relu", "classifier_dropout": 0.3},
    "modernbert/mean": {"classifier_pooling": "mean", "classifier_bias": True, "norm_bias": True},
    "modernbert/cls": {"classifier_pooling": "cls", "classifier_activation": "silu"},
    "deberta-v2/tanh": {"pooler_hidden_act": "tanh", "pooler_dropout": 0.2, "type_vocab_size": 2},
}


def saved(name, folder, problem="single_label_classification", labels=NAMES, **more):
    kind = name.partition("/")[0]
    base = ENCODER if kind in ENCODERS else DECODER
    fields = {**base, "type_vocab_size": 2 if kind in PAIRED else 1, **OWN[kind], **CASES[name], **more}
    if kind == "deberta-v2":
        fields["pooler_hidden_size"] = 32
    fields |= {"id2label": labels, "label2id": {x: i for i, x in labels.items()}, "problem_type": problem}
    config = transformers.CONFIG_MAPPING[kind](**fields, attn_implementation="eager")
    torch.manual_seed(0)
    model = transformers.AutoModelForSequenceClassification.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape) * (0.3 if parameter.ndim > 1 else 1.0))
    model.save_pretrained(folder)
    return model


def load(opened):
    mesh = make_mesh("data=1", jax.devices()[:1])
    return materialize(opened.spec, shardings(opened.spec.graphdef.abstract, mesh, opened.spec.rules), 0)


LENGTHS = (7, 5, 9)
"""Of texts, which lie in one row of 24 with three positions of padding."""


def texts(kind):
    rng = np.random.default_rng(1)
    return [rng.integers(3, 47, n) for n in LENGTHS], [
        np.arange(n) > n // 2 if kind in PAIRED else None for n in LENGTHS
    ]


def packed(kind):
    """The texts in one row, and where each is read: at its first token, or its last of a decoder."""
    rows, types = texts(kind)
    pad = 24 - sum(LENGTHS)
    whole = lambda parts: jnp.asarray(np.pad(np.concatenate(parts), (0, pad))[None].astype(np.int32))
    starts = np.cumsum([0, *LENGTHS[:-1]])
    at = starts if kind in ENCODERS else starts + np.array(LENGTHS) - 1
    segments = whole([np.full(n, i + 1) for i, n in enumerate(LENGTHS)])
    named = whole(types) if kind in PAIRED else None
    return Batch(whole(rows), None, None, segments, whole([np.arange(n) for n in LENGTHS]), None, named), at


@pytest.mark.parametrize("name", CASES)
def test_logits_and_gradients_of_packed_texts_are_those_of_transformers(name, tmp_path):
    kind = name.partition("/")[0]
    theirs = saved(name, tmp_path / "theirs")
    opened = open_model(str(tmp_path / "theirs"))
    assert (opened.task, opened.config.labels, opened.config.problem) == ("classifier", tuple(NAMES.values()), "single")
    params, (batch, at) = load(opened), packed(kind)
    weigh = jnp.asarray(np.random.default_rng(2).normal(size=(len(LENGTHS), len(NAMES))), jnp.float32)

    @jax.jit
    def run(params):
        def total(params):
            model = bind(opened.spec.graphdef, params)
            logits_NV = model.head(model.hidden(batch)[0])[0, at]
            return jnp.sum(logits_NV * weigh), logits_NV

        return jax.value_and_grad(total, has_aux=True)(params)

    (_, logits), grads = run(params)
    wanted = []
    for tokens, types in zip(*texts(kind), strict=True):
        more = {} if types is None else {"token_type_ids": torch.tensor(types.astype(np.int64))[None]}
        wanted.append(theirs(input_ids=torch.tensor(tokens)[None], **more).logits[0])
    wanted = torch.stack(wanted)
    (wanted * torch.tensor(np.asarray(weigh))).sum().backward()
    wanted = wanted.detach().numpy()
    np.testing.assert_allclose(logits, wanted, rtol=0, atol=1e-4 * max(1, np.abs(wanted).max()))

    export(tmp_path / "grads", grads, opened.config, None, source=opened)
    own = load_file(tmp_path / "grads/model.safetensors")
    largest = max(np.abs(x).max() for x in own.values())
    for key, parameter in theirs.named_parameters():
        if key in own:  # a tied tensor has one name in the file
            gradient = 0 * parameter if parameter.grad is None else parameter.grad
            np.testing.assert_allclose(own[key], gradient.detach().numpy(), rtol=0, atol=2e-4 * largest, err_msg=key)


@pytest.mark.parametrize("name", CASES)
def test_files_come_back_bit_for_bit(name, tmp_path):
    saved(name, tmp_path / "theirs", "multi_label_classification")
    opened = open_model(str(tmp_path / "theirs"), "classifier")
    export(tmp_path / "ours", load(opened), opened.config, None, source=opened)
    one, other = load_file(tmp_path / "theirs/model.safetensors"), load_file(tmp_path / "ours/model.safetensors")
    assert one.keys() == other.keys()
    assert all(np.array_equal(x, other[key]) for key, x in one.items())
    back, info = transformers.AutoModelForSequenceClassification.from_pretrained(
        tmp_path / "ours", output_loading_info=True
    )
    assert not any(info[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (back.config.id2label, back.config.problem_type) == (NAMES, "multi_label_classification")


@pytest.mark.parametrize("name", CASES)
def test_what_is_written_without_a_source_is_read_as_the_same_model(name, tmp_path):
    saved(name, tmp_path / "theirs", PROBLEMS["regression"], {0: "stars"})
    kind = name.partition("/")[0]
    opened = open_model(str(tmp_path / "theirs"), "classifier")
    fields = CLASSIFIERS[kind].write(opened.config)
    again = CLASSIFIERS[kind].read(
        Fields({"model_type": kind, "pad_token_id": opened.hf_config["pad_token_id"], **fields})
    )
    assert opened.config.problem == "regression"
    assert type(again)(**{**vars(again), "labels": ("stars",), "problem": "regression"}) == opened.config


def test_a_token_classifier_and_a_masked_language_model_become_classifiers(tmp_path):
    config = transformers.BertConfig(**ENCODER)
    for kind, heads in (("TokenClassification", {"transform", "classifier"}), ("PreTraining", {"classifier"})):
        getattr(transformers, f"BertFor{kind}")(config).save_pretrained(tmp_path / kind)
        opened = open_model(str(tmp_path / kind), "classifier", labels=("a", "b", "c"))
        assert {name.split(".")[0] for name in opened.initialised} == heads
        assert open_model(str(tmp_path / kind), "tagger", labels=("a", "b", "c")).task == "tagger"


def test_labels_in_another_order_reorder_the_head(tmp_path):
    for name, head in (("roberta", "classifier"), ("llama", "score")):
        saved(name, tmp_path / name)
        plain, turned = (
            open_model(str(tmp_path / name), "classifier", labels=x) for x in (None, ("good", "bad", "fair"))
        )
        one, other = load(plain), load(turned)
        np.testing.assert_array_equal(np.asarray(one[f"{head}.kernel"])[:, [2, 0, 1]], other[f"{head}.kernel"])
        assert any("reordered from bad, fair, good" in note for note in turned.notes)
        fresh = open_model(str(tmp_path / name), "classifier", labels=("x", "y", "z"))
        assert f"{head} initialised: the file's labels are bad, fair, good" in fresh.notes


def test_what_the_labels_say_the_model_is():
    described = {"model_type": "llama", "architectures": ["LlamaForSequenceClassification"]}
    assert task_in({**described, "id2label": {"0": "reward"}}) == "scorer"
    assert task_in({**described, "id2label": {"0": "a", "1": "b"}}) == task_in(described) == "classifier"
    assert task_in({"model_type": "bert", "architectures": ["BertForSequenceClassification"]}) == "classifier"
    assert task_in({"model_type": "bert", "architectures": ["BertForTokenClassification"]}) == "tagger"


def test_a_classifier_without_its_head_is_one_line(tmp_path):
    transformers.BertForMaskedLM(transformers.BertConfig(**ENCODER)).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"has no classifier for its labels .*; name a fine-tuned checkpoint"):
        open_model(str(tmp_path), "classifier")
    saved("llama", tmp_path / "llama")
    with pytest.raises(InputError, match="describes a classifier, which generates no text"):
        open_model(str(tmp_path / "llama"), "lm")
