"""Every stage's step compiles for TPUs and GPUs that are not here, with the kernels that belong in it."""

import importlib.util
import re

import pytest
from compiled import (
    DENSE,
    MIXTURE,
    WINDOWS,
    adapted,
    compile_decoding,
    compile_step,
    of,
    pairs,
    rows,
    scorer,
    singles,
    tagger,
    tags,
)  # fmt: skip
from compiled import T as LENGTH

from jaxllm.data.preference.answers import Layout


def needs(module, package):
    missing = importlib.util.find_spec(module.partition(".")[0]) is None or importlib.util.find_spec(module) is None
    return pytest.mark.skipif(missing, reason=f"{package} is not installed: pip install -e '.[plan]'")


TPU = [pytest.mark.tpu_compile, needs("libtpu", "libtpu")]
GPU = [pytest.mark.gpu_compile, needs("jax_plugins.xla_cuda12", "jax-cuda12-plugin")]

STEPS = {
    "pretraining": (lambda: of(DENSE), "cross_entropy", rows, "fsdp=-1,tensor=2"),
    "pretraining, windows and soft-caps": (lambda: of(WINDOWS), "cross_entropy", rows, "fsdp=-1"),
    "pretraining, a mixture": (lambda: of(MIXTURE), "cross_entropy", rows, "fsdp=-1,expert=2"),
    "SFT": (lambda: of(DENSE), "dft", rows, "data=2,fsdp=-1"),
    "DPO": (lambda: of(DENSE), "dpo", pairs(reference=True), "fsdp=-1"),
    "DPO, prompts repeated": (lambda: of(DENSE), "dpo", pairs(Layout(share=False), reference=True), "fsdp=-1,tensor=2"),
    "KTO": (lambda: of(DENSE), "kto", singles, "fsdp=-1"),
    "reward": (lambda: scorer(DENSE), "bradley_terry", pairs(Layout(closed=True)), "fsdp=-1"),
    "LoRA": (lambda: adapted(DENSE), "cross_entropy", rows, "fsdp=-1"),
    "NER, BERT": (lambda: tagger("bert"), "cross_entropy", tags, "data=2,fsdp=-1"),
    "NER, RoBERTa": (lambda: tagger("roberta"), "cross_entropy", tags, "data=-1"),
    "NER, DistilBERT": (lambda: tagger("distilbert"), "cross_entropy", tags, "fsdp=-1,tensor=2"),
    "NER, ModernBERT": (lambda: tagger("modernbert"), "cross_entropy", tags, "fsdp=-1,tensor=2"),
    "ring attention": (lambda: of(DENSE), "cross_entropy", rows, "fsdp=-1,context=2"),
}  # fmt: skip
SPLASH = {"pretraining", "pretraining, windows and soft-caps", "pretraining, a mixture", "SFT",
          "DPO, prompts repeated", "KTO", "LoRA"}  # fmt: skip
"""Whose attention is the TPU kernel: not where answers share a prompt, with dropout, or in a ring of devices."""
XLA = {"ring attention"}
"""Whose attention is no kernel on a GPU, whose own has dropout, soft-caps, windows and branches."""


def dense(text):
    """The arrays of an optimised program with scores or a mask: four axes or more, of which two are a row long."""
    return set(re.findall(rf"\w+\[(?:\d+,){{2,}}{LENGTH},{LENGTH}\]", text))


def compile_case(case, topology, capfd):
    build, loss, batch, mesh = STEPS[case]
    compiled = compile_step(build(), loss, batch, topology, mesh)
    assert "rematerialization" not in capfd.readouterr().err
    return compiled


@pytest.mark.parametrize("topology", [pytest.param(text, marks=TPU) for text in ("v5e:2x2", "v6e:2x2")])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_compiles_for_tpu(case, topology, capfd):
    compiled = compile_case(case, topology, capfd)
    assert ("splash" in compiled.as_text()) == (case in SPLASH)


@pytest.mark.parametrize("topology", [pytest.param(text, marks=GPU) for text in ("h100:1x1x8", "h100:1x2x8")])
@pytest.mark.parametrize("case", STEPS)
def test_a_step_compiles_for_gpu(case, topology, capfd):
    text = compile_case(case, topology, capfd).as_text()
    for kernel in ("forward", "backward_dq", "backward_dkv"):
        assert (f"flash_attention_{kernel}" in text) == (case not in XLA)
    if case not in XLA:
        assert not dense(text), "no scores and no mask of whole rows"


@pytest.mark.parametrize(
    "topology",
    [
        *(pytest.param(text, marks=TPU) for text in ("v5e:2x2", "v6e:2x2")),
        *(pytest.param(text, marks=GPU) for text in ("h100:1x1x8", "h100:1x2x8")),
    ],
)
def test_a_step_of_generation_compiles(topology):
    compiled = compile_decoding(DENSE, topology, "fsdp=-1,tensor=2")
    memory = compiled.memory_analysis()
    assert memory.alias_size_in_bytes > 0.9 * (memory.output_size_in_bytes - 1024), "the cache is written in place"
    assert not re.search(r"f32\[\d+,256,\d+,128\]", compiled.as_text()), "the cache stays in 16 bits"
