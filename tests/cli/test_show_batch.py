"""What is shown of a batch is what is in it: segments and branches, and between marks what is learnt."""

import re

import numpy as np
import pytest
from data_rows import write_jsonl
from rich.console import Console

from jaxllm.cli import show_batch as command
from jaxllm.cli.show_batch import Piece, painted, pieces, runs
from jaxllm.data import tokenizers
from jaxllm.data.chat.encode import Encoded
from jaxllm.data.chat.examples import example
from jaxllm.data.packing import collate
from jaxllm.data.preference.answers import Answer, AnswerRows, Group, Layout
from jaxllm.recipes.script import input_errors, parse
from jaxllm.run.folder import open_run, start_run

TURNS = [{"question": "Who was it?", "answer": "The postman."}, {"question": "Why?", "answer": "Letters."}]
SHOWN = ["<|endoftext|>User: Who was it?\nAssistant:⟦ The postman.<|endoftext|>⟧",
         "<|endoftext|>User: Why?\nAssistant:⟦ Letters.<|endoftext|>⟧"]  # fmt: skip


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("NO_COLOR", "1")


def show(capsys, *argv):
    command.main(parse(command.Config, ["--vocab-size", "300", "--model", "tiny", *map(str, argv)]))
    return capsys.readouterr().out


def encoded(*tokens, learnt):
    return Encoded(np.array(tokens, np.int32), np.isin(np.arange(len(tokens)), learnt))


def test_a_row_in_pieces_with_the_last_target():
    a, b = example(encoded(1, 2, 3, 4, learnt=[2, 3])), example(encoded(5, 6, 7, 8, 9, learnt=[1, 4]))
    batch = collate([[a, b], []], 16, 2)
    assert pieces(batch, 0) == [
        Piece(1, "", [1, 2, 3, 4], [False, False, True, True]),
        Piece(2, "", [5, 6, 7, 8, 9], [False, True, False, False, True]),
    ]
    assert pieces(batch, 1) == []
    assert [*runs(pieces(batch, 0)[1])] == [([5], False), ([6], True), ([7, 8], False), ([9], True)]


@pytest.mark.parametrize("share", [True, False])
def test_answers_in_pieces(share):
    def answer(*tokens, side):
        return Answer(np.array(tokens, np.int32), np.ones(len(tokens), bool), side)

    group = Group(np.array([1, 2, 3], np.int32), (answer(4, 5, side=1), answer(6, side=-1)))
    rows = AnswerRows([group, group], Layout(share))
    found = pieces(rows.collate([[0, 1]], 32, 1, 4), 0)
    if share:
        assert found[:3] == [
            Piece(1, "prompt", [1, 2], [False, False]),
            Piece(1, "chosen", [3, 4, 5], [False, True, True]),
            Piece(1, "rejected", [3, 6], [False, True]),
        ]
        assert [piece.segment for piece in found] == [1, 1, 1, 2, 2, 2]
    else:
        assert found == [
            Piece(1, "chosen", [1, 2, 3, 4, 5], [False, False, False, True, True]),
            Piece(2, "rejected", [1, 2, 3, 6], [False, False, False, True]),
            Piece(3, "chosen", [1, 2, 3, 4, 5], [False, False, False, True, True]),
            Piece(4, "rejected", [1, 2, 3, 6], [False, False, False, True]),
        ]


def test_colour_in_place_of_marks():
    tokenizer = tokenizers.bpe(["some [bold] words"], 300)
    ids = tokenizer("[bold] words", add_special_tokens=False)["input_ids"]
    piece = Piece(1, "", ids, [False] * (len(ids) - 1) + [True])
    console = Console(force_terminal=True, color_system="standard", no_color=False, width=80)
    with console.capture() as heard:
        console.print(painted(piece, tokenizer, True))
    last = tokenizer.decode(ids[-1:])
    assert heard.get() == f"{tokenizer.decode(ids[:-1])}\x1b[30;42m{last}\x1b[0m\n"
    assert painted(piece, tokenizer, False).plain == f"{tokenizer.decode(ids[:-1])}⟦{last}⟧"


def test_dialogues_with_their_places(tmp_path, capsys):
    rows = [*TURNS, {"question": "why " * 80, "answer": "So."}, *TURNS]
    path = write_jsonl(tmp_path / "asked.jsonl", rows)
    said = show(capsys, path, "--max-length", 60, "--holdout", 0, "--rows", 8)
    assert "1 left out, the prompt fills --max-length 60" in said
    for line, shown in zip((1, 2, 4, 5), SHOWN * 2, strict=True):
        assert f"{path}, line {line}\n{shown}" in said
    alone = show(capsys, "--dataset", path, "--max-length", 60, "--holdout", 0, "--no-pack", "--rows", 1)
    assert alone.count(str(path) + ", line") == 2  # the row left out, and the one shown


def test_pairs_with_their_prompt_once(tmp_path, capsys):
    rows = [{"question": "Who was it?", "chosen": "The postman.", "rejected": "No one."},
            {"question": "Who was it?", "chosen": "He.", "rejected": "He."}] * 8  # fmt: skip
    path = write_jsonl(tmp_path / "pairs.jsonl", rows)
    said = show(capsys, path, "--holdout", 0, "--rows", 8, "--max-bad-rows", 0.5)
    assert "8 left out, chosen equals rejected" in said
    assert re.search(
        rf"line 1  prompt\n<\|endoftext\|>User: Who was it\?\nAssistant\n\d  {re.escape(str(path))}, line 1  chosen\n"
        r":⟦ The postman\.",
        said,
    )
    assert said.count("rejected\n:⟦ No one.<|endoftext|>⟧") >= 2
    apart = show(capsys, path, "--holdout", 0, "--no-share-prompt", "--rows", 8, "--max-bad-rows", 0.5)
    assert "line 1  chosen\n<|endoftext|>User: Who was it?\nAssistant:⟦ The postman.<|endoftext|>⟧" in apart


def test_the_shape_is_told_with_the_columns_that_are_not_read(tmp_path, capsys):
    path = write_jsonl(tmp_path / "asked.jsonl", [{"ask": "Who?", "say": "He.", "id": i} for i in range(4)])
    said = show(capsys, path, "--holdout", 0, "--columns", "question=ask,answer=say")
    assert "shape    recognised by the columns question and answer (4 rows)\n" in said
    assert said.count("columns not read: id\n") == 1
    rows = [{"prompt": "Who?", "completions": [" He.", " She.", " It."], "scores": [3, 1, 2]}] * 4
    path = write_jsonl(tmp_path / "scored.jsonl", rows)
    assert "shape    recognised by the columns completions and scores (4 rows)\n" in show(capsys, path, "--holdout", 0)
    said = show(capsys, path, "--holdout", 0, "--pairs", "all")
    assert "12 train pairs" in said
    assert f"{path}, line 1, pair 3  chosen" in said


def test_the_flags_of_a_run(tmp_path, capsys):
    import sft

    path = write_jsonl(tmp_path / "asked.jsonl", TURNS * 8)
    config = sft.Config(dataset=str(path), holdout=0.0, model="tiny", vocab_size=300, train_on="all", batch_size=2)
    start_run(open_run("sft", config, str(tmp_path / "run")))
    said = show(capsys, tmp_path / "run")
    assert "⟦User: Who was it?\nAssistant: The postman.<|endoftext|>\n⟧" in said
    assert "2.0 examples" in said
    assert "4.0 examples" in show(capsys, tmp_path / "run", "--batch-size", 4)


@pytest.mark.parametrize(
    ("flags", "fault"),
    [
        (("no/such/file.jsonl",), "no/such/file.jsonl: no such file"),
        (("--script", "ner"), "--script ner: batches of sft and preference can be shown"),
        (("--step", "-1"), "--step -1"),
        (("--script", "preference", "--cut", "drop"), "--cut drop"),
        (("--script", "preference", "--pairs", "some"), "--pairs some: give best or all"),
        (("--columns", "ask"), "--columns ask: give NAME=COLUMN"),
        (("--max-bad-rows", "2"), "--max-bad-rows 2.0: give a share from 0 to 1"),
    ],
)
def test_bad_input_is_one_line(capsys, flags, fault):
    with pytest.raises(SystemExit) as stop, input_errors():
        show(capsys, *flags)
    assert stop.value.code == 2
    assert fault in capsys.readouterr().err
