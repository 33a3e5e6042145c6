"""The embedded task of online training."""

from jaxllm.data.builtin.sorting import COUNT, HELD_OUT, LONGEST, SHORTEST, sorting


def test_words_are_of_letters_that_differ_and_in_one_split():
    splits = sorting()
    assert splits == sorting()
    assert {name: len(rows) for name, rows in splits.items()} == {"train": COUNT - HELD_OUT, "dev": HELD_OUT}
    rows = [row for part in splits.values() for row in part]
    assert len({row["prompt"] for row in rows}) == COUNT
    for row in rows:
        word = row["prompt"].removeprefix("sort ").removesuffix("=")
        assert SHORTEST <= len(set(word)) == len(word) <= LONGEST
        assert row["answer"] == "".join(sorted(word))
