"""Entities of raw text, by each strategy and kind of tokenizer, against transformers' pipeline on the same model."""

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import BertConfig, BertForTokenClassification, PreTrainedTokenizerFast, pipeline

from jaxllm.data.tagging import examples as ner
from jaxllm.evals.aggregation import STRATEGIES, group_entities

torch = pytest.importorskip("torch")

TEXT = "Anna Li flew to New York on Monday , unhappily un affordable O'Neil says #tags 100% äö"
TEXTS = [
    TEXT, "Anna  Li's ☃ York,unhappily [SEP] says\n100% äö", "☃", "", " ", "e\u0301 İstanbul ﬁn 👩‍👩‍👧 ☃☃Monday",
    "New-York's_tags (100%)... O'Neil", " unaffordably\tunhappily ", "ÄÖ ANNA ä",
]  # fmt: skip
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
NAMES = {
    "BIO": ("O", "B-per", "I-per", "B-creative-work", "S-loc"),
    "IO": ("O", "I-PER", "I-LOC", "I-ORG", "I-MISC"),
    "types": ("O", "B-tax-percent", "I-tax-percent", "PER", "LOC"),
}


def word_piece(lowercase):
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=lowercase)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    tokenizer.train_from_iterator([TEXT] * 2, trainers.WordPieceTrainer(vocab_size=70, special_tokens=SPECIAL))
    return tokenizer


def byte_level():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=330, special_tokens=SPECIAL, initial_alphabet=alphabet)
    tokenizer.train_from_iterator([f" {TEXT}"] * 2, trainer)
    return tokenizer


def unigram():
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.NFKC()
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=60, special_tokens=SPECIAL, unk_token="[UNK]")
    tokenizer.train_from_iterator([TEXT] * 20, trainer)
    return tokenizer


TOKENIZERS = {
    "WordPiece": lambda: word_piece(False), "uncased": lambda: word_piece(True),
    "bytes": byte_level, "Unigram": unigram,
}  # fmt: skip


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("kind", TOKENIZERS)
@pytest.mark.filterwarnings("ignore:Tokenizer does not support real words")
def test_entities_are_those_of_the_pipeline(kind, names):
    made = TOKENIZERS[kind]()
    ids = {name: made.token_to_id(name) for name in SPECIAL}
    made.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    words = ("pad_token", "unk_token", "cls_token", "sep_token", "mask_token")
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=made, model_max_length=128, **dict(zip(words, SPECIAL, strict=True))
    )
    torch.manual_seed(1)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16,
        initializer_range=1.0, id2label=dict(enumerate(names)),
    )  # fmt: skip
    model = BertForTokenClassification(config).eval()
    windows, parts = ner.encode_text(TEXTS, tokenizer, 128)
    answers = []
    for example in windows.examples:
        with torch.no_grad():
            logits = model(torch.as_tensor(example.tokens[None].astype(np.int64))).logits[0]
        answers.append(torch.softmax(logits, -1).numpy())
    scores = ner.stitch(windows, answers)
    several = 0
    for strategy in STRATEGIES:
        tagger = pipeline("token-classification", model=model, tokenizer=tokenizer, aggregation_strategy=strategy)
        found = group_entities(parts, scores, names, tokenizer, strategy)
        for text, ours in zip(TEXTS, found, strict=True):
            theirs = tagger(text)
            expected = [float(x.pop("score")) for x in theirs]
            assert [x.pop("score") for x in ours] == pytest.approx(expected, abs=1e-5), (strategy, text)
            assert ours == theirs, (strategy, text)
            several += len(ours) > 1
    assert several > 10
    assert len({i for x in scores for i in x.argmax(-1).tolist()}) >= 3


def test_no_texts_and_texts_without_tokens(tmp_path):
    assert group_entities([], [], NAMES["BIO"], None, "first") == []
    nothing = ner.Text("", np.zeros(0, np.int32), np.zeros((0, 2), np.int32))
    assert group_entities([nothing], [np.zeros((0, 5))], NAMES["BIO"], None, "max") == [[]]
