"""Every field of config.json that matters is honoured or refused by name."""

import dataclasses
import json
import re

import pytest

from jaxllm.hf import bert, families, modernbert
from jaxllm.hf.config import Fields, read_json
from jaxllm.hf.open import read_config
from jaxllm.types import InputError

SIZES = {"vocab_size": 50, "num_hidden_layers": 3, "num_attention_heads": 2, "hidden_size": 8, "intermediate_size": 9}


def test_bert_fields():
    rates = {"classifier_dropout": 0.4, "hidden_dropout_prob": 0.2, "attention_probs_dropout_prob": 0}
    own = {"hidden_act": "relu", "layer_norm_eps": 1e-6, "max_position_embeddings": 33}
    fields = Fields({"model_type": "bert", **SIZES, **rates, **own})
    config = bert.read(fields)
    assert fields.finish() == []
    c = config.encoder
    assert (c.vocab_size, c.depth, c.heads, c.width, c.mlp_width, c.max_positions) == (50, 3, 2, 8, 9, 33)
    assert (c.activation, c.norm_eps, c.attention_dropout, config.classifier_dropout) == ("relu", 1e-6, 0.0, 0.4)
    assert c.embedding_dropout == c.attention_output_dropout == c.mlp_output_dropout == 0.2
    assert (c.rope_base, c.window, c.pre_norm, c.gated) == (0.0, 0, False, False)


def test_roberta_positions_begin_after_the_padding_id():
    fields = Fields({"model_type": "roberta", **SIZES, "max_position_embeddings": 34, "pad_token_id": 1})
    config = families.TAGGERS["roberta"].read(fields)
    assert (config.encoder.position_offset, config.encoder.max_positions) == (2, 32)


def test_distilbert_has_no_dropout_after_attention():
    fields = Fields({"model_type": "distilbert", "dim": 8, "n_heads": 2, "dropout": 0.3})
    config = families.TAGGERS["distilbert"].read(fields)
    c = config.encoder
    assert (c.attention_output_dropout, c.mlp_output_dropout, config.classifier_dropout) == (0.0, 0.3, 0.3)
    assert c.token_types == 0


def test_modernbert_old_and_new_spelling_of_rotary_positions():
    both = {"model_type": "modernbert", **SIZES, "local_attention": 10}
    old = both | {"global_rope_theta": 7.0, "local_rope_theta": 5.0, "global_attn_every_n_layers": 2}
    ropes = {"full_attention": {"rope_type": "default", "rope_theta": 7.0},
             "sliding_attention": {"rope_type": "default", "rope_theta": 5.0}}  # fmt: skip
    kinds = ["full_attention", "sliding_attention", "full_attention"]
    new = both | {"rope_parameters": ropes, "layer_types": kinds}
    assert modernbert.read(Fields(old)) == modernbert.read(Fields(new))
    c = modernbert.read(Fields(new)).encoder
    assert (c.rope_base, c.local_rope_base, c.window, c.global_every) == (7.0, 5.0, 5, 2)


@pytest.mark.parametrize("kind", families.TAGGERS)
def test_what_is_written_is_read_back(kind):
    family = families.TAGGERS[kind]
    config = family.read(Fields({"model_type": kind}))
    for changes in (
        {},
        {"depth": 5, "activation": "silu", "init_std": 0.5},
        {"activation": "gelu_tanh", "vocab_size": 7},
    ):
        changed = dataclasses.replace(config, encoder=dataclasses.replace(config.encoder, **changes))
        assert family.read(Fields({"model_type": kind, **family.write(changed)})) == changed


@pytest.mark.parametrize(
    ("kind", "field", "value"),
    [
        ("bert", "hidden_act", "mish"),
        ("bert", "position_embedding_type", "relative_key"),
        ("bert", "is_decoder", True),
        ("bert", "add_cross_attention", True),
        ("bert", "quantization_config", {"bits": 4}),
        ("bert", "pruned_heads", {"0": [1]}),
        ("bert", "hidden_size", "big"),
        ("bert", "num_hidden_layers", True),
        ("bert", "type_vocab_size", 0),
        ("roberta", "pad_token_id", None),
        ("electra", "hidden_act", "mish"),
        ("albert", "inner_group_num", 2),
        ("albert", "num_hidden_groups", 0),
        ("deberta-v2", "embedding_size", 128),
        ("deberta-v2", "attention_head_size", 32),
        ("deberta-v2", "pos_att_type", ["c2p"]),
        ("distilbert", "sinusoidal_pos_embds", True),
        ("modernbert", "layer_types", ["sliding_attention"] * 22),
        (
            "modernbert",
            "rope_parameters",
            {"full_attention": {"rope_type": "linear", "rope_theta": 1.0, "factor": 2.0}},
        ),
        ("modernbert", "classifier_activation", "mish"),
    ],
)
def test_what_is_not_honoured_is_refused_by_name(kind, field, value):
    with pytest.raises(InputError, match=f"^here: .*{field}") as error:
        families.TAGGERS[kind].read(Fields({"model_type": kind, field: value}, "here"))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"pos_att_type": "c2p|p2p"}, "pos_att_type has p2p, supported: c2p, p2c"),
        ({"pos_att_type": []}, "relative_attention is true, and pos_att_type names none of c2p, p2c"),
        ({"norm_rel_ebd": "rms"}, "norm_rel_ebd is 'rms', supported: 'none' or 'layer_norm'"),
        ({"position_buckets": 1}, "1 buckets for distances below 512; choose 2 to 1021"),
        ({"conv_kernel_size": 3, "conv_act": "gelu", "conv_groups": 2}, "conv_groups is 2, supported: 1"),
        ({"conv_kernel_size": 4, "conv_act": "gelu"}, "4 taps has no middle"),
        ({"conv_kernel_size": 3, "conv_act": "mish"}, "conv_act is 'mish', supported: gelu"),
        ({"conv_kernel_size": 3}, "conv_act is None, wanted str"),
    ],
)
def test_relative_positions_of_deberta_that_are_not_honoured_are_refused(fields, message):
    base = {"model_type": "deberta-v2", "relative_attention": True, "pos_att_type": ["c2p", "p2c"]}
    with pytest.raises(InputError, match=f"^here: .*{re.escape(message)}") as error:
        families.TAGGERS["deberta-v2"].read(Fields(base | fields, "here"))
    assert "\n" not in str(error.value)


def test_a_field_that_transformers_would_honour_and_nobody_reads_is_refused():
    fields = Fields({"model_type": "bert", "type_vocab_size": 3}, "here")
    with pytest.raises(InputError, match=r"^here: type_vocab_size is 3, which is not supported"):
        fields.finish()


def test_fields_nobody_knows_are_noted():
    fields = Fields({"model_type": "bert", **SIZES, "directionality": "bidi", "pooler_fc_size": 768, "note": None})
    bert.read(fields)
    assert fields.finish() == ["config.json: no effect here: directionality, pooler_fc_size"]


def test_unknown_model_type():
    with pytest.raises(InputError, match="model_type 'berd' is not known"):
        Fields({"model_type": "berd"})


def test_read_json(tmp_path):
    with pytest.raises(InputError, match="is not there"):
        read_json(tmp_path / "config.json")
    for text, message in (("{", "no readable JSON"), ("[1]", "holds a list"), ("\udcff", "no readable JSON")):
        (tmp_path / "config.json").write_bytes(text.encode("utf-8", "surrogateescape"))
        with pytest.raises(InputError, match=message):
            read_json(tmp_path / "config.json")
    (tmp_path / "config.json").write_text(json.dumps({"a": 1}))
    assert read_json(tmp_path / "config.json") == {"a": 1}


@pytest.mark.parametrize(
    ("more", "amplitude"),
    [
        ({"mscale": 1.0, "mscale_all_dim": 1.0}, 1.0),
        ({"mscale": 1.0}, 1.1386294),
        ({"mscale": 1.0, "mscale_all_dim": 0.5}, 1.1386294 / 1.0693147),
        ({"mscale": 1.0, "mscale_all_dim": 1.0, "attention_factor": 1.3}, 1.3),
    ],
)
def test_yarns_amplitude_is_that_of_transformers(more, amplitude, assets, tmp_path):
    raw = json.loads((assets / "cases" / "yarn_mscale" / "model" / "config.json").read_text())
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **more}
    config, notes = read_config({**raw, "rope_scaling": scaling}, "config.json", "lm")
    assert notes == []
    assert config.rope_scaling.amplitude == pytest.approx(amplitude, rel=1e-6)


def test_what_is_no_number_in_rope_parameters_is_one_line():
    raw = {"model_type": "llama", "rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": "four"}}
    with pytest.raises(InputError, match=r"config.json: .*four"):
        read_config(raw, "config.json", "lm")


def test_code_from_the_hub_is_not_run_for_a_model_that_transformers_lacks():
    raw = {"model_type": "mine", "auto_map": {"AutoModel": "modeling.Mine"}}
    with pytest.raises(
        InputError, match="'mine' is not known; its auto_map asks for code from the hub, which is never"
    ):
        Fields(raw)
