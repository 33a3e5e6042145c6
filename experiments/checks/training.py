"""Speed and memory of whole train steps: pretraining, named entities, and DPO of a 1B model with its longest row.

Batches are made up, one device is used, and layers are recomputed only where the step does not fit otherwise.
"""

from __future__ import annotations

import dataclasses
import json
import tempfile
from pathlib import Path

from checks import steps
from checks.record import Config, Record, failure
from checks.steps import REMAT, Stepper, Work
from jaxllm.recipes.benchmark import read_peer, run
from jaxllm.recipes.machine import missing
from jaxllm.recipes.script import run as run_script
from workloads import tuning
from workloads.work import OUT, Asked

STEPS, TOY_STEPS = 10, 2
LENGTHS = (8192, 16384, 32768, 65536)
"""Tokens of the row of DPO; where one does not fit, longer ones are left out."""
PUBLISHED = "TRL 1.15, gemma-3-1b, one GPU of 79 GiB: 12.00 GiB at 8,192 tokens, longest row 59,392"


def works(small: bool) -> dict[str, Work]:
    """What is trained, by name."""
    if small:
        return {"pretraining": steps.pretraining("", 2, 64, True), "named entities": steps.tagging(2, True)}
    return {
        "gpt2-124m, 16 rows of 1,024": steps.pretraining("gpt2-124m", 16, 1024, False),
        "llama-1b, 4 rows of 2,048": steps.pretraining("llama-1b", 4, 2048, False),
        "BERT-base NER, 128 rows of 128": steps.tagging(128, False),
    }


def measure(record: Record, name: str, work: Work, count: int) -> bool:
    """Adds an entry with the first of REMAT that fits; whether one did."""
    for remat in REMAT:
        if record.late(name):
            return False
        try:
            stepper = Stepper(work, remat)
            record.add(name, remat=remat, **stepper.measured(count))
            return True
        except Exception as error:  # whatever a device raises that has no room
            if "RESOURCE_EXHAUSTED" not in str(error) and "out of memory" not in str(error).lower():
                record.add(name, False, remat=remat, error=failure(error))
                return False
    record.add(name, error="no room on this device, with every layer recomputed")
    return False


def beside_trl(record: Record, small: bool) -> None:
    """Adds DPO of a small Llama by TRL, where it is installed, and by `preference.py`, on the same rows."""
    if lacks := missing(("torch", "trl")):
        record.add("DPO beside TRL", left_out=f"no {' and no '.join(lacks)} here")
        return
    if small or record.late("DPO beside TRL"):
        return
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        asked = Asked("large", dtype="bfloat16", steps=24)
        work = tuning.dpo(asked, folder)
        theirs = folder / "theirs.json"
        try:
            run([word.replace(OUT, str(theirs)) for word in work.peers["TRL"].command])
        except Exception as error:  # of another library
            record.add("DPO by TRL", error=failure(error))
            return
        found = dataclasses.asdict(read_peer(theirs, work.tokens_per_example, None))
        record.add("DPO by TRL", work=work.description, **{k: x for k, x in found.items() if x is not None})
        run([word.replace(OUT, str(folder / "ours")) for word in work.ours])
        lines = (folder / "ours" / "metrics.jsonl").read_text().splitlines()
        speeds = [one["tokens_per_s"] for one in map(json.loads, lines) if one.get("tokens_per_s")]
        record.add("DPO by jaxllm", work=work.description, tokens_per_s=float(speeds[-1]),
                   of_trl=speeds[-1] / found["tokens_per_s"])  # fmt: skip


def main(config: Config) -> None:
    """Measures each."""
    record, small = Record(config), config.small
    count = TOY_STEPS if small else STEPS
    for name, work in works(small).items():
        measure(record, name, work, count)
    for length in (96,) if small else LENGTHS:
        if not measure(record, f"DPO of gemma-3-1b, a row of {length:,}", steps.preference(length, small), count):
            break
    if not small:
        record.add("DPO elsewhere", published=PUBLISHED)
    beside_trl(record, small)
    record.end()


if __name__ == "__main__":
    run_script(main, Config)
