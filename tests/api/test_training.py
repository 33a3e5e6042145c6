import jax
import numpy as np
import optax
import pytest

import jaxllm
from jaxllm.types import InputError

ROWS = [{"question": f"What is {a} plus {b}?", "answer": f"{a + b}"} for a in range(6) for b in range(6)]
PAIRS = [{"prompt": f"What is {a} plus 1?", "chosen": f" {a + 1}", "rejected": " no idea"} for a in range(12)]


def train(model, batches, loss, **arguments):
    optimizer = optax.adamw(1e-2)
    state, step = jaxllm.init_state(model, optimizer), jaxllm.compile_train_step(model, loss, optimizer, **arguments)
    losses = []
    for batch in batches:
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    return state, losses, metrics


@pytest.fixture(scope="module")
def model(llama):
    return jaxllm.load(str(llama))


def test_a_loop_of_its_own_learns_and_leaves_the_model_alone(model):
    before = np.asarray(model.params["blocks.mlp.up.kernel"])
    batches = jaxllm.chat_batches(ROWS, model, batch_size=12, max_length=64, epochs=5)
    state, losses, metrics = train(model, batches, "cross_entropy")
    assert len(losses) == len(batches) == 15
    assert losses[-1] < 0.7 * losses[0]
    assert metrics["grad_norm"].shape == ()
    np.testing.assert_array_equal(model.params["blocks.mlp.up.kernel"], before)
    tuned = model.with_params(state.params)
    assert jaxllm.score(tuned, ["What is 1 plus 1?"], ["2"])[0] > jaxllm.score(model, ["What is 1 plus 1?"], ["2"])[0]


def test_eight_devices_take_the_same_steps_as_one(model, llama):
    # All rows a step, for each mesh packs in its own way.
    options: dict = {"batch_size": len(ROWS), "max_length": 64, "epochs": 2}
    one = train(model, jaxllm.chat_batches(ROWS, model, **options), "cross_entropy")
    many = jaxllm.load(str(llama), mesh="fsdp=8")
    eight = train(many, jaxllm.chat_batches(ROWS, many, **options), "cross_entropy")
    np.testing.assert_allclose(eight[1], one[1], rtol=1e-5)
    assert eight[0].params["blocks.mlp.up.kernel"].sharding == many.params["blocks.mlp.up.kernel"].sharding


def test_dpo_moves_chosen_above_rejected(model):
    batches = jaxllm.pair_batches(PAIRS, model, reference=model, batch_size=6, max_length=64, epochs=3)
    _, losses, metrics = train(model, batches, "dpo", beta=0.5)
    np.testing.assert_allclose(losses[0], np.log(2), atol=1e-5)
    assert losses[-1] < 0.5
    assert float(metrics["rewards/accuracies"]) == 1.0


def test_adapters_alone_are_trained(model):
    adapted = jaxllm.add_lora(model, 2)
    batches = jaxllm.chat_batches(ROWS, adapted, batch_size=12, max_length=64)
    state, losses, _ = train(adapted, batches, "cross_entropy")
    assert all("lora" in name for name in state.params)
    assert losses[-1] < losses[0]


def test_a_checkpoint_goes_on_where_it_was_saved(model, tmp_path):
    batches = jaxllm.chat_batches(ROWS, model, batch_size=12, max_length=64, epochs=2)
    optimizer = optax.adamw(1e-2)
    step = jaxllm.compile_train_step(model, "cross_entropy", optimizer)
    state = jaxllm.init_state(model, optimizer)
    for batch in batches.between(0, 3):
        state, _ = step(state, batch)
    assert jaxllm.save(state, tmp_path) == 3
    restored = jaxllm.restore(tmp_path, jaxllm.init_state(model, optimizer))
    assert int(restored.step) == 3
    for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(restored), strict=True):
        np.testing.assert_array_equal(a, b)
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError, match="holds no checkpoint"):
        jaxllm.restore(tmp_path / "empty", restored)


def test_fit_logs_evaluates_and_returns_the_model(model, tmp_path):
    batches = jaxllm.chat_batches(ROWS, model, batch_size=12, max_length=64, epochs=2)
    fitted = jaxllm.fit(
        model, loss="cross_entropy", data=batches, optimizer=optax.adamw(1e-2), out=tmp_path / "run",
        evals={"dev": batches, "twice": lambda m: {"parameters": float(len(m.params))}}, log_to=("none",), log_every=2,
    )  # fmt: skip
    assert fitted.step == 6
    assert fitted.log[-1]["dev/loss"] < fitted.log[0]["loss"]
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
    assert fitted.model.params.keys() == model.params.keys()
