import ast
import sysconfig
from pathlib import Path

import pytest

from jaxllm.data.builtin import stdlib
from jaxllm.types import InputError


@pytest.fixture(scope="module")
def documents():
    return stdlib.documents()


def test_documents_are_the_files_of_the_interpreter_and_the_topics_of_help(documents):
    both = documents["train"] | documents["dev"]
    library = Path(sysconfig.get_path("stdlib"))
    assert both["json/decoder.py"] == (library / "json" / "decoder.py").read_text()
    assert "Lambda expressions" in both["help/lambda"]
    assert sum(map(len, both.values())) > 3_000_000
    assert not [name for name in both if "test" in name.split("/")[:-1] or name.startswith(("site-packages", "_sys"))]


def test_splits_share_nothing_follow_the_name_alone_and_keep_their_order(documents):
    train, dev = documents["train"], documents["dev"]
    assert not train.keys() & dev.keys()
    assert list(train) == sorted(train)
    assert list(dev) == sorted(dev)
    assert 0.01 < len(dev) / (len(train) + len(dev)) < 0.12
    assert all(stdlib.split_of(name) == "dev" for name in dev)
    assert stdlib.documents() == documents


def test_topics_are_read_without_running_the_file(tmp_path):
    topics = tmp_path / "pydoc_data" / "topics.py"
    topics.parent.mkdir()
    topics.write_text("import os\ntopics = {'assert': 'The assert statement', 'with': 'x' * 0 or 'y'}\n")
    with pytest.raises(ValueError, match="malformed"):  # an expression, which is not computed
        stdlib.documents(tmp_path)
    topics.write_text(f"topics = {dict.fromkeys(map(str, range(200)), 'text')!r}\nraise SystemExit\n")
    found = stdlib.documents(tmp_path)
    assert len(found["train"]) + len(found["dev"]) == 200
    assert ast.parse(topics.read_text())


def test_a_file_of_another_encoding_is_passed_over(tmp_path):
    for i in range(100):
        (tmp_path / f"m{i}.py").write_text(f"x = {i}\n")
    (tmp_path / "latin.py").write_bytes(b"# -*- coding: latin-1 -*-\nx = '\xe9'\n")
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "inner.py").write_text("x = 1\n")
    found = stdlib.documents(tmp_path)
    assert {*found["train"], *found["dev"]} == {f"m{i}.py" for i in range(100)}


def test_no_library_is_named(tmp_path):
    with pytest.raises(InputError, match="no standard library"):
        stdlib.documents(tmp_path)
