"""Completions in packed rows: what a policy loss is given, and steps of training on them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from step_cases import LLAMA, B, plain, rollouts

from jaxllm.distributed.mesh import make_mesh, put_batch, replicated, shardings
from jaxllm.losses import PairLogps, PolicyLogps, policy_loss, resolve, tokens
from jaxllm.losses.rollouts import read_rollouts
from jaxllm.models import decoder
from jaxllm.models.teacher import Taught
from jaxllm.params import describe
from jaxllm.train.setup import compile_step
from jaxllm.train.step import make_train_step
from jaxllm.types import InputError, TrainState, value

SGD = optax.sgd(1.0)


def toy_rollouts(**changes):
    """Rows for the toy of conftest.py, whose vocabulary has 11 tokens."""
    made = rollouts(share=False)
    batch = dataclasses.replace(made.batch, tokens_BT=made.batch.tokens_BT % 11, targets_BT=made.batch.targets_BT % 11)
    return jax.tree.map(jnp.asarray, dataclasses.replace(made, batch=batch, **changes))


def as_lists(made, model):
    """(log-probabilities, entropies and where they stand) of each completion, by numpy."""
    hidden, _ = model.hidden(made.batch)
    logits = np.asarray(model.head(hidden.reshape(-1, hidden.shape[-1])), np.float64).reshape(*hidden.shape[:2], -1)
    logp = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    own = np.take_along_axis(logp, np.asarray(made.batch.targets_BT)[..., None], -1)[..., 0]
    entropy = -(np.exp(logp) * logp).sum(-1)
    learned = np.asarray(made.batch.weights_BT) > 0
    for row, slot in np.argwhere(np.asarray(made.weight_BA) > 0):
        at = learned[row] & (np.asarray(made.answer_BT)[row] == slot)
        yield own[row, at], entropy[row, at], (row, at)


@pytest.mark.parametrize("chunked", [False, True])
def test_rows_are_the_completions_in_them(toy, chunked, request):
    """Also where the head sees a few positions at a time."""
    if chunked:
        request.getfixturevalue("small_chunks")
    made = toy_rollouts()
    found = jax.jit(lambda: read_rollouts(toy, made, None, reference=True))()
    present = np.flatnonzero(np.asarray(found.weight_B))
    every = list(as_lists(made, toy))
    assert len(present) == len(every) == 22
    assert int(found.mask_BT.sum()) == sum(len(logps) for logps, *_ in every) > 40
    assert sum(len(logps) == 0 for logps, *_ in every) >= 1
    for b, (logps, entropy, (row, at)) in zip(present, every, strict=True):
        mask = np.asarray(found.mask_BT)[b]
        assert found.length_B[b] == len(logps)
        for x, wanted in (
            (found.policy_BT, logps), (found.entropy_BT, entropy), (found.old_BT, made.old_logps_BT[row, at]),
            (found.ref_BT, made.ref_logps_BT[row, at]), (found.sampler_BT, made.sampler_logps_BT[row, at]),
            (found.advantages_BT, made.advantages_BT[row, at]),
        ):  # fmt: skip
            np.testing.assert_allclose(np.asarray(x)[b][mask], wanted, rtol=2e-5, atol=2e-5)
            assert not np.asarray(x)[b][~mask].any()
    assert float(found.max_length) == 6


def test_a_loss_of_rows_is_that_of_lists(toy):
    made = toy_rollouts()
    loss = resolve("dr_grpo", beta=0.2, entropy_coef=0.1, vllm_importance_sampling_mode="token_truncate")
    every = list(as_lists(made, toy))
    longest = max(len(logps) for logps, *_ in every)

    def padded(rows):
        return np.stack([np.pad(row, (0, longest - len(row))) for row in rows])

    at = lambda x: padded([np.asarray(x)[place] for *_, place in every])
    p = PolicyLogps.of(
        padded([logps for logps, *_ in every]), at(made.old_logps_BT), at(made.batch.weights_BT),
        at(made.advantages_BT), ref_BT=at(made.ref_logps_BT), sampler_BT=at(made.sampler_logps_BT),
        entropy_BT=padded([entropy for _, entropy, _ in every]), max_length=6,
    )  # fmt: skip
    metrics = loss(toy, made)
    assert float(value(metrics["loss"])) == pytest.approx(float(loss.mean(p)), rel=1e-5)
    for name, x in loss.metrics(p).items():
        if not name.endswith(("_min", "_max")):
            assert float(value(metrics[name])) == pytest.approx(float(x), rel=1e-5, abs=1e-6), name
    assert {"kl", "ratio", "entropy", "policy_loss", "clip_ratio/low_mean"} < metrics.keys()


def test_without_old_log_probabilities_the_policy_has_sampled(toy):
    found = read_rollouts(toy, toy_rollouts(old_logps_BT=None), None, reference=False)
    np.testing.assert_array_equal(found.old_BT, found.policy_BT)
    assert found.ref_BT is None


def test_other_batches_and_other_log_probabilities_are_refused(toy):
    with pytest.raises(InputError, match="a policy loss trains on Rollouts, sampled completions; the batch is Batch"):
        resolve("grpo")(toy, toy_rollouts().batch)
    with pytest.raises(InputError, match="loss 'grpo' is of completions: give it PolicyLogps, not PairLogps"):
        resolve("grpo").mean(PairLogps.of([[-1.0]], [[-2.0]]))


def test_a_teacher_is_a_reference_and_none_is_refused(toy, taught):
    made = toy_rollouts(ref_logps_BT=None)
    loss = resolve("grpo", beta=0.1)
    with pytest.raises(InputError, match=r"the batch has no ref_logps_BT: compute them, .* or beta=0 of a policy loss"):
        loss(toy, made)
    by_teacher = read_rollouts(taught, made, None, reference=True).ref_BT
    wanted = read_rollouts(taught.teacher, made, None, reference=False).policy_BT
    np.testing.assert_allclose(by_teacher, wanted, rtol=1e-6)
    assert isinstance(taught, Taught)
    assert resolve("grpo")(toy, made)


def test_entropies_have_a_gradient_where_the_loss_asks_for_it(toy):
    def slope(**decoration):
        @policy_loss(**decoration)
        def lowest(p):
            return p.entropy_BT

        scaled = lambda x: value(resolve(lowest)(_Scaled(toy, x), toy_rollouts())["loss"])
        return float(jax.grad(scaled)(1.0))

    assert slope() == 0
    assert slope(needs=("entropy",)) < -0.1


@dataclasses.dataclass(frozen=True)
class _Scaled:
    """A model whose logits are multiplied."""

    model: object
    by: object

    def hidden(self, batch, key=None):
        return self.model.hidden(batch)

    def head(self, hidden_ND):
        return self.by * self.model.head(hidden_ND)


ARGUMENTS = {
    "grpo": {"beta": 0.1, "off_policy_mask_threshold": 0.1},
    "dapo": {"entropy_coef": 0.05, "vllm_importance_sampling_mode": "sequence_mask"},
    "rloo": {},
    "vespo": {"vllm_importance_sampling_mode": "token_truncate"},
}


@pytest.fixture(scope="module")
def spec():
    return describe(plain(LLAMA), decoder.SHARDING)


@pytest.mark.parametrize("name", ARGUMENTS)
def test_microbatches_meshes_and_pmap_take_the_same_step(spec, name, monkeypatch):
    monkeypatch.setattr(tokens, "LOGITS_BYTES", 4 * B * LLAMA.vocab_size * 10)
    made, loss, draw = rollouts(), resolve(name, **ARGUMENTS[name]), np.random.default_rng(0)
    shapes = spec.graphdef.abstract.items()
    params = {n: (0.3 * draw.normal(size=x.shape) + n.endswith("scale")).astype(np.float32) for n, x in shapes}
    steps = []
    for text, parts, strategy in (("", 1, "jit"), ("", 4, "jit"), ("data=2,fsdp=4", 1, "jit"), ("data=4", 2, "pmap")):
        mesh = make_mesh(text, jax.devices()[: {"": 1, "data=4": 4}.get(text, 8)])
        at = shardings(spec.graphdef.abstract, mesh, decoder.SHARDING, limits=spec.graphdef.limits)
        placed = {n: jax.device_put(x, at[n]) for n, x in params.items()}
        state = TrainState(jax.device_put(np.int32(0), replicated(mesh)), placed, SGD.init(placed))
        axis = "data" if strategy == "pmap" else None
        step = make_train_step(spec.graphdef, loss, SGD, seed=0, microbatches=parts, axis=axis)
        train = compile_step(step, strategy, mesh, at, shardings(SGD.init(placed), mesh, decoder.SHARDING))
        batch = put_batch(made, mesh, B)
        if strategy == "pmap":
            batch = jax.tree.map(lambda x: np.asarray(x).reshape(4, -1, *x.shape[1:]), made)
        after, metrics = train(state, batch)
        steps.append(({n: params[n] - np.asarray(x) for n, x in after.params.items()}, metrics))
    (expected, numbers), *others = steps
    wanted = {n: float(value(x)) for n, x in numbers.items()}
    largest = max(np.abs(x).max() for x in expected.values())
    assert largest > 1e-3
    for gradients, metrics in others:
        assert {n: float(value(x)) for n, x in metrics.items()} == pytest.approx(wanted, rel=1e-5, abs=1e-5)
        for n, x in expected.items():
            np.testing.assert_allclose(gradients[n], x, atol=1e-5 * max(1, largest), err_msg=n)


def test_a_quantile_of_the_batch_is_not_cut_into_microbatches(spec):
    whole = resolve("grpo", top_entropy_quantile=0.2)
    assert whole.couples_batch
    assert not resolve("grpo").couples_batch
    with pytest.raises(InputError, match="grpo depends on the whole batch at once"):
        make_train_step(spec.graphdef, whole, SGD, seed=0, microbatches=2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"policy_BT": [-1.0]}, r"policy_BT has the shape \[1\]; \[B, T\] is wanted"),
        ({"old_BT": [[-1.0, -1]]}, r"old_BT has the shape \[1, 2\], policy_BT \[2, 2\]"),
        ({"mask_BT": [[1, 1, 1]] * 2}, r"mask_BT has the shape \[2, 3\], policy_BT \[2, 2\]"),
        ({"advantages": [1.0, 2, 3]}, r"advantages has the shape \[3\], policy_BT \[2, 2\]"),
        ({"ref_BT": [[0.0]]}, r"ref_BT has the shape \[1, 1\], policy_BT \[2, 2\]"),
    ],
)
def test_shapes_are_checked(changes, message):
    rest = {
        "policy_BT": [[-1.0, -2]] * 2,
        "old_BT": [[-1.0, -2]] * 2,
        "mask_BT": [[1, 1], [1, 0]],
        "advantages": [1, 2],
    }
    with pytest.raises(InputError, match=message):
        PolicyLogps.of(**{**rest, **changes})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("dr_grpo", {}, "loss 'dr_grpo' divides by the longest that a completion may be, in tokens: give max_length"),
        ("grpo", {"beta": 0.1}, "compares with a reference: give ref_BT, or beta=0"),
        ("grpo", {"entropy_coef": 0.1}, "entropy_coef reads the entropies of the policy: give entropy_BT"),
        ("grpo", {"top_entropy_quantile": 0.1}, "top_entropy_quantile reads the entropies"),
        ("grpo", {"vllm_importance_sampling_mode": "token_mask"}, "reads what the generator reported: give sampler_BT"),
    ],
)
def test_what_a_loss_reads_is_asked_for(name, arguments, message):
    p = PolicyLogps.of([[-1.0, -2]], [[-1.0, -2]], [[1, 1]], [1.0])
    with pytest.raises(InputError, match=message):
        resolve(name, **arguments).mean(p)
