"""The texts of the embedded corpora of named entities and of requests, for masked language models.

Their grammar is small enough for a model to learn in minutes, and what it learns serves the taggers and classifiers
that are trained on the same corpora.
"""

from __future__ import annotations

from jaxllm.data.builtin.ner import ner
from jaxllm.data.builtin.requests import requests

SPLITS = ("train", "dev")


def documents() -> dict[str, dict[str, str]]:
    """Splits `train` and `dev` of texts by name ("ner/12", "requests/7"), a sentence or a request each."""
    tagged, labelled = ner(), requests()
    return {
        split: {f"ner/{i}": " ".join(row["tokens"]) for i, row in enumerate(tagged[split])}
        | {f"requests/{i}": row["text"] for i, row in enumerate(labelled[split])}
        for split in SPLITS
    }
