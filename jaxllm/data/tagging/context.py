"""Neighbouring sentences of a document as the context of each (Schweter and Akbik 2020, FLERT, section 2.1)."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Iterable, Iterator
from typing import TypeVar

from jaxllm.data.tagging.examples import Sentence
from jaxllm.data.tagging.untagged import Line

S = TypeVar("S", Sentence, Line)


def in_context(sentences: Iterable[S], most: int) -> Iterator[S]:
    """Each sentence with the `most` words before it and after it in its document as `left` and `right`.

    Sentences of a document follow each other. No more of them are read ahead than the words need; with `most` 0 they
    come as they are.
    """
    if not most:
        yield from sentences
        return
    source, ahead = iter(sentences), collections.deque[S]()
    before: list[str] = []
    document: object = None
    while True:
        while sum(len(one.words) for one in itertools.islice(ahead, 1, None)) < most:
            following = next(source, None)
            if following is None:
                break
            ahead.append(following)
        if not ahead:
            return
        now: S = ahead.popleft()
        if now.document != document:
            before, document = [], now.document
        own = itertools.takewhile(lambda one: one.document == document, ahead)  # noqa: B023
        after = itertools.islice(itertools.chain.from_iterable(one.words for one in own), most)
        yield dataclasses.replace(now, left=tuple(before), right=tuple(after))
        before = [*before, *now.words][-most:]
