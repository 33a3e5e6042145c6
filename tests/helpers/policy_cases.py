"""The cases of policy_losses.json, what TRL 1.16 computed on six fixed completions, as this library's inputs.

Which are not covered, and why:

* UNCOVERED: what no loss or advantage of this library computes.
* IGNORED: options that TRL takes without effect; here they are refused, and the case is that of the others.
* DEFECTS: values and metrics that differ on purpose, for what is not to be copied from TRL.
"""

import dataclasses
import json
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from jaxllm.losses import PolicyLogps, resolve

ORACLE = json.loads((Path(__file__).parents[1] / "losses" / "policy_losses.json").read_text())
CASES = {case["name"]: case for case in ORACLE["cases"]}
OTHERS = {case["name"]: case for case in ORACLE["other_losses"]}
ADVANTAGES = {case["name"]: case for case in ORACLE["advantages"]}
PIPELINES = {case["name"]: case for case in ORACLE["pipelines"]}

_STEPS = "the coefficient follows from the entropy of the step before: state of a trainer, not of a loss"
_OPD = "distillation that weights tokens by their teacher's log-ratios: no loss of this library"
_A2PO = "A*-PO regresses on values of a reference's samples: no loss of this library"
_ONLINE = "which completions are chosen and rejected is for a trainer; the losses of pairs are in test_preference.py"
_ASYNC = "AsyncGRPO's own constants (population deviation, 1e-8) and no weights: `advantages` has GRPO's"
_TRAINER = "what is masked, counted and recomputed in a round is for a trainer; `advantages` of the case is compared"

UNCOVERED = {
    **dict.fromkeys(("grpo/adaptive_entropy/on", "grpo/adaptive_entropy/off"), _STEPS),
    **dict.fromkeys(("iw_opd", "iw_opd/gamma", "iw_opd/gamma0_plain_opd", "iw_opd/on_policy", "iw_opd/items"), _OPD),
    **dict.fromkeys(("a2po", "a2po/beta2", "a2po_v_star/0", "a2po_v_star/1"), _A2PO),
    **dict.fromkeys(("online_dpo/sigmoid", "online_dpo/ipo", "online_dpo/sigmoid/tie"), _ONLINE),
    **dict.fromkeys(("online_dpo/sigmoid/eos_penalty", "online_dpo/sigmoid/accumulate4"), _ONLINE),
    **dict.fromkeys((f"async_grpo/{name}" for name in ("plain", "equal", "none_row", "two_functions")), _ASYNC),
    **dict.fromkeys(
        (
            *("truncated_kept", "truncated_masked", "rloo/truncated_masked (rollout)", "old_logps/iterations2"),
            *("old_logps/accumulate4_of_2", "old_logps/accumulate2_of_4"),
        ),
        _TRAINER,
    ),
}

IGNORED = {
    "cispo": {"epsilon"},
    "sapo": {"epsilon", "epsilon_high"},
    "vespo": {"epsilon", "epsilon_high", "importance_sampling_level"},
    "gmpo": {"delta", "entropy_coef", "off_policy_mask_threshold", "importance_sampling_level"},
}
"""By loss. GMPO here takes entropy_coef and off_policy_mask_threshold, and they have their effect."""

DEFECTS = {
    "rloo/masked_out": "a completion without tokens adds -A to TRL's value, without a gradient; here it adds 0",
    "gmpo/masked_out": "the same",
    "rloo/truncated_masked": "the same",
}

LENGTHS = np.array(ORACLE["inputs"]["lengths"])
B, T = len(LENGTHS), int(LENGTHS.max())
WITHIN = np.arange(T)[None, :] < LENGTHS[:, None]


def padded(rows, fill=np.nan):
    """Lists of a completion's length as one array, with what may be anything after them."""
    found = np.full((len(rows), T), fill)
    for i, row in enumerate(rows):
        found[i, : len(row)] = row
    return found


def given(name):
    """An input [B, T] of the file."""
    return padded([row[:n] for row, n in zip(ORACLE["inputs"][name], LENGTHS, strict=True)])


@dataclasses.dataclass(frozen=True)
class Case:
    """A case as this library has it: the loss, its inputs, and by what TRL's trainer divided the loss."""

    loss: object
    policy_BT: np.ndarray
    entropy_BT: np.ndarray
    rest: dict
    divisor: float

    def logps(self, policy_BT=None, entropy_BT=None):
        policy_BT = self.policy_BT if policy_BT is None else policy_BT
        entropy_BT = self.entropy_BT if entropy_BT is None else entropy_BT
        return PolicyLogps.of(policy_BT, entropy_BT=entropy_BT, **self.rest)

    def value(self, policy_BT, entropy_BT):
        return self.loss.mean(self.logps(policy_BT, entropy_BT)) / self.divisor


def loss_of(case):
    """(name, arguments) of a case's loss, and the arguments of its trainer."""
    config = dict(case["config"])
    trainer = {x: config.pop(x) for x in ("gradient_accumulation_steps", "steps_per_generation") if x in config}
    name = {"GMPOTrainer": "gmpo", "RLOOTrainer": "rloo"}.get(case["trainer"], config.get("loss_type", "dapo"))
    config.pop("loss_type", None)
    if case["name"].startswith("gspo"):
        name, _ = "gspo", config.pop("importance_sampling_level")
    if name == "rloo":
        config.pop("beta")  # the KL is in RLOO's reward
    if name == "cispo":
        config.setdefault("epsilon_high", 0.2)  # TRL's default, which makes every weight 0.2; ours is 5
    if name == "dapo":
        config.setdefault("epsilon_high", None)
    if "importance_sampling_ratio" in case:
        config.setdefault("vllm_importance_sampling_mode", "sequence_mask")
    return name, {x: v for x, v in config.items() if x not in IGNORED.get(name, ())}, trainer


def case_of(case):
    """A case of the file, GRPOTrainer's, GMPOTrainer's or RLOOTrainer's."""
    name, arguments, trainer = loss_of(case)
    rows = case.get("rows", list(range(B)))
    mask, policy, old = WITHIN.copy(), given("policy"), given("old")
    if case.get("tool_mask"):
        mask &= np.nan_to_num(given("tool_mask")) > 0
    mask[case.get("masked_out", [])] = False
    mask &= not case.get("all_masked", False)
    policy = old + case.get("log_ratio_scale", 1.0) * (policy - old)
    sampler = None
    if "importance_sampling_ratio" in case or case.get("sampling_logps"):
        sampler = given("sampling")
        for place in case.get("sampling_nan_at", []):
            sampler[tuple(place)] = np.nan
        sampler = sampler[rows]
    advantages = np.array(ORACLE["inputs"]["advantages"])
    if case.get("per_token_advantages"):
        advantages = given("per_token_advantages")
    steps = trainer.get("gradient_accumulation_steps", 1)
    share = steps / trainer.get("steps_per_generation", steps)
    if case.get("mode") == "eval":
        steps = share = 1
    items = case.get("num_items_in_batch", mask.sum()) / case.get("num_processes", 1) * share
    by_items = name in ("dapo", "cispo", "vespo") or case["trainer"] == "RLOOTrainer"
    rest = {
        "old_BT": None if case.get("on_policy") else old[rows], "mask_BT": mask[rows], "advantages": advantages[rows],
        "ref_BT": given("ref")[rows], "sampler_BT": sampler, "items": items,
        "max_length": ORACLE["defaults"]["max_completion_length"],
    }  # fmt: skip
    clean = [jnp.asarray(np.nan_to_num(x)[rows]) for x in (policy, given("entropy"))]
    return Case(resolve(name, **arguments), *clean, rest, 1 if by_items else steps)
