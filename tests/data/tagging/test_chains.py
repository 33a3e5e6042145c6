"""Chains of labels against an enumeration of all paths."""

import itertools

import numpy as np
import pytest

from jaxllm.data.tagging import chains
from jaxllm.data.tagging.chains import Chain, valid_chain
from jaxllm.data.tagging.schemes import SCHEMES, entities

V = 4


def every_path(length, count=V):
    return [np.array(path) for path in itertools.product(range(count), repeat=length)]


def drawn(lengths, seed=0):
    draw = np.random.default_rng(seed)
    chain = Chain(draw.normal(size=V), 2 * draw.normal(size=(V, V)), draw.normal(size=V))
    return [draw.normal(size=(length, V)) for length in lengths], chain


@pytest.mark.parametrize("lengths", [(1,), (3, 1, 0, 5, 2, 5), (4, 4)])
def test_best_path_normaliser_and_marginals_are_those_of_all_paths(lengths, monkeypatch):
    monkeypatch.setattr(chains, "GROUP", 3)
    scores, chain = drawn(lengths)
    best, normalisers = chains.best_paths(scores, chain), chains.log_normalisers(scores, chain)
    marginals = chains.marginals(scores, chain)
    for s, path, log_z, p in zip(scores, best, normalisers, marginals, strict=True):
        if not len(s):
            assert (len(path), log_z, len(p)) == (0, 0.0, 0)
            continue
        paths = every_path(len(s))
        values = np.array([chains.path_score(s, one, chain) for one in paths])
        assert path.tolist() == paths[values.argmax()].tolist()
        assert log_z == pytest.approx(np.log(np.exp(values).sum()), abs=1e-12)
        expected = np.zeros_like(s)
        for one, value in zip(paths, values, strict=True):
            expected[np.arange(len(s)), one] += np.exp(value - log_z)
        np.testing.assert_allclose(p, expected, atol=1e-12)


def written(found, length, scheme):
    """Entities in the tags of a scheme."""
    tags = ["O"] * length
    for i, (kind, first, stop) in enumerate(found):
        before, after = (found[j] if 0 <= j < len(found) else ("", -1, -1) for j in (i - 1, i + 1))
        letters = {
            "IOB1": lambda j: "B" if j == first and before[0] == kind and before[2] == first else "I",  # noqa: B023
            "IOE1": lambda j: "E" if j == stop - 1 and after[0] == kind and after[1] == stop else "I",  # noqa: B023
            "IOB2": lambda j: "B" if j == first else "I",  # noqa: B023
            "IOE2": lambda j: "E" if j == stop - 1 else "I",  # noqa: B023
            "IO": lambda j: "",
        }
        if scheme in letters:
            spell = letters[scheme]
        else:
            begin, inside, end, single = {"IOBES": "BIES", "BILOU": "BILU", "BMES": "BMES"}[scheme]
            spell = lambda j: (
                single if stop - first == 1 else begin if j == first else end if j == stop - 1 else inside  # noqa: B023
            )
        for j in range(first, stop):
            tags[j] = f"{spell(j)}-{kind}".removeprefix("-")
    return tags


@pytest.mark.parametrize("scheme", SCHEMES)
def test_valid_paths_are_the_tags_that_the_scheme_writes(scheme):
    labels = ["O", *(f"{letter}-{kind}".removeprefix("-") for kind in "xy" for letter in SCHEMES[scheme] or [""])]
    chain = valid_chain(labels, scheme)
    valid = 0
    for path in every_path(3 if len(labels) > 5 else 4, len(labels)):
        tags = [labels[i] for i in path]
        allowed = np.isfinite(chains.path_score(np.zeros((len(path), len(labels))), path, chain))
        valid += allowed
        assert allowed == (written(entities(tags), len(tags), scheme) == tags), tags
    assert valid > 20


def test_the_likeliest_valid_path():
    labels = ["O", "B-x", "I-x"]
    scores = np.log([[0.5, 0.1, 0.4], [0.1, 0.2, 0.7]])  # word by word it would be O I-x
    chain = valid_chain(labels, "IOB2")
    assert chains.best_paths([scores], chain)[0].tolist() == [0, 1]  # 0.5 x 0.2, and B-x I-x is 0.1 x 0.7
    assert chains.best_paths([scores], chain + chain)[0].tolist() == [0, 1]
    assert valid_chain(["O", "x", "y"], "IO").pairs.tolist() == [[0.0] * 3] * 3


@pytest.mark.parametrize(
    ("labels", "scheme"),
    [
        ("O B-x I-x", "IOB2"), ("O B-x B-y I-x", "IOB2"), ("O I-x I-y B-y", "IOB1"), ("O I-x", "IOB1"),
        ("O E-x I-x", "IOE2"), ("O E-x I-x I-y", "IOE1"), ("O B-x E-x S-y", "IOBES"), ("O B-x U-y", "BILOU"),
        ("O B-x M-x E-x", "BMES"), ("O x y", "IO"), ("O", "IO"),
    ],
)  # fmt: skip
def test_the_scheme_of_labels_alone(labels, scheme):
    assert chains.scheme_of(labels.split()) == scheme
