"""A random torch model of any encoder family, saved."""

import pytest
from transformers import CONFIG_MAPPING, AutoModelForTokenClassification

LABELS = ("O", "B-place", "I-place")
SMALL = {"vocab_size": 41, "hidden_size": 8, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 10,
         "max_position_embeddings": 24, "pad_token_id": 0}  # fmt: skip
KINDS = {
    "bert": SMALL,
    "roberta": SMALL,
    "xlm-roberta": SMALL,
    "camembert": SMALL,
    "electra": SMALL | {"embedding_size": 6},
    "albert": SMALL | {"embedding_size": 6, "num_hidden_groups": 2},
    "deberta-v2": SMALL
    | {
        "relative_attention": True,
        "pos_att_type": ["p2c", "c2p"],
        "position_buckets": 4,
        "norm_rel_ebd": "layer_norm",
        "position_biased_input": False,
        "conv_kernel_size": 3,
        "conv_act": "gelu",
    },
    "distilbert": {
        "vocab_size": 41,
        "dim": 8,
        "n_layers": 2,
        "n_heads": 2,
        "hidden_dim": 10,
        "max_position_embeddings": 24,
    },
    "modernbert": SMALL
    | {"bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2, "norm_bias": True},
}


@pytest.fixture
def save(tmp_path):
    """Saves a random torch model of a kind, its classifier too, and returns the folder."""
    torch = pytest.importorskip("torch")

    def save(kind="bert", dtype=torch.float32, **fields):
        names = dict(enumerate(LABELS))
        config = CONFIG_MAPPING[kind](
            **KINDS[kind], id2label=names, label2id={x: i for i, x in names.items()}, **fields
        )
        torch.manual_seed(0)
        model = AutoModelForTokenClassification.from_config(config)
        with torch.no_grad():
            for x in model.parameters():
                x.copy_(torch.randn(x.shape))
        folder = tmp_path / kind
        model.to(dtype).save_pretrained(folder)
        return folder

    return save
