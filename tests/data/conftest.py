import pytest

from jaxllm.data import tokenizers
from jaxllm.data.builtin import questions


@pytest.fixture(scope="session")
def asked():
    """The embedded questions."""
    return questions.sft()


@pytest.fixture(scope="session")
def trained_bpe(asked):
    return tokenizers.bpe((f"{row['question']}\n\n{row['answer']}" for row in asked["train"][:800]), 600)


@pytest.fixture
def tokenizer(trained_bpe, tmp_path):
    """A tokenizer that a test may change."""
    import copy

    return copy.deepcopy(trained_bpe)
