"""The NER script on a folder of each family that `transformers` saved: trained, and exported for it again."""

import functools

import jax
import numpy as np
import pytest
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification

import ner as script
from jaxllm import hf
from jaxllm.data.builtin import ner as builtin
from jaxllm.data.packing import collate
from jaxllm.data.tagging import examples as ner
from jaxllm.hf.families import TAGGERS
from jaxllm.params import bind, materialize
from jaxllm.recipes.script import parse

torch = pytest.importorskip("torch")

pytestmark = pytest.mark.slow

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 24,
         "max_position_embeddings": 66, "pad_token_id": 0}  # fmt: skip
DEBERTA = {"relative_attention": True, "pos_att_type": "p2c|c2p", "position_buckets": 16, "share_att_key": True,
           "norm_rel_ebd": "layer_norm", "position_biased_input": False}  # fmt: skip
OWN = {
    "deberta-v2": SIZES | DEBERTA,
    "distilbert": {"dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24, "pad_token_id": 0},
}


@functools.partial(jax.jit, static_argnums=0)
def logits(graphdef, params, batch):
    model = bind(graphdef, params)
    return model.head(model.hidden(batch)[0])


@pytest.mark.parametrize("kind", TAGGERS)
def test_a_folder_of_transformers_is_trained_and_exported_for_it(kind, tmp_path):
    rows = builtin.ner()["train"][:60]
    lines = ("\n".join(f"{w}\t{t}" for w, t in zip(row["tokens"], row["ner_tags"], strict=True)) for row in rows)
    (tmp_path / "words.conll").write_text("\n\n".join(lines) + "\n")
    texts = [" ".join(row["tokens"]) for row in rows]
    tokenizer = builtin.wordpiece(texts, 300, 64)
    torch.manual_seed(0)
    shape = CONFIG_MAPPING[kind](vocab_size=len(tokenizer), **OWN.get(kind, SIZES))
    AutoModelForTokenClassification.from_config(shape).save_pretrained(tmp_path / "source")
    tokenizer.save_pretrained(tmp_path / "source")

    flags = f"--model {tmp_path / 'source'} --dataset {tmp_path / 'words.conll'} --steps 2 --batch-size 8"
    script.main(parse(script.Config, [*flags.split(), "--log-to", "none", "--out", str(tmp_path / "run")]))

    model, info = AutoModelForTokenClassification.from_pretrained(tmp_path / "run" / "hf", output_loading_info=True)
    assert not any(info.values()), info
    assert model.config.model_type == kind
    opened = hf.open_model(str(tmp_path / "run"), "tagger")
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    params = materialize(opened.spec, dict.fromkeys(opened.spec.graphdef.abstract, one), 0)
    before = AutoModelForTokenClassification.from_pretrained(tmp_path / "source").base_model.state_dict()
    moved = {name for name, x in model.base_model.state_dict().items() if not torch.equal(x, before[name])}
    assert len(moved) > len(before) / 2, "it was trained"

    (example, *_) = ner.encode_text(texts, tokenizer, 64)[0].examples
    batch = collate([[example], [example]], 64, 2)
    with torch.no_grad():
        wanted = model.eval()(torch.tensor(example.tokens[None]).long()).logits[0].numpy()
    np.testing.assert_allclose(
        logits(opened.spec.graphdef, params, batch)[0, : len(example.tokens)], wanted, atol=1e-5, rtol=0
    )
