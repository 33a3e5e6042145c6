"""Tokenizers of checkpoints: code is not run, what cannot be read is one line, SentencePiece's load fast."""

import importlib.util
import itertools
import json

import pytest
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

from jaxllm import hf
from jaxllm.data.tagging import examples as ner
from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tokenizers import bpe
from jaxllm.types import InputError

TEXT = "Anna Li flew to New York on Monday, unhappily, and O'Neil says äö 100%"
SPECIAL = {
    "CamembertTokenizer": ("<s>NOTUSED", "<pad>", "</s>NOTUSED", "<unk>", "<unk>NOTUSED", "<s>", "</s>", "<mask>"),
    "XLMRobertaTokenizer": ("<s>", "<pad>", "</s>", "<unk>", "<mask>"),
    "AlbertTokenizer": ("<pad>", "<unk>", "[CLS]", "[SEP]", "[MASK]"),
    "DebertaV2Tokenizer": ("[PAD]", "[CLS]", "[SEP]", "[UNK]", "[MASK]"),
}


def fault(folder):
    with pytest.raises(InputError) as error:
        hf.load_tokenizer(str(folder))
    assert "\n" not in str(error.value)
    return str(error.value)


@pytest.fixture
def folder(tmp_path):
    bpe(["plain words"], 280).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def change(path, **fields):
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def test_the_folder_of_a_fast_tokenizer_is_read(folder):
    assert hf.load_tokenizer(str(folder)).decode(hf.load_tokenizer(str(folder))("plain")["input_ids"][1:]) == "plain"


def test_code_of_a_tokenizer_is_not_run(folder, tmp_path):
    ran = tmp_path / "ran"
    (folder / "tokenization_my.py").write_text(f"open({str(ran)!r}, 'w')\nclass MyTokenizer:\n    pass\n")
    change(folder / "tokenizer_config.json", tokenizer_class="MyTokenizer",
           auto_map={"AutoTokenizer": ["tokenization_my.MyTokenizer", None]})  # fmt: skip
    assert "has no tokenizer that can be read" in fault(folder)
    assert not ran.exists()


def test_a_tokenizer_of_a_newer_library(folder):
    change(folder / "tokenizer.json", model={"type": "Newer", "vocab": {}})
    assert "it is of a newer version of the library tokenizers: upgrade that, or name one by" in fault(folder)


def test_a_tokenizer_without_a_fast_version(tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "ByT5Tokenizer"}')
    (tmp_path / "vocab.txt").write_text("a\nb\n")
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    assert "its tokenizer has no fast version (tokenizer.json); convert it with transformers" in fault(tmp_path)


@pytest.fixture
def save_tokenizer(tmp_path):
    """Saves a tokenizer of a class of transformers, whose pieces are trained on the text; returns the folder."""

    def save(kind, called):
        unknown = next(token for token in SPECIAL[kind] if "unk" in token.lower())
        pieces = Tokenizer(models.Unigram())
        pieces.pre_tokenizer = pre_tokenizers.Metaspace()
        trainer = trainers.UnigramTrainer(
            vocab_size=60, special_tokens=list(SPECIAL[kind]), unk_token=unknown, show_progress=False
        )
        pieces.train_from_iterator([TEXT, TEXT.lower()] * 2, trainer)
        vocab = json.loads(pieces.to_str())["model"]["vocab"]
        getattr(transformers, kind)(vocab=[tuple(piece) for piece in vocab]).save_pretrained(tmp_path / kind)
        path = tmp_path / kind / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "tokenizer_class": called}))
        return tmp_path / kind

    return save


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("suffix", ["", "Fast"])
def test_words_have_the_pieces_that_they_have_alone(kind, suffix, save_tokenizer):
    tokenizer = hf.load_tokenizer(str(save_tokenizer(kind, kind + suffix)))
    assert (type(tokenizer).__name__, tokenizer.is_fast) == (kind, True)
    words, tags = ["Anna", "flew", "to", "O'Neil", "zzz", "York"], ["B-a", "O", "O", "B-b", "O", "B-c"]
    alone = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert max(map(len, alone)) > 2, "words of several pieces"
    labels = ("O", "B-a", "B-b", "B-c")
    (example,) = ner.encode([Sentence(words, tags, "f")], tokenizer, labels, 64).examples
    ids = [tokenizer.cls_token_id, *itertools.chain(*alone), tokenizer.sep_token_id]
    assert example.tokens.tolist() == ids == tokenizer(words, is_split_into_words=True)["input_ids"]
    firsts = [1 + sum(map(len, alone[:i])) for i in range(len(words))]
    assert example.weights.nonzero()[0].tolist() == firsts
    assert [labels[i] for i in example.targets[firsts]] == tags


def test_pieces_alone_need_sentencepiece(save_tokenizer, monkeypatch):
    folder = save_tokenizer("DebertaV2Tokenizer", "DebertaV2Tokenizer")
    (folder / "tokenizer.json").rename(folder / "spm.model")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sentencepiece" else find(name))
    with pytest.raises(InputError, match=r"has spm\.model but no tokenizer\.json, and sentencepiece.*pip install"):
        hf.load_tokenizer(str(folder))
