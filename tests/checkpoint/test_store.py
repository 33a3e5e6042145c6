"""What is saved comes back, bit for bit, and the right checkpoints stay."""

import resource
import sys
import time

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from drawn import drawn

from jaxllm.checkpoint import manifest
from jaxllm.checkpoint.store import Checkpoints, read_params
from jaxllm.distributed.mesh import make_mesh, replicated, shardings
from jaxllm.train.optim import OptimConfig, make_optimizer
from jaxllm.types import InputError, RunError, TrainState


def state_on(spec, text, seed=0, step=3):
    """A state on a mesh, its optimizer's arrays random too."""
    devices = int(np.prod([int(part.partition("=")[2]) for part in text.split(",")]))
    mesh, abstract = make_mesh(text, jax.devices()[:devices]), spec.graphdef.abstract
    optimizer = make_optimizer(
        OptimConfig(freeze=("embeddings.*", "blocks[:1].*")), abstract, optax.constant_schedule(0.1)
    )
    at = shardings(abstract, mesh, spec.rules)
    opt_at = shardings(jax.eval_shape(optimizer.init, abstract), mesh, spec.rules, abstract)
    params = drawn(spec, seed=seed, at=at)
    opt_state = jax.jit(optimizer.init, out_shardings=opt_at)(params)
    rng = np.random.default_rng(seed)
    noise = lambda x: jax.device_put((x + rng.normal(size=x.shape) * 9).astype(x.dtype), x.sharding)
    step = jax.device_put(jnp.int32(step), replicated(mesh))
    return TrainState(step, params, jax.tree.map(noise, opt_state))


def shapes(state):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)


@pytest.fixture(scope="module")
def saved(tagger, tmp_path_factory):
    """(spec, run folder, the state saved at position 5 of it)."""
    spec, folder = tagger(), tmp_path_factory.mktemp("run")
    state = state_on(spec, "fsdp=8")
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(5, state, {"sums": {"loss": [[1.0, 0.1 + 0.2, 3.0]], "bad": [[1.0, float("nan"), 1.0]]}})
    checkpoints.close()
    return spec, folder, state


@pytest.mark.parametrize("text", ["fsdp=8", "data=1", "data=2,tensor=4", "data=2,fsdp=2,tensor=2"])
def test_a_state_comes_back_on_any_mesh(saved, text):
    spec, folder, state = saved
    like = state_on(spec, text, seed=1, step=0)
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.latest() == 5
    found, meta = checkpoints.restore(5, shapes(like))
    assert int(found.step) == 3 == meta["step"]
    assert meta["position"] == 5
    assert meta["sums"]["loss"] == [[1.0, 0.1 + 0.2, 3.0]], "a sum survives exactly"
    assert np.isnan(meta["sums"]["bad"][0][1])
    assert repr(checkpoints.meta(5)) == repr(meta)
    jax.tree.map(np.testing.assert_array_equal, found, state)
    assert jax.tree.structure(found) == jax.tree.structure(like)
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(like), strict=True):
        assert (x.dtype, x.shape) == (y.dtype, y.shape)
        assert x.sharding.is_equivalent_to(y.sharding, x.ndim)
    checkpoints.close()


def test_parameters_alone(saved, tmp_path):
    spec, folder, state = saved
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    abstract = {n: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=one) for n, x in spec.graphdef.abstract.items()}
    for position in (None, 5):
        params = read_params(folder, abstract, position)
        assert list(params) == list(abstract)
        jax.tree.map(np.testing.assert_array_equal, params, dict(state.params))
        assert all(x.sharding == one for x in params.values())
    with pytest.raises(InputError, match="holds no checkpoint"):
        read_params(tmp_path, abstract)


@pytest.mark.parametrize(("keep", "left"), [(1, [4, 12]), (2, [4, 10, 12]), (3, [4, 8, 10, 12])])
def test_the_newest_and_the_best_are_kept(tmp_path, keep, left):
    state = TrainState(jnp.int32(0), {"w": jnp.ones(2)}, {"m": jnp.ones(2)})
    folder = tmp_path / "checkpoints"
    checkpoints = Checkpoints(folder, keep)
    for position, best in ((2, 2), (4, 4), (6, 4), (8, 4)):
        checkpoints.save(position, state, {}, best)
    checkpoints.close()
    checkpoints = Checkpoints(folder, keep)  # opening deletes nothing
    assert 4 in checkpoints.positions()
    checkpoints.save(10, state, {}, 4)
    checkpoints.save(12, state, {}, 4)
    checkpoints.wait()
    assert checkpoints.positions() == left
    assert checkpoints.latest() == 12
    checkpoints.close()


def test_a_position_is_saved_once_and_never_behind_a_newer_one(tmp_path):
    state = TrainState(jnp.int32(0), {"w": jnp.ones(2)}, {"m": jnp.ones(2)})
    other = TrainState(jnp.int32(9), {"w": jnp.zeros(2)}, {"m": jnp.ones(2)})
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(4, state, {})
    checkpoints.wait()
    checkpoints.save(4, other, {})
    assert checkpoints.meta(4)["step"] == 0
    with pytest.raises(RuntimeError, match="checkpoint 3 was not saved"):
        checkpoints.save(3, state, {})
    checkpoints.close()


def test_what_was_being_saved_at_a_crash_is_no_checkpoint(saved):
    _, folder, _ = saved
    (folder / "checkpoints" / "9.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
    checkpoints = Checkpoints(folder / "checkpoints")
    assert checkpoints.latest() == 5
    checkpoints.close()


def small(value=0.0):
    return TrainState(jnp.int32(0), {"w": jnp.full(2000, value)}, {"m": jnp.ones(2)})


def series(folder, *positions, seal=True, **options):
    """Checkpoints whose parameters are their position; the last may lack its manifest."""
    checkpoints = Checkpoints(folder, **{"keep": 9, **options})
    for position in positions:
        checkpoints.save(position, small(float(position)), {})
    checkpoints.close()
    if not seal:
        (folder / str(positions[-1]) / manifest.MANIFEST).unlink()
    return folder


def harm(folder, position, how):
    """Does something to the largest file of a checkpoint's parameters."""
    path = max((folder / str(position) / "params").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    good = bytearray(path.read_bytes())
    good[len(good) // 2] ^= 4
    path.write_bytes({"truncated": bytes(good[:-7]), "emptied": b"", "flipped": bytes(good)}[how])


def test_last_every_and_best_are_kept_together(tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, every=4)
    for position in range(1, 12):
        checkpoints.save(position, small(), {}, best=5 if position >= 5 else None)
    checkpoints.close()
    assert Checkpoints(tmp_path, write=False).positions() == [4, 5, 8, 10, 11]


@pytest.mark.parametrize("how", ["truncated", "emptied", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(tmp_path, capsys, how):
    folder = series(tmp_path / "checkpoints", 3, 6, 9)
    harm(folder, 9, how)
    assert read_params(tmp_path, small().params)["w"][0] == 6
    assert f"checkpoint 9 of {folder} is damaged: params/" in capsys.readouterr().err
    with pytest.raises(InputError, match=r"checkpoint 9 of .* is damaged"):
        read_params(tmp_path, small().params, 9)
    assert sorted(path.name for path in folder.iterdir()) == ["3", "6", "9"], "reading changes nothing"

    checkpoints = Checkpoints(folder)
    state, position, _ = checkpoints.newest(shapes(small()))
    assert (position, state.params["w"][0]) == (6, 6)
    assert capsys.readouterr().err.endswith("; taking 6\n")
    checkpoints.save(9, small(99.0), {})
    checkpoints.close()
    assert read_params(tmp_path, small().params)["w"][0] == 99
    assert (folder / "9.damaged").is_dir(), "what is left of it is not thrown away"


@pytest.mark.parametrize("also", [(), ("truncated",)])
def test_a_checkpoint_without_a_manifest_is_good_if_it_can_be_read(tmp_path, capsys, also):
    """The process was killed between the checkpoint and its manifest; or the machine was, and lost what was written."""
    folder = series(tmp_path, 3, 6, seal=False)
    for how in also:
        harm(folder, 6, how)
    checkpoints = Checkpoints(folder)
    state, position, _ = checkpoints.newest(shapes(small()))
    checkpoints.close()
    assert (position, state.params["w"][0]) == ((3, 3) if also else (6, 6))
    assert ("checkpoint 6 of" in capsys.readouterr().err) == bool(also)
    assert (folder / str(position) / manifest.MANIFEST).exists(), "from now on it is guarded"


def test_where_no_checkpoint_is_sound_nothing_is_touched(tmp_path):
    folder = series(tmp_path, 3, 6)
    harm(folder, 3, "flipped")
    harm(folder, 6, "emptied")
    checkpoints = Checkpoints(folder)
    with pytest.raises(InputError, match=r"no checkpoint of .* is what was written \(6: params/.*; 3: params/"):
        checkpoints.newest(shapes(small()))
    checkpoints.close()
    assert sorted(path.name for path in folder.iterdir()) == ["3", "6"]


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"params": {"w": jnp.zeros(3)}}, "another model: w float32[2000] there, float32[3] here"),
        ({"params": {"w": jnp.zeros(2000), "v": jnp.zeros(1)}}, "another model: v is not there"),
        ({"params": {}}, "another model: w is not here"),
        ({"opt_state": {"n": jnp.ones(2)}}, "another optimizer: n is not there; m is not here"),
    ],
)
def test_a_checkpoint_of_another_model_is_refused(tmp_path, other, message):
    checkpoints = Checkpoints(series(tmp_path, 3))
    fields = {"params": small().params, "opt_state": small().opt_state, **other}
    with pytest.raises(InputError) as error:
        checkpoints.newest(shapes(TrainState(small().step, **fields)))
    assert f"checkpoint 3 of {tmp_path} is of {message}" in str(error.value)
    checkpoints.close()


def test_a_full_disk_is_said_in_one_line_and_what_was_saved_stands(tmp_path, monkeypatch):
    checkpoints = Checkpoints(series(tmp_path, 3))

    def full(*args, **kwargs):
        (tmp_path / "6.orbax-checkpoint-tmp" / "params").mkdir(parents=True)
        raise ValueError("RESOURCE_EXHAUSTED: Error writing: No space left on device")

    monkeypatch.setattr(checkpoints._manager, "save", full)
    with pytest.raises(RunError, match=r"checkpoint 6 could not be written to .*: no space left there.*stand: 3;"):
        checkpoints.save(6, small(), {})
    checkpoints.close()
    assert [path.name for path in tmp_path.iterdir()] == ["3"], "what was half written takes no space"


def test_files_that_the_kernel_refuses_are_said_in_one_line_and_nothing_is_lost(tmp_path, monkeypatch):
    """As on a full disk, by a limit that needs no disk: writes fail in the background, one of them first."""
    strays: list[object] = []
    monkeypatch.setattr(sys, "unraisablehook", strays.append)
    checkpoints = Checkpoints(series(tmp_path, 3))
    noise = np.random.default_rng(0).normal(size=1 << 15).astype(np.float32)
    large = TrainState(jnp.int32(0), {f"w{i}": jnp.asarray(noise) for i in range(40)}, {"m": jnp.ones(2)})

    def save():
        checkpoints.save(6, large, {})
        checkpoints.wait()

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, limits[1]))
    try:
        with pytest.raises(RunError, match=r"checkpoint 6 could not be written to .* stand: 3; mend it") as error:
            save()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "\n" not in str(error.value)
    checkpoints.close()
    assert not strays, "no traceback beside the line"
    for _ in range(100):  # writes of this process may still be under way there
        checkpoints = Checkpoints(tmp_path)
        if [path.name for path in tmp_path.iterdir()] == ["3"]:
            break
        checkpoints.close()
        time.sleep(0.1)
    else:
        raise AssertionError("what was half written stays")
    state, position, _ = checkpoints.newest(shapes(small()))
    assert (position, state.params["w"][0]) == (3, 3)
    checkpoints.save(6, large, {})
    checkpoints.close()
    np.testing.assert_array_equal(Checkpoints(tmp_path, write=False).params(6, large.params)["w9"], noise)


def test_what_is_saved_is_as_it_was_when_save_was_called(tmp_path):
    """The loop goes on adding to its sums while they are written."""
    checkpoints, sums = Checkpoints(tmp_path), {"loss": [[1.0, 2.0, 3.0]]}
    checkpoints.save(3, small(), {"sums": sums})
    sums["loss"][0][1] = 9.0
    checkpoints.wait()
    assert checkpoints.meta(3)["sums"] == {"loss": [[1.0, 2.0, 3.0]]}
    checkpoints.close()


def test_what_could_not_be_saved_in_the_background_is_said_later(tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path)
    monkeypatch.setattr(manifest, "write", lambda folder: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    checkpoints.save(6, small(), {})
    with pytest.raises(RunError, match=r"checkpoint 6 could not be written .* stand: 6;"):
        checkpoints.save(9, small(), {})
    checkpoints.close()
