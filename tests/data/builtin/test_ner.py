import itertools
import re
import subprocess
import sys
from collections import Counter

import pytest
from seqeval.scheme import IOB2, Tokens
from transformers import AutoTokenizer

from jaxllm.data.builtin import ner as builtin
from jaxllm.data.builtin.tables import FORMS, LABELS, NAMES, PARTS, TEMPLATES, WORDS

SPLITS = ("train", "dev", "test")
TYPES = {"person", "organisation", "place", "product", "date"}


@pytest.fixture(scope="module")
def corpus():
    return builtin.ner()


@pytest.fixture(scope="module")
def tokenizer(corpus):
    return builtin.wordpiece(texts(corpus["train"]))


def texts(rows):
    return [" ".join(row["tokens"]) for row in rows]


def entities(rows):
    """(type, words) of every entity, by a reader of IOB2 that is not the writer."""
    found = []
    for row in rows:
        inside = None
        for word, tag in zip(row["tokens"], row["ner_tags"], strict=True):
            if tag.startswith("B-"):
                inside = (tag[2:], [])
                found.append(inside)
            elif tag == "O":
                inside = None
            if inside:
                inside[1].append(word)
    return [(label, tuple(words)) for label, words in found]


def parts_of_names(rows):
    """The words of entities that say who or what: no suffix, initial, number or preposition that all splits share."""
    shared = set(itertools.chain.from_iterable(PARTS.values()))
    shared |= {w for form in itertools.chain.from_iterable(FORMS.values()) for w in re.findall(r"\w+", form)} | {"&"}
    words = {w for label, name in entities(rows) if label != "date" for w in name}
    words = {re.split(r"-(?=\d)", w)[0] for w in words}  # "Axara-500"
    return {w for w in words if w not in shared and not re.fullmatch(r"[A-Z]?\d+", w)} - set(NAMES["field"])


def test_sizes_and_labels(corpus):
    assert tuple(corpus) == SPLITS
    assert {name: len(rows) for name, rows in corpus.items()} == dict(builtin.SIZES)
    for rows in corpus.values():
        counts = Counter(label for label, _ in entities(rows))
        assert set(counts) == TYPES
        assert min(counts.values()) >= 0.05 * len(rows)
        plain = sum(set(row["ner_tags"]) == {"O"} for row in rows)
        assert 0.04 < plain / len(rows) < 0.25
        assert sum(len(Counter(t for t in row["ner_tags"] if t[0] == "B")) > 1 for row in rows) > 0.25 * len(rows)


def test_tags_are_valid_iob2(corpus):
    for rows in corpus.values():
        for row in rows:
            assert len(row["tokens"]) == len(row["ner_tags"]) > 0
            assert all(token and not re.search(r"[\s{}\[\]|]", token) for token in row["tokens"]), row["tokens"]
            assert Tokens(row["ner_tags"], IOB2).entities is not None  # raises where a tag may not follow another
            assert {tag[2:] for tag in row["ner_tags"]} <= TYPES | {""}


def test_no_sentence_twice(corpus):
    everything = [text for rows in corpus.values() for text in texts(rows)]
    assert len(set(everything)) == len(everything)


@pytest.mark.parametrize("seed", [0, 1])
def test_no_template_is_shared_and_each_is_used_somewhere(seed):
    divided = builtin.templates(seed)
    assert Counter(itertools.chain.from_iterable(divided.values())) == Counter(dict.fromkeys(TEMPLATES, 1))
    assert min(len(divided["dev"]), len(divided["test"])) >= 0.1 * len(TEMPLATES)


def test_every_sentence_of_a_split_comes_from_its_templates(corpus):
    """Matched from the outside: the tags must leave a skeleton that one of the split's templates can make."""

    def pattern(template):
        out = ""
        for piece in re.findall(r"\{\w+\}|\[[^\]]*\]|[^\[\]{}]+", template):
            if piece[0] == "{":
                slot = piece[1:-1]
                out += f"<{LABELS[slot]}>" if slot in LABELS else f"(?:{'|'.join(map(re.escape, WORDS[slot]))})"
            elif piece[0] == "[":
                out += f"(?:{'|'.join(pattern(choice) for choice in piece[1:-1].split('|'))})"
            else:
                out += re.escape(piece)
        return out.replace("\\ ", "").replace(" ", "")

    divided = builtin.templates()
    for split in ("dev", "test"):
        own = [re.compile(pattern(t).removesuffix("\\."), re.I) for t in divided[split]]
        other = [
            re.compile(pattern(t) + "$", re.I)
            for name in SPLITS
            if name != split
            for t in divided[name]
            if t.count(" ") > 3
        ]
        for row in corpus[split][:150]:
            words = [
                w if tag == "O" else f"<{tag[2:]}>"
                for w, tag in zip(row["tokens"], row["ner_tags"], strict=True)
                if tag[0] != "I"
            ]
            skeleton = "".join(words)
            assert any(p.search(skeleton) for p in own), row["tokens"]
            assert not any(p.match(skeleton) for p in other), row["tokens"]


def test_no_name_is_shared(corpus):
    for one, two in itertools.combinations(SPLITS, 2):
        assert not set(entities(corpus[one])) & set(entities(corpus[two]))
        # Stricter: a first name, a surname, a town or a brand appears nowhere at all in another split.
        for held, other in ((one, two), (two, one)):
            words = {word for row in corpus[other] for word in row["tokens"]}
            assert not parts_of_names(corpus[held]) & words


def test_no_date_is_shared(corpus):
    dates = {name: {words for label, words in entities(corpus[name]) if label == "date"} for name in SPLITS}
    assert all(len(found) > 100 for found in dates.values())
    assert not dates["train"] & (dates["dev"] | dates["test"])
    assert not dates["dev"] & dates["test"]


def test_held_out_sentences_use_known_words(corpus):
    known = {w for row in corpus["train"] for w, tag in zip(row["tokens"], row["ner_tags"], strict=True) if tag == "O"}
    for split in ("dev", "test"):
        plain = [w for row in corpus[split] for w, t in zip(row["tokens"], row["ner_tags"], strict=True) if t == "O"]
        assert sum(word in known for word in plain) > 0.995 * len(plain)


def test_gazetteers_hold_no_word_of_the_language():
    language = {w for t in (*TEMPLATES, *itertools.chain(*WORDS.values())) for w in re.findall(r"\w+", t)}
    for table, names in NAMES.items():
        assert len(set(names)) == len(names)
        assert not set(names) & language, table


def test_equal_in_another_process_and_unequal_for_another_seed(corpus):
    program = """
import hashlib, json
from jaxllm.data.builtin.ner import ner, wordpiece
rows = ner()
vocabulary = wordpiece(" ".join(row["tokens"]) for row in rows["train"]).get_vocab()
print(hashlib.sha256(json.dumps([rows, vocabulary], sort_keys=True).encode()).hexdigest())
"""
    prints = {
        subprocess.run(
            [sys.executable, "-c", program], env={"PYTHONHASHSEED": hash_seed, "HF_HUB_OFFLINE": "1"},
            capture_output=True, text=True, check=True,
        ).stdout
        for hash_seed in ("1", "2")
    }  # fmt: skip
    assert len(prints) == 1
    assert builtin.ner() == corpus
    assert builtin.ner(seed=1)["dev"] != corpus["dev"]


def test_demo_sentences_are_new(corpus):
    assert builtin.NER_DEMO[0].startswith("My name is Maarten")
    everything = {word for rows in corpus.values() for row in rows for word in row["tokens"]}
    names = {"Maarten", "Enschede", "Nkechi", "Thorvald", "Brightmoor", "Groningen", "Zolara", "Kelvino"}
    assert all(any(name in text for text in builtin.NER_DEMO) for name in names)
    assert not names & everything
    for seed in (1, 2):
        assert not names & {word for row in builtin.ner(seed)["train"] for word in row["tokens"]}


def test_tokenizer_knows_every_character(corpus, tokenizer):
    held_out = [*texts(corpus["dev"]), *texts(corpus["test"]), *builtin.NER_DEMO, "Łódź, Ångström & Ñandú – “ça va?”"]
    ids = tokenizer(held_out)["input_ids"]
    assert tokenizer.unk_token_id not in set(itertools.chain.from_iterable(ids))
    assert tokenizer.decode(tokenizer("Zoë met Jürgen in Malmö")["input_ids"], skip_special_tokens=True) == (
        "Zoë met Jürgen in Malmö"
    )


def test_tokenizer_is_berts(tokenizer):
    assert len(tokenizer) <= 2048
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert tokenizer.convert_ids_to_tokens([0, 1, 2, 3, 4]) == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    assert (tokenizer.pad_token_id, tokenizer.unk_token_id, tokenizer.mask_token_id) == (0, 1, 4)
    ids = tokenizer("the The")["input_ids"]
    assert (ids[0], ids[-1]) == (tokenizer.cls_token_id, tokenizer.sep_token_id)
    assert len(set(ids)) == len(ids)  # cased
    assert tokenizer.model_max_length == 128
    cut = tokenizer(["word"] * 500, is_split_into_words=True, truncation=True)["input_ids"]
    assert len(cut) == 128


def test_capitalised_words_are_spelt_and_others_are_whole(corpus, tokenizer):
    frequent = Counter(w for row in corpus["train"] for w in row["tokens"] if w.isalpha() and w.islower())
    assert all(len(tokenizer.tokenize(word)) == 1 for word, _ in frequent.most_common(200))
    pieces = [len(tokenizer.tokenize(w)) for w in sorted(parts_of_names(corpus["train"]))]
    new = [len(tokenizer.tokenize(w)) for w in sorted(parts_of_names(corpus["dev"]))]
    # A name learnt by heart would be one piece; a new name must look as the known ones do.
    assert abs(sum(pieces) / len(pieces) - sum(new) / len(new)) < 0.5


def test_tokenizer_round_trips_through_a_folder(corpus, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    sample = [row["tokens"] for row in corpus["dev"][:50]]
    one, two = (t(sample, is_split_into_words=True) for t in (tokenizer, loaded))
    assert one["input_ids"] == two["input_ids"]
    assert [one.word_ids(i) for i in range(50)] == [two.word_ids(i) for i in range(50)]
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.model_max_length == tokenizer.model_max_length
    assert loaded.tokenize("Maarten the") == tokenizer.tokenize("Maarten the")


def test_pipeline_accepts_the_saved_tokenizer(tokenizer, tmp_path):
    pytest.importorskip("torch")
    from transformers import BertConfig, BertForTokenClassification, pipeline

    tokenizer.save_pretrained(tmp_path)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        num_labels=3,
    )
    BertForTokenClassification(config).save_pretrained(tmp_path)
    found = pipeline("token-classification", model=str(tmp_path))(builtin.NER_DEMO[0])
    assert found[0]["word"].startswith("M")
    assert {"start", "end", "score", "entity"} <= set(found[0])
    assert max(item["end"] for item in found) <= len(builtin.NER_DEMO[0])
