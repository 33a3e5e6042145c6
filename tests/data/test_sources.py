import json
import logging
import re

import datasets
import huggingface_hub
import pytest

from jaxllm.data import hub as data_hub
from jaxllm.data.sources import Rows, load
from jaxllm.types import InputError


def write(path, text, encoding="utf-8"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text.encode(encoding) if isinstance(text, str) else text)
    return path


def fault(path) -> str:
    with pytest.raises(InputError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message
    assert str(path) in message
    return message


def test_conll_reads_every_form(tmp_path):
    text = (
        "# id 1\n-DOCSTART-\tO\n\t\n#hash\tB-x\r\n#\tO\r\n\r\n"
        "# newdoc\nno\u00a0break\tI-x\na b\tO\n\n\n-DOCSTART-\tO\nlast\tO"
    )
    rows = load(write(tmp_path / "a.conll", text))["train"]
    assert list(rows) == [
        {"tokens": ["#hash", "#"], "ner_tags": ["B-x", "O"], "document": 1},
        {"tokens": ["no\u00a0break", "a b"], "ner_tags": ["I-x", "O"], "document": 2},
        {"tokens": ["last"], "ner_tags": ["O"], "document": 3},
    ]
    assert rows.where(1) == f"{tmp_path}/a.conll, line 8"
    assert [rows.where(0, 1), rows.where(2, 0)] == [f"{tmp_path}/a.conll, line {line}" for line in (5, 13)]

    spaced = "-DOCSTART- -X- -X- O\n\nEU NNP  B-NP B-ORG\n# four words in all, no: seven\nrejects VBZ B-VP O\n"
    rows = load(write(tmp_path / "b.bio", spaced))["train"]
    assert list(rows) == [{"tokens": ["EU", "rejects"], "ner_tags": ["B-ORG", "O"]}]
    assert rows.where(0, 1).endswith("line 5")


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("EU\tB-ORG\nrejects\n\nGerman\tB-MISC\n", "line 2: 1 columns, elsewhere 2"),
        ("EU B-ORG\nrejects the O\nGerman B-MISC\n", "line 2: 3 columns"),
        ("EU\tB-ORG\n\tO\n", "line 2: 'O' alone"),
    ],
)
def test_conll_names_the_bad_line(tmp_path, text, place):
    rows = load(write(tmp_path / "bad.conll", text))["train"]
    assert place in rows.fault(0)
    assert str(tmp_path / "bad.conll") in rows.fault(0)
    assert [rows.fault(i) for i in range(1, len(rows))] == [""] * (len(rows) - 1)


@pytest.mark.parametrize(("text", "place"), [("EU\nrejects\n", "line 1: 'EU' alone"), ("-DOCSTART- O\n\n", "no rows")])
def test_conll_without_tags_or_rows(tmp_path, text, place):
    assert place in fault(write(tmp_path / "bad.conll", text))


def test_wnut(assets):
    splits = load(assets / "data" / "wnut17")
    assert {name: len(rows) for name, rows in splits.items()} == {"train": 3394, "dev": 1009}
    assert splits["train"][0]["tokens"][:2] == ["@paulwalk", "It"]
    # Counted in the files by awk: two-column lines, and those that begin with a hash.
    words = [word for rows in splits.values() for row in rows for word in row["tokens"]]
    assert len(words) == 78463
    assert sum(word.startswith("#") for word in words) == 850
    path = assets / "data" / "wnut17" / "dev.conll"
    lines = path.read_text(encoding="utf-8").split("\n")
    for i, row in enumerate(splits["dev"]):
        last = len(row["tokens"]) - 1
        place, line = splits["dev"].where(i, last).rsplit(" ", 1)
        assert place == f"{path}, line"
        assert lines[int(line) - 1].split("\t") == [row["tokens"][last], row["ner_tags"][last]]


def test_json_lines(tmp_path):
    text = '\ufeff{"a": "x\u2028y\x85z"}\r\n\n{"a": [1, 2]}'
    for name in ("a.jsonl", "a.json"):  # JSON lines often go by .json
        rows = load(write(tmp_path / name, text))["train"]
        assert list(rows) == [{"a": "x\u2028y\x85z"}, {"a": [1, 2]}]
        assert rows.where(1) == f"{tmp_path}/{name}, line 3"
    assert "line 2: not JSON at column 7" in fault(write(tmp_path / "b.jsonl", '{"a": 1}\n{"a": }\n'))
    assert "line 2: list" in fault(write(tmp_path / "c.jsonl", '{"a": 1}\n[1]\n'))
    assert "line 1: not JSON" in fault(write(tmp_path / "pretty.jsonl", '{\n  "a": 1\n}\n'))
    assert "line 2: not JSON" in fault(write(tmp_path / "cut.jsonl", '{"a": 1}\n{"a": "x'))
    assert list(load(write(tmp_path / "twice.jsonl", '{"a": 1, "a": 2}\n'))["train"]) == [{"a": 2}]


def test_names_with_spaces_brackets_and_other_letters(tmp_path):
    for name in ("a[1].jsonl", "sp ace.jsonl", "é?.jsonl", "[ab]/train-*.jsonl"):
        assert list(load(str(write(tmp_path / name, '{"a": 1}')))["train"]) == [{"a": 1}]


def test_a_clone_of_a_hub_s_folder(tmp_path):
    for name in (".gitattributes", "README.md", "dataset_infos.json", "LICENSE"):
        write(tmp_path / name, "{}")
    for name, rows in (("train-00000-of-00002", 3), ("train-00001-of-00002", 2), ("test-00000-of-00001", 1)):
        write(tmp_path / f"data/{name}.jsonl", '{"a": 1}\n' * rows)
    assert {name: len(rows) for name, rows in load(str(tmp_path)).items()} == {"train": 5, "test": 1}


@pytest.mark.parametrize("suffix", ["jsonl", "json", "csv", "txt", "conll", "parquet", "arrow", "jsonl.gz"])
def test_a_pointer_of_git_lfs_is_named_as_such(tmp_path, suffix):
    name = f"a.{suffix}"
    pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 12345\n"
    said = fault(write(tmp_path / name, pointer))
    assert said == f"{tmp_path / name}: Git LFS left a pointer in place of the file; get it by git lfs pull"


def test_a_list_of_rows_under_the_name_of_json_lines(tmp_path):
    for rows in ('[{"a": 1}, {"a": 2}]', '[\n  {"a": 1}\n]\n'):
        said = fault(write(tmp_path / "a.jsonl", rows))
        assert said == (
            f"{tmp_path / 'a.jsonl'}, line 1: a JSON list, where each line is an object of its own; name the file .json"
        )
        assert next(iter(load(write(tmp_path / "a.json", rows))["train"])) == {"a": 1}
    pairs = '["Ada", {"entities": []}]\n["Al", {"entities": []}]\n'
    assert [row["text"] for row in load(write(tmp_path / "a.jsonl", pairs))["train"]] == ["Ada", "Al"]


def test_nul_characters_are_characters_but_for_json(tmp_path):
    for name, text, row in (
        ("a.txt", "a\0b", {"text": "a\0b"}), ("a.csv", "text\na\0b\n", {"text": "a\0b"}),
        ("a.conll", "a\0b\tO\n", {"tokens": ["a\0b"], "ner_tags": ["O"]}),
        ("a.jsonl", '{"a": "x\\u0000"}', {"a": "x\0"}),
    ):  # fmt: skip
        assert list(load(write(tmp_path / name, text))["train"]) == [row]
    assert "line 2: not JSON" in fault(write(tmp_path / "b.jsonl", '{"a": 1}\n{"a": "x\0"}\n'))


def test_json(tmp_path, assets):
    for value in ([{"a": 1}, {"a": 2}], {"version": 1, "data": [{"a": 1}, {"a": 2}]}):
        rows = load(write(tmp_path / "a.json", json.dumps(value)))["train"]
        assert rows[:] == [{"a": 1}, {"a": 2}]
        assert rows.where(1) == f"{tmp_path}/a.json, row 2"
    assert "row 2: int" in fault(write(tmp_path / "b.json", '[{"a": 1}, 2]'))
    assert "line 2: not JSON" in fault(write(tmp_path / "c.json", '[{"a": 1},\n{"a" 2}]'))
    assert "neither a list" in fault(write(tmp_path / "d.json", '{"rows": []}'))
    assert "neither a list" in fault(write(tmp_path / "columns.json", '{"prompt": ["a"], "completion": ["b"]}'))
    assert "no rows" in fault(write(tmp_path / "e.json", "[]"))
    rows = load(assets / "data" / "instructions" / "preference.json")["train"]
    assert len(rows) == 1100
    assert {"instruction", "chosen", "rejected"} <= rows[7].keys()


def test_csv(tmp_path):
    long = "w" * 200_000
    rows = load(write(tmp_path / "a.csv", f'text,label\n"two\nlines, one",1\n\n{long},2\n'))["train"]
    assert list(rows) == [{"text": "two\nlines, one", "label": "1"}, {"text": long, "label": "2"}]
    assert [rows.where(i).rsplit(", ")[-1] for i in range(2)] == ["line 2", "line 5"]
    assert "line 3: 1 values where the header names 2" in fault(write(tmp_path / "b.csv", "a,b\n1,2\n3\n"))
    assert "line 2: unexpected end" in fault(write(tmp_path / "c.csv", 'a,b\n"1,2\n'))


def test_text_is_one_document(tmp_path):
    rows = load(write(tmp_path / "a.txt", "one\n\ntwo\n"))["train"]
    assert list(rows) == [{"text": "one\n\ntwo\n"}]


def test_not_utf8_names_line_and_byte(tmp_path):
    assert "line 2: byte 5 is not UTF-8" in fault(write(tmp_path / "b.txt", "abcd\né\n", "latin-1"))
    assert "line 3: byte 16 is not UTF-8" in fault(write(tmp_path / "b.jsonl", '{"a": 1}\n{}\n"caf\xe9"\n', "latin-1"))
    for name, text in (("c.jsonl", '{"a": 1}\n'), ("c.csv", "a\n1\n"), ("c.conll", "Mira\tB-PER\n"), ("c.txt", "one")):
        message = fault(write(tmp_path / name, text, "utf-16"))  # as PowerShell's > writes
        assert message.endswith("line 1: byte 0 is not UTF-8; convert the file to UTF-8")


FEATURES = datasets.Features(
    {
        "tokens": datasets.Sequence(datasets.Value("string")),
        "ner_tags": datasets.Sequence(datasets.ClassLabel(names=["O", "B-x"])),
        "kind": datasets.ClassLabel(names=["a", "b"]),
    }
)


def dataset(n: int) -> datasets.Dataset:
    rows = [{"tokens": [f"w{i}"], "ner_tags": [i % 2], "kind": 1} for i in range(n)]
    return datasets.Dataset.from_list(rows, features=FEATURES)


def test_parquet_shards_with_class_names(tmp_path):
    folder = tmp_path / "data"
    folder.mkdir()
    for shard, n in enumerate((2, 3)):
        dataset(n).to_parquet(folder / f"train-0000{shard}-of-00002.parquet")
    dataset(1).to_parquet(folder / "validation-00000-of-00001.parquet")
    write(tmp_path / "README.md", "not data")
    splits = load(tmp_path)
    assert list(splits) == ["train", "dev"]
    train = splits["train"]
    assert [row["tokens"] for row in train] == [["w0"], ["w1"], ["w0"], ["w1"], ["w2"]]
    assert train.class_names == {"ner_tags": ["O", "B-x"], "kind": ["a", "b"]}
    assert train.where(1) == f"{folder}/train-00000-of-00002.parquet, row 2"
    assert train.where(4) == f"{folder}/train-00001-of-00002.parquet, row 3"
    assert train.where(4, 0) == f"{folder}/train-00001-of-00002.parquet, row 3, word 1"
    assert "not a parquet file" in fault(write(tmp_path / "x.parquet", "PAR"))


def test_folder_names(tmp_path):
    for name in ("train.jsonl", "my-valid.jsonl", "TEST_1.jsonl", "TEST_2.jsonl", "latest.jsonl"):
        write(tmp_path / name, json.dumps({"from": name}))
    splits = load(str(tmp_path))
    assert {split: [row["from"] for row in rows] for split, rows in splits.items()} == {
        "train": ["train.jsonl"],
        "dev": ["my-valid.jsonl"],
        "test": ["TEST_1.jsonl", "TEST_2.jsonl"],
    }
    write(tmp_path / "._TEST_1.jsonl", b"\0\5\x16\7")  # macOS leaves such
    assert load(tmp_path)["test"][:] == splits["test"][:]
    write(tmp_path / "val.csv", "a\n1\n")
    assert "my-valid.jsonl and val.csv could each be the dev split" in fault(tmp_path)


def test_columns_of_other_kinds_of_text_in_parquet(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    table = {"a": pa.array(["x", "y", "x"]).dictionary_encode(), "b": pa.array(["p", "q", "r"], pa.large_string())}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    assert list(load(tmp_path / "a.parquet")["train"]) == [
        {"a": "x", "b": "p"}, {"a": "y", "b": "q"}, {"a": "x", "b": "r"},
    ]  # fmt: skip


def test_what_is_not_there(tmp_path):
    assert "no such file" in fault(tmp_path / "absent.jsonl")
    assert "no such file" in fault(tmp_path / "absent")
    assert "is empty" in fault(write(tmp_path / "blank.txt", " \n"))
    assert "cannot read .tar" in fault(write(tmp_path / "a.tar", "x"))
    assert "no train, dev or test file (a.tar, blank.txt)" in fault(tmp_path)
    for shard, text in enumerate(['{"a": 1}', ""]):
        write(tmp_path / "shards" / f"train-{shard}.jsonl", text)
    with pytest.raises(InputError, match=r"train-1\.jsonl: the file is empty"):
        load(tmp_path / "shards")


class Hub:
    """Stands for `datasets.load_dataset`: what it holds by (id, config, revision), and what it was asked for."""

    def __init__(self, monkeypatch, held):
        self.held, self.asked = held, []
        monkeypatch.setattr(datasets, "load_dataset", self)

    def __call__(self, path, name=None, revision=None):
        self.asked.append((path, name, revision))
        logging.getLogger("huggingface_hub.utils._http").warning("Retrying in 1s [Retry 1/5].")
        found = self.held[path, name, revision]
        if isinstance(found, Exception):
            raise found
        return datasets.DatasetDict(found)


def test_hub(monkeypatch, caplog):
    monkeypatch.setattr(logging.getLogger("huggingface_hub"), "propagate", True)
    monkeypatch.setattr(data_hub, "why_unreachable", lambda repo, kind: "")
    converted = "refs/convert/parquet"
    script = RuntimeError("Dataset scripts are no longer supported, but found x.py")
    hub = Hub(
        monkeypatch,
        {
            ("eriktks/conll2003", None, converted): {"train": dataset(3), "validation": dataset(1), "test": dataset(2)},
            ("org/script", None, None): script,
            ("org/script", None, converted): {"train": dataset(1)},
            ("org/many", "small", None): {"train": dataset(1), "train_old": dataset(2), "extra": dataset(3)},
            ("org/odd", None, None): {"extra": dataset(1)},
            ("org/absent", None, None): datasets.exceptions.DatasetNotFoundError("no org/absent\nmore"),
        },
    )
    splits = load("conll2003")
    assert hub.asked == [("eriktks/conll2003", None, converted)]
    assert {split: len(rows) for split, rows in splits.items()} == {"train": 3, "dev": 1, "test": 2}
    assert isinstance(splits["dev"], Rows)
    assert splits["train"].class_names["ner_tags"] == ["O", "B-x"]
    assert splits["train"][2] == {"tokens": ["w2"], "ner_tags": [0], "kind": 1}
    assert splits["train"].where(2) == "conll2003 train, row 3"
    assert [row["tokens"] for row in splits["test"]] == [["w0"], ["w1"]]

    assert len(load("org/script")["train"]) == 1
    assert len(load("org/many:small")["train"]) == 1  # the split of just that name
    assert "no train, dev or test split (extra)" in fault("org/odd")
    said = r"the hub did not give it: no org/absent \(looked in /\S+/org/absent and /\S+\); check name and network$"
    assert re.search(said, fault("org/absent"))
    assert not caplog.records, "the client's attempts are not told"
    assert logging.getLogger("huggingface_hub").level != logging.ERROR


def test_a_hub_that_does_not_answer_is_asked_once_for_a_data_set(monkeypatch):
    asked = []

    def ask(self, repo, **more):
        asked.append((repo, more["repo_type"]))
        raise type("ConnectError", (Exception,), {"__module__": "httpx"})("Name or service not known")

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(huggingface_hub.HfApi, "repo_info", ask)  # which `datasets` would call as well, with attempts
    words = r"nobody/x: no such .*: no connection \(Name or service not known\) \(looked in /\S+/nobody/x and /\S+\); "
    with pytest.raises(InputError, match=words):
        load("nobody/x")
    assert asked == [("nobody/x", "dataset")]
    assert not datasets.config.HF_HUB_OFFLINE
    assert not huggingface_hub.constants.HF_HUB_OFFLINE
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set (looked in" in fault("nobody/x")
    assert len(asked) == 1


LINES = [{"text": "a é", "n": 1}, {"text": "b", "n": 2}]


def packed(path, text):
    """Writes a text compressed as the suffix says."""
    import pyarrow as pa

    kind = {".gz": "gzip", ".zst": "zstd", ".bz2": "bz2"}[path.suffix]
    with pa.CompressedOutputStream(str(path), kind) as file:
        file.write(text.encode())
    return path


@pytest.mark.parametrize("suffix", ["gz", "zst", "bz2"])
def test_compressed_files_name_their_lines(tmp_path, suffix):
    text = "".join(json.dumps(row) + "\n" for row in LINES)
    rows = load(packed(tmp_path / f"a.jsonl.{suffix}", text))["train"]
    assert list(rows) == LINES
    assert rows.where(1) == f"{tmp_path}/a.jsonl.{suffix}, line 2"
    assert list(load(packed(tmp_path / f"a.json.{suffix}", json.dumps(LINES)))["train"]) == LINES
    assert "line 3: not JSON" in fault(packed(tmp_path / f"b.jsonl.{suffix}", text + "{"))
    short = write(tmp_path / f"c.jsonl.{suffix}", (tmp_path / f"a.jsonl.{suffix}").read_bytes()[:-9])
    assert "cannot be read" in fault(short)
    assert "cannot be read" in fault(write(tmp_path / f"d.jsonl.{suffix}", "plain text"))
    assert "cannot read .tar" in fault(write(tmp_path / f"e.tar.{suffix}", "x"))


def test_tsv(tmp_path):
    rows = load(write(tmp_path / "a.tsv", "text\tlabel\none, two\t1\n"))["train"]
    assert list(rows) == [{"text": "one, two", "label": "1"}]
    message = fault(write(tmp_path / "b.tsv", "a\tb\n1\t2\t3\n"))
    assert "line 2: 3 values where the header names 2; quote values with tabs" in message


def test_arrow_streams_and_files(tmp_path):
    import pyarrow as pa

    table = dataset(3).data.table
    for name, writer in (("a.arrow", pa.ipc.new_stream), ("b.arrow", pa.ipc.new_file)):
        with writer(str(tmp_path / name), table.schema) as file:
            file.write_table(table)
        rows = load(tmp_path / name)["train"]
        assert [row["tokens"] for row in rows] == [["w0"], ["w1"], ["w2"]]
        assert rows.class_names == {"ner_tags": ["O", "B-x"], "kind": ["a", "b"]}
        assert rows.where(2) == f"{tmp_path}/{name}, row 3"
    assert "not an arrow file" in fault(write(tmp_path / "c.arrow", "x"))


def test_folders_of_save_to_disk(tmp_path):
    dataset(5).save_to_disk(tmp_path / "one", num_shards=2)
    rows = load(tmp_path / "one")
    assert list(rows) == ["train"]
    assert [row["tokens"] for row in rows["train"]] == [[f"w{i}"] for i in range(5)]
    assert rows["train"].where(4) == f"{tmp_path}/one train, row 5"
    assert rows["train"].fingerprint
    datasets.DatasetDict({"train": dataset(3), "validation": dataset(2)}).save_to_disk(tmp_path / "two")
    assert {name: len(rows) for name, rows in load(tmp_path / "two").items()} == {"train": 3, "dev": 2}


def test_patterns_and_split_folders(tmp_path):
    for name in ("data/train-0.jsonl", "data/train-1.jsonl", "data/other.jsonl", "deep/validation/x.jsonl",
                 "deep/train/a.jsonl", "deep/train/b.csv", "deep/train/notes.md"):  # fmt: skip
        write(tmp_path / name, f"from\n{name}\n" if name.endswith("csv") else json.dumps({"from": name}))
    write(tmp_path / "data/train-1.jsonl", '{"from": 1}\n{"from": 2}')

    def found(dataset):
        return {split: [row["from"] for row in rows] for split, rows in load(dataset).items()}

    assert found(f"{tmp_path}/data/train-*.jsonl") == {"train": ["data/train-0.jsonl", 1, 2]}
    assert found(f"{tmp_path}/data/o*.jsonl") == {"train": ["data/other.jsonl"]}
    splits = {"train": ["deep/train/a.jsonl", "deep/train/b.csv"], "dev": ["deep/validation/x.jsonl"]}
    assert found(tmp_path / "deep") == splits
    write(tmp_path / "deep/validation/2024/part-0.jsonl", '{"from": "below"}')
    assert found(tmp_path / "deep") == {**splits, "dev": ["deep/validation/x.jsonl", "below"]}
    rows = load(f"{tmp_path}/data/train-*.jsonl")["train"]
    assert rows.where(2) == f"{tmp_path}/data/train-1.jsonl, line 2"
    assert (rows[-1], rows[1:]) == ({"from": 2}, [{"from": 1}, {"from": 2}])
    assert "no such file" in fault(f"{tmp_path}/data/dev-*.jsonl")


def test_columns_of_one_name_are_refused(tmp_path):
    import pyarrow as pa
    import pyarrow.parquet as pq

    path = write(tmp_path / "a.csv", "question,answer,answer\nhello,four,OTHER\n")
    assert fault(path).endswith("a.csv, line 1: several columns are named 'answer'; give each another name")
    table = pa.table([pa.array(["hello"]), pa.array(["four"]), pa.array(["x"])], names=["question", "answer", "answer"])
    pq.write_table(table, tmp_path / "b.parquet")
    assert "several columns are named 'answer'" in fault(tmp_path / "b.parquet")
    with pa.OSFile(str(tmp_path / "c.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    assert "several columns are named 'answer'" in fault(tmp_path / "c.arrow")


def test_json_that_python_cannot_read(tmp_path):
    path = write(tmp_path / "big.jsonl", '{"a": 1}\n{"a": ' + "9" * 5000 + "}\n")
    assert "big.jsonl, line 2: a number has too many digits" in fault(path)
    path = write(tmp_path / "deep.jsonl", "[" * 100_000 + "\n")
    assert "deep.jsonl, line 1: JSON nested too deeply" in fault(path)


@pytest.mark.parametrize(("name", "words"), [("bigint", "too many digits"), ("deep", "nested too deeply")])
def test_the_files_of_the_cases(assets, name, words):
    assert words in fault(assets / "cases" / "bad_files" / f"{name}.jsonl")


def hub(monkeypatch, *names):
    """A hub whose data sets all have these splits; the hub ids that are asked for."""
    asked = []

    def download(dataset):
        asked.append(dataset)
        return {name: datasets.Dataset.from_list([{"text": name}]) for name in names}

    monkeypatch.setattr("jaxllm.data.sources.download_dataset", download)
    return asked


@pytest.mark.parametrize(
    ("dataset", "hub_id", "wanted"),
    [
        ("org/name::train_sft", "org/name", {"train": "train_sft", "test": "test_sft"}),
        ("org/name:config:train_prefs", "org/name:config", {"train": "train_prefs", "test": "test_prefs"}),
        ("org/name::extra", "org/name", {"train": "extra"}),
    ],
)
def test_one_of_several_splits_is_named(monkeypatch, dataset, hub_id, wanted):
    asked = hub(monkeypatch, "train_sft", "train_prefs", "test_sft", "test_prefs", "extra")
    assert {split: rows[0]["text"] for split, rows in load(dataset).items()} == wanted
    assert asked == [hub_id]


def test_several_splits_of_which_none_is_named(monkeypatch):
    hub(monkeypatch, "train_prefs", "train_sft")
    with pytest.raises(InputError, match="could each be the train split; name one, as in org/name::train_prefs"):
        load("org/name")
    with pytest.raises(InputError, match="name one, as in org/name:small:train_prefs"):
        load("org/name:small")
    with pytest.raises(InputError, match="org/name: no split train_x; give one of train_prefs, train_sft"):
        load("org/name::train_x")
