"""The file of a reference's log-probabilities: what its key depends on, and what it gives back."""

import dataclasses

import numpy as np
import pytest
from data_rows import groups_of

from jaxllm.data import tokenizers
from jaxllm.data.preference import reference_cache
from jaxllm.data.preference.answers import Answer, Group

ROWS = [
    {"prompt": f"what is {i} and what is it not", "chosen": " a cat" * (i + 1), "rejected": " dog"} for i in range(5)
]


@pytest.fixture(scope="module")
def tokenizer():
    return tokenizers.bpe(["what is it and what is it not, a cat, a dog"] * 3, 300)


def test_the_key_changes_with_data_tokenizer_weights_length_and_cut_and_with_nothing_else(tokenizer):
    def key(rows, tokenizer, model="m", max_length=40, **more):
        return reference_cache.key_of(groups_of(tokenizer, *rows, max_length=max_length, **more)[0], model)

    first = key(ROWS, tokenizer)
    assert key(ROWS, tokenizer) == first
    # What may differ between runs that share a reference: weights and margins of pairs are the loss's own.
    assert key([{**row, "weight": 2.0, "margin": 1.0} for row in ROWS], tokenizer) == first
    other = tokenizers.bpe(["what is a horse"] * 3, 280)
    changed = {
        "data": key([*ROWS[:-1], {**ROWS[-1], "rejected": " dogs"}], tokenizer),
        "fewer rows": key(ROWS[:-1], tokenizer),
        "order": key(ROWS[::-1], tokenizer),
        "tokenizer": key(ROWS, other),
        "weights": key(ROWS, tokenizer, model="n"),
        "length": key(ROWS, tokenizer, max_length=14),
        "cut": key(ROWS, tokenizer, max_length=14, cut="prompt"),
    }
    assert len({first, *changed.values()}) == 1 + len(changed), changed


def test_the_key_tells_apart_what_is_trained_on_and_where_a_prompt_ends():
    def group(prompt, tokens, trained=None):
        trained = np.ones(len(tokens), bool) if trained is None else np.array(trained, bool)
        return [Group(np.array(prompt, np.int32), (Answer(np.array(tokens, np.int32), trained, 1),))]

    cases = [group([1, 2], [3, 4]), group([1], [2, 3, 4]), group([1, 2], [3, 4], [1, 0]), group([1, 2], [3, 5])]
    assert len({reference_cache.key_of(case, "m") for case in cases}) == len(cases)
    flipped = dataclasses.replace(cases[0][0].answers[0], side=-1)
    assert reference_cache.key_of(
        [dataclasses.replace(cases[0][0], answers=(flipped,))], "m"
    ) == reference_cache.key_of(cases[0], "m")


def test_what_was_written_is_read_and_a_damaged_file_is_not(tokenizer, tmp_path):
    groups, _ = groups_of(tokenizer, *ROWS, max_length=40)
    rng = np.random.default_rng(0)
    logps = [[-rng.random(a.reach).astype(np.float32) for a in group.answers] for group in groups]
    path = reference_cache.path_of(reference_cache.key_of(groups, "m"), tmp_path)
    assert reference_cache.read(path, groups) is None
    reference_cache.write(path, logps)
    found = reference_cache.read(path, groups)
    for a, b in zip(found, logps, strict=True):
        for x, y in zip(a, b, strict=True):
            np.testing.assert_array_equal(x, y)
    assert [p.name for p in path.parent.iterdir()] == [path.name]
    assert reference_cache.read(path, groups[:-1]) is None
    path.write_bytes(path.read_bytes()[:-4])
    assert reference_cache.read(path, groups) is None
