"""Packed rows and a model give the same losses as lists of log-probabilities, in chunks, and never [B, T, V]."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxllm.distributed.mesh import make_mesh, put_batch
from jaxllm.losses import resolve
from jaxllm.losses.pairs import PairLogps, read_pairs
from jaxllm.params import bind, split
from jaxllm.types import InputError, value


def replaced(packed, **fields):
    return dataclasses.replace(packed.answers, **fields)


@pytest.mark.parametrize(
    ("spec", "arguments"),
    [
        ("dpo", {"ld_alpha": 0.3, "use_weighting": True, "f_divergence": "js_divergence"}),
        ("ipo", {"f_divergence": "alpha_divergence"}),
        ("sigmoid:0.8+bco_pair:0.2+sft:1.0", {"use_weighting": True}),
        ("aot", {"label_smoothing": 0.1}),
        ("simpo", {"nll_weight": 0.5}),
        ("orpo", {}),
        ("sft", {}),
    ],
)
def test_packed_is_ragged(packed, toy, taught, small_chunks, spec, arguments):
    """Rows of 3, 1, 2 and no pairs, sides in any order."""
    loss = resolve(spec, **arguments)
    here = packed.with_reference(taught.teacher) if loss.reference else packed
    p = packed.ragged(toy, taught.teacher if loss.reference else None)
    metrics = jax.jit(loss)(toy, here.answers)
    np.testing.assert_allclose(value(metrics["loss"]), loss.mean(p), rtol=2e-5)
    function, bound = (loss.parts[0][1:]) if "+" in spec else (loss.function, loss.arguments)
    for name, metric in function.metrics(p, **bound).items():
        np.testing.assert_allclose(value(metrics[name]), metric.value(), rtol=2e-4, atol=1e-5)
        assert metrics[name].count == 6


def test_tokens_in_packed_rows(packed, taught, small_chunks):
    """Sums, lengths, sum p^2 and the KL, slot by slot."""
    wanted = packed.ragged(taught.body, taught.teacher)
    p = jax.jit(lambda m, a: read_pairs(m, a, None, reference=True, needs=("kl", "log_sum_sq")))(taught, packed.answers)
    there = np.flatnonzero(p.weight_B)
    order = np.argsort(np.asarray(packed.answers.pair_BA).reshape(-1)[there])
    assert len(there) == len(packed.places) == 6
    for name in ("chosen_B", "rejected_B", "ref_chosen_B", "ref_rejected_B", "chosen_length_B", "rejected_length_B"):
        np.testing.assert_allclose(getattr(p, name)[there][order], getattr(wanted, name), rtol=1e-5)
    log_s, log_t = packed.logps(taught.body), packed.logps(taught.teacher)
    kl = (np.exp(log_t) * (log_t - log_s)).sum(-1)
    for side, which in (("chosen", 1), ("rejected", 2)):
        tokens, other = getattr(p, f"{side}_tokens"), getattr(wanted, f"{side}_tokens")
        np.testing.assert_allclose(
            tokens.sum(tokens.log_sum_sq_BT)[there][order], other.sum(other.log_sum_sq_BT), rtol=1e-5
        )
        per_answer = [kl[place[0], place[which]].sum() for place in packed.places]
        np.testing.assert_allclose(tokens.sum(tokens.kl_BT)[there][order], per_answer, rtol=1e-4)


def test_tdpo_through_a_teacher(packed, taught, small_chunks):
    loss = resolve("tdpo", beta=0.3, alpha=0.7)
    assert loss.needs == ("kl",)
    metrics, grads = jax.jit(lambda m, a: (loss(m, a), jax.grad(lambda m: value(loss(m, a)["loss"]))(m)))(
        taught, packed.answers
    )
    p = packed.ragged(taught.body, taught.teacher)
    log_s, log_t = packed.logps(taught.body), packed.logps(taught.teacher)
    kl = (np.exp(log_t) * (log_t - log_s)).sum(-1)
    kl_c, kl_l = (np.array([kl[place[0], place[i]].sum() for place in packed.places]) for i in (1, 2))
    x = 0.3 * np.asarray(p.delta_B) - 0.21 * (kl_l - kl_c)
    np.testing.assert_allclose(value(metrics["loss"]), np.mean(np.log1p(np.exp(-x))), rtol=1e-5)
    np.testing.assert_allclose(value(metrics["rewards/margins"]), np.mean(x), rtol=1e-4)
    assert np.abs(grads.body.out[...]).max() > 1e-3
    assert not np.abs(grads.teacher.out[...]).any()


def test_reference_on_the_fly_is_the_cached_one(packed, toy, taught):
    dpo = jax.jit(resolve("dpo"))
    cached = dpo(toy, packed.with_reference(taught.teacher).answers)
    live = dpo(taught, packed.answers)
    np.testing.assert_allclose(live["loss"].value(), cached["loss"].value(), rtol=1e-5)
    with pytest.raises(InputError, match="no ref_logps_BT: compute them, give the model a teacher, or use a loss"):
        resolve("dpo")(toy, packed.answers)
    with pytest.raises(InputError, match="the model has no teacher"):
        resolve("tdpo")(toy, packed.with_reference(taught.teacher).answers)


def test_weights_and_absent_answers(packed, toy):
    """A pair counts by its weight, not at all where an answer is absent, and its margin is the chosen answer's."""
    weight = np.array(packed.answers.weight_BA)
    side, pair = np.asarray(packed.answers.side_BA), np.asarray(packed.answers.pair_BA)
    weight[pair == 1] = 0.25
    weight[(pair == 2) & (side == -1)] = 0
    margin = np.where(side == 1, pair, 99.0)
    answers = replaced(packed, weight_BA=jnp.asarray(weight), margin_BA=jnp.asarray(margin))
    p = jax.jit(lambda toy, answers: read_pairs(toy, answers, None, reference=False))(toy, answers)
    there = np.flatnonzero(p.weight_B)
    assert sorted(zip(p.margin_B[there].tolist(), p.weight_B[there].tolist(), strict=True)) == [
        (0.0, 1.0), (1.0, 0.25), (3.0, 1.0), (4.0, 1.0), (5.0, 1.0)
    ]  # fmt: skip
    per_pair = np.asarray(resolve("simpo").per_pair(packed.ragged(toy)))
    wanted = np.average(per_pair, weights=[1, 0.25, 0, 1, 1, 1])
    np.testing.assert_allclose(value(jax.jit(resolve("simpo"))(toy, answers)["loss"]), wanted, rtol=1e-5)


def test_nothing_is_learned_from_tokens_of_weight_0(packed, toy):
    """Nor from those of no answer: their targets may be anything."""
    batch = packed.answers.batch
    rng = np.random.default_rng(5)
    quiet = (np.asarray(packed.answers.answer_BT) < 0) | (rng.random(batch.weights_BT.shape) < 0.5)
    targets = np.asarray(batch.targets_BT)
    other = np.where(quiet, (targets + 3) % 11, targets)
    batch = dataclasses.replace(batch, weights_BT=np.where(quiet, np.float32(0), np.asarray(batch.weights_BT)))
    read = jax.jit(lambda answers: read_pairs(toy, answers, None, reference=False))
    one, two = (read(replaced(packed, batch=dataclasses.replace(batch, targets_BT=t))) for t in (targets, other))
    np.testing.assert_array_equal(one.chosen_B, two.chosen_B)
    np.testing.assert_array_equal(one.rejected_length_B, two.rejected_length_B)
    learned = sum((~quiet[row, chosen]).sum() for row, chosen, _ in packed.places)
    assert one.chosen_length_B.sum() == learned < sum(len(chosen) for _, chosen, _ in packed.places)


@pytest.mark.parametrize("spec", ["sigmoid:0.8+bco_pair:0.2+sft:1.0", "aot"])
def test_eight_devices(taught, pack, spec):
    """Rows over devices: the same loss and gradient, under a loss that couples them as well."""
    packed = pack((3, 1, 2, 0, 2, 1, 1, 3)).with_reference(taught.teacher)
    graphdef, params = split(taught.body)
    loss = resolve(spec)

    @jax.jit
    def run(params, answers):
        return jax.value_and_grad(lambda params: value(loss(bind(graphdef, params), answers)["loss"]))(params)

    one = run(params, packed.answers)
    eight = run(params, put_batch(jax.device_get(packed.answers), make_mesh("data=8"), 8))
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
    for name, gradient in one[1].items():
        np.testing.assert_allclose(eight[1][name], gradient, rtol=1e-4, atol=1e-6)


def test_of_is_traceable_and_pads_nothing_in():
    rows = [[-1.0, -2.0, -4.0], [-0.5]], [[-3.0], [-1.0, -1.5]]
    p = jax.jit(lambda *x: PairLogps.of(*x))(*rows)
    assert p.chosen_B.tolist() == [-7.0, -0.5]
    assert p.rejected_B.tolist() == [-3.0, -2.5]
    assert p.chosen_length_B.tolist() == [3.0, 1.0]
    assert p.weight_B.tolist() == [1.0, 1.0]
    assert p.margin_B.tolist() == [0.0, 0.0]
    assert p.ref_chosen_B is None
    slopes = jax.grad(lambda *x: PairLogps.of(*x).chosen_B[0])(*rows)
    assert [[float(x) for x in row] for row in slopes] == [[1, 1, 1], [0]]


def test_no_logits_of_the_whole_batch(packed, toy, small_chunks):
    """No array of B x T x V numbers, forward or backward."""
    text = str(jax.make_jaxpr(jax.grad(lambda m: value(resolve("simpo")(m, packed.answers)["loss"])))(toy))
    rows, length = packed.answers.batch.tokens_BT.shape
    assert "scan" in text
    assert f"f32[{rows * length},11]" not in text
    assert f"f32[{rows},{length},11]" not in text
    assert f"f32[{rows * 7},11]" in text
