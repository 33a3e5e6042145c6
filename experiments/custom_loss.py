"""A loss of your own: one function in one file, and one flag. Three of increasing depth, each under ten lines.

    python experiments/custom_loss.py
    python experiments/sft.py --loss experiments/custom_loss.py:confident --loss-args floor=0.05
    python experiments/preference.py --loss experiments/custom_loss.py:margin --loss-args beta=0.2
    python -m jaxllm check-loss experiments/custom_loss.py:margin

1. Per token, from logits: `@token_loss`. It runs over chunks of tokens, so [B, T, V] is never built.
2. Per pair, from log-probabilities: `@preference_loss`. The library handles packing, the reference and the metrics.
   `python -m jaxllm losses --fields` lists what `p` holds.
3. Anything: a function of model and batch that returns sums and counts.

This file, run as a script, prints the report card of each, as `check-loss` does. Your own file needs only the functions
and their imports.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

from jaxllm.losses import Mean, over_tokens, preference_loss, token_logprobs, token_loss


@token_loss
def confident(logits_NV, targets_N, *, floor=0.01):
    """Cross entropy that leaves tokens alone once their probability is above 1 - floor."""
    logp_N = token_logprobs(logits_NV, targets_N)
    return jnp.where(logp_N > jnp.log1p(-floor), 0.0, -logp_N)


@preference_loss
def margin(p, *, beta=0.1):
    """-log sigmoid(beta d - margin), with the margin that the data gives each pair (0 where it gives none)."""
    return -jax.nn.log_sigmoid(beta * p.delta_B - p.margin_B)


def entropy_bonus(model, batch, key=None, *, bonus=0.01):
    """Cross entropy minus a bonus for the entropy of the predictions; both are logged."""

    def values(logits_NV, targets_N):
        logp_NV = jax.nn.log_softmax(logits_NV)
        return -token_logprobs(logits_NV, targets_N), -jnp.sum(jnp.exp(logp_NV) * logp_NV, axis=-1)

    (nll_BT, entropy_BT), _ = over_tokens(model, batch, values, key)
    mean = lambda x_BT: Mean(jnp.sum(x_BT * batch.weights_BT), jnp.sum(batch.weights_BT))  # noqa: E731
    return {"loss": ((1.0, mean(nll_BT)), (-bonus, mean(entropy_BT))), "entropy": mean(entropy_BT)}


if __name__ == "__main__":
    import dataclasses

    from jaxllm.cli import check_loss
    from jaxllm.recipes.script import run

    @dataclasses.dataclass(frozen=True)
    class Config:
        """Runs the losses of this file on small random data, as check-loss does, and prints what holds."""

        losses: tuple[str, ...] = ("confident", "margin", "entropy_bonus")
        """Which of them."""

    def main(config: Config) -> None:
        """Checks and prints."""
        for name in config.losses:
            check_loss.main(check_loss.Config(f"{__file__}:{name}"))

    run(main, Config)
