"""Rows that are held out where a data set has no dev split."""

import pytest

from jaxllm.data.chat.rows import Dialogue
from jaxllm.recipes import rows
from jaxllm.types import InputError


def split(n):
    return rows.Split([Dialogue(prompt=str(i), completion="x") for i in range(n)], [f"row {i}" for i in range(n)])


def test_every_so_manyth_row_is_held_out_where_there_is_no_dev_split():
    found = rows.hold_out({"train": split(10)}, 0.25)
    assert found["dev"].locations == ["row 3", "row 7"]
    assert [one.prompt for one in found["dev"].rows] == ["3", "7"]
    assert sorted(found["train"].locations + found["dev"].locations) == split(10).locations
    kept = {"train": split(10), "dev": split(2)}
    assert rows.hold_out(kept, 0.25) == kept
    assert rows.hold_out({"train": split(10)}, 0.0).keys() == {"train"}
    assert rows.hold_out({"train": split(3)}, 0.25).keys() == {"train"}, "too few"


def test_a_key_is_of_the_texts_and_where_one_ends():
    assert rows.key_of(["ab", "c"]) == rows.key_of(iter(["ab", "c"]))
    assert len({rows.key_of(texts) for texts in (["ab", "c"], ["a", "bc"], ["abc"], [])}) == 4


@pytest.mark.parametrize(("holdout", "cut", "words"), [(1.0, "answer", "--holdout 1.0"), (0.1, "end", "--cut end")])
def test_refused(holdout, cut, words):
    with pytest.raises(InputError, match=words):
        rows.check(holdout, cut, ("answer", "prompt"))


def test_the_header_says_which_file_became_which_split():
    def of(names):
        places = [f"{name}, line {line}" for name in names for line in (1, 2)]
        return rows.Split([Dialogue(prompt="x", completion="y") for _ in places], places)

    splits = {"train": of([f"memory://data/part-{i}.jsonl" for i in range(5)]), "dev": of(["/data/held, out.json"])}
    line = "train: part-0.jsonl, part-1.jsonl, part-2.jsonl and 2 more; dev: held, out.json"
    assert rows.lines_of(splits, "dialogues")[1] == ("", line)
    train, dev = (rows.hold_out({"train": of(["a.jsonl"])}, 0.5)[name] for name in ("train", "dev"))
    assert rows.lines_of({"train": train, "dev": dev}, "x")[1] == ("", "train: a.jsonl; dev: a.jsonl")


def test_the_pairs_of_one_row_stay_in_one_split():
    places = [f"a.jsonl, line {line}, pair {pair}" for line in range(1, 5) for pair in (1, 2)]
    found = rows.hold_out({"train": rows.Split([Dialogue(prompt="x", completion="y")] * 8, places)}, 0.5)
    assert found["dev"].locations == [places[2], places[3], places[6], places[7]]
    assert rows.lines_of(found, "pairs")[1] == ("", "train: a.jsonl; dev: a.jsonl")
    alone = rows.Split([Dialogue(prompt="x", completion="y")] * 2, places[:2])
    assert rows.hold_out({"train": alone}, 0.5).keys() == {"train"}, "a single row"
