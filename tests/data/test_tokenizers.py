import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from jaxllm.data import tokenizers
from jaxllm.types import InputError

TEXTS = ["def first(x):\n    return x\n", "the first of the firsts, and the rest of the rest\n"] * 20
STRANGE = "  tabs\t\tand\n\n\nlines \u00e9\u6f22\U0001f600 <|endoftext|> \x00 end"


def test_bpe_gives_any_text_back_and_every_byte_is_known():
    tokenizer = tokenizers.bpe(TEXTS, 300)
    ids = tokenizer(STRANGE, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    assert tokenizer.decode(ids) == STRANGE
    assert tokenizer.eos_token_id not in ids
    assert len(tokenizer) <= 300
    # What it was trained on takes fewer tokens than it has bytes.
    assert len(tokenizer(TEXTS[0])["input_ids"]) < len(TEXTS[0])


def test_bpe_is_the_same_each_time():
    one, other = (tokenizers.bpe(iter(TEXTS), 320) for _ in range(2))
    assert one.backend_tokenizer.to_str() == other.backend_tokenizer.to_str()


def test_characters_in_the_order_of_their_code_points():
    tokenizer = tokenizers.characters(["banana\n", "cab"])
    assert tokenizer.get_vocab() == {"<|endoftext|>": 0, "<|unknown|>": 1, "\n": 2, "a": 3, "b": 4, "c": 5, "n": 6}
    assert tokenizer("cab\nz", add_special_tokens=False)["input_ids"] == [5, 3, 4, 2, 1]
    assert tokenizer.decode([4, 3, 6]) == "ban"


@pytest.mark.parametrize("make", [lambda: tokenizers.bpe(TEXTS, 300), lambda: tokenizers.characters(TEXTS)])
def test_a_prompt_begins_as_documents_do(make):
    tokenizer = make()
    plain = tokenizer("the rest", add_special_tokens=False)["input_ids"]
    assert tokenizer("the rest")["input_ids"] == [tokenizer.bos_token_id, *plain]
    assert tokenizer.bos_token_id == tokenizer.eos_token_id


def test_a_trained_tokenizer_is_kept_and_depends_on_its_key(tmp_path):
    def texts():
        asked.append(1)
        yield from TEXTS

    asked = []
    first = tokenizers.train_or_load("bpe", texts(), "a", tmp_path, vocab_size=280)
    again = tokenizers.train_or_load("bpe", texts(), "a", tmp_path, vocab_size=280)
    assert asked == [1]
    assert first.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    tokenizers.train_or_load("bpe", texts(), "b", tmp_path, vocab_size=280)
    tokenizers.train_or_load("bpe", texts(), "a", tmp_path, vocab_size=281)
    assert asked == [1, 1, 1]
    assert not list(tmp_path.rglob("partial-*"))


def test_only_a_sample_is_read(monkeypatch):
    monkeypatch.setattr(tokenizers, "SAMPLE", 5)

    def texts():
        yield "abc"
        yield "defg"
        raise AssertionError("read on")

    assert set(tokenizers.characters(texts()).get_vocab()) == {"<|endoftext|>", "<|unknown|>", *"abcde"}


def test_a_vocabulary_below_the_bytes_is_refused():
    with pytest.raises(InputError, match="257"):
        tokenizers.bpe(TEXTS, 100)


def test_of_two_that_would_make_a_folder_one_does(tmp_path):
    made, folder = [], tmp_path / "kind" / "key"

    def make():
        with tokenizers.lock_folder(folder):
            if not folder.exists():
                time.sleep(0.1)
                folder.mkdir()
                made.append(folder)

    with ThreadPoolExecutor(4) as pool:
        for future in [pool.submit(make) for _ in range(4)]:
            future.result()
    assert made == [folder]
    assert list(folder.parent.iterdir()) == [folder]
