"""Text that continues prompts, decoded as it comes: stop texts, characters of several tokens, prompts as tokens."""

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from jaxllm.data.tokenizers import bpe
from jaxllm.evals import text
from jaxllm.evals.generate import Sampling
from jaxllm.types import InputError


class Script:
    """A `generate` that says these texts, a byte per token, and notes how many tokens were wanted of it."""

    def __init__(self, *texts):
        self.rows = [text.encode() for text in texts]
        self.read = [0] * len(texts)

    def __call__(self, graphdef, params, prompts, sampling, *, max_tokens, stop, seed, on_token):
        going = [True] * len(prompts)
        for i in range(max_tokens):
            for row, said in enumerate(self.rows):
                if going[row] and i < len(said):
                    self.read[row] += 1
                    last = i == min(len(said), max_tokens) - 1
                    going[row] = not (on_token(row, said[i], last) or last)


class Bytes:
    def decode(self, ids, skip_special_tokens):
        return bytes(ids).decode(errors="replace")


def streamed(monkeypatch, texts, **how):
    script, pieces = Script(*texts), []
    monkeypatch.setattr(text, "generate", script)
    write = lambda row, piece, last: pieces.append((row, piece, last))
    found = text.continue_texts(None, {}, Bytes(), [b"long before: "] * len(texts), Sampling(), write=write, **how)
    for row, whole in enumerate(found):
        assert "".join(piece for r, piece, _ in pieces if r == row) == whole
        assert [last for r, _, last in pieces if r == row][-1]
    return found, pieces, script.read


def test_stop_texts_end_their_row_and_are_never_shown(monkeypatch):
    texts = ["one\n\nUser: x", "no such thing\nU", "\nUser:"]
    found, pieces, read = streamed(monkeypatch, texts, stop=["\nUser:", "zzz"])
    assert found == ["one\n", "no such thing\nU", ""]
    assert read == [10, 15, 6]
    assert not any("\nU" in text for row, text, last in pieces if not last)
    assert pieces[0][1] == "o", "shown as it comes, as far as it cannot be the beginning of a stop text"


def test_an_empty_stop_text_stops_nothing(monkeypatch):
    found, _, read = streamed(monkeypatch, ["some text"], stop=[""])
    assert (found, read) == (["some text"], [9])


def test_spaces_that_the_tokenizer_takes_out_are_not_shown(monkeypatch):
    words = ["<unk>", "I", "do", "n't", ".", "he", "'s", ","]
    inner = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", clean_up_tokenization_spaces=True)
    ids, pieces = tokenizer("do n't , he 's .")["input_ids"], []
    say = lambda *_, on_token, **how: [on_token(0, token, i == len(ids) - 1) for i, token in enumerate(ids)]
    monkeypatch.setattr(text, "generate", say)
    write = lambda row, piece, last: pieces.append(piece)
    (found,) = text.continue_texts(None, {}, tokenizer, [[1]], Sampling(), write=write)
    assert "I" + "".join(pieces) == "I" + found == tokenizer.decode([1, *ids]) == "I don't, he's."


def test_a_character_of_several_tokens_is_shown_whole(monkeypatch):
    found, pieces, _ = streamed(monkeypatch, ["aé€😀b"])
    assert found == ["aé€😀b"]
    assert [text for _, text, _ in pieces] == ["a", "é", "€", "😀", "b"]
    assert streamed(monkeypatch, ["a€"], max_tokens=2)[0] == ["a\ufffd"], "cut short"


def test_a_prompt_begins_as_the_tokenizer_begins_texts():
    tokenizer = bpe(["plain"], 280)
    assert text.encode("", tokenizer) == [0]
    assert text.encode("plain", tokenizer) == tokenizer("plain")["input_ids"] != []
    with pytest.raises(InputError, match="the tokenizer has no chat template"):
        text.encode("hm", tokenizer, chat=True)
    assert text.encode("<|endoftext|>plain", tokenizer) == text.encode("plain", tokenizer), "begun once"


def test_an_end_token_that_the_tokenizer_appends_is_left_out():
    tokenizer = bpe(["plain"], 280)
    bare = tokenizer("plain", add_special_tokens=False)["input_ids"]
    tokenizer.add_special_tokens({"bos_token": "<s>", "eos_token": "</s>"})
    begin, end = tokenizer.bos_token_id, tokenizer.eos_token_id
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", begin), ("</s>", end)]
    )
    assert tokenizer("plain")["input_ids"] == [begin, *bare, end]
    assert text.encode("plain", tokenizer) == [begin, *bare]
    assert text.encode("", tokenizer) == [begin]


def test_a_template_that_refuses_the_message_is_one_line():
    tokenizer = bpe(["plain"], 280)
    tokenizer.chat_template = "{{ raise_exception('A system message is required') }}"
    with pytest.raises(InputError, match="the chat template refuses it: A system message is required; mend"):
        text.encode("hm", tokenizer, chat=True)


def test_a_stop_text_may_be_a_special_token(monkeypatch):
    seen = {}
    monkeypatch.setattr(text, "generate", lambda *a, stop, **how: seen.update(stop=list(stop)))
    tokenizer = bpe(["plain"], 280)
    tokenizer.add_tokens(["<|im_end|>"], special_tokens=True)
    end = tokenizer.convert_tokens_to_ids("<|im_end|>")
    text.continue_texts(None, {}, tokenizer, [[1]], Sampling(), ends=[0], stop=["<|im_end|>", "two"])
    assert seen["stop"] == [0, end]
    with pytest.raises(InputError, match=r"has the special token <\|im_end\|> and more; give <\|im_end\|> alone"):
        text.continue_texts(None, {}, tokenizer, [[1]], Sampling(), stop=["<|im_end|>x"])
