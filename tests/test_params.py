"""Names, slices and the way between a model and its flat dictionary."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import PartitionSpec as P

from jaxllm.distributed.mesh import make_mesh, shardings
from jaxllm.params import bind, count, describe, materialize, select, split
from jaxllm.types import InputError


class Part(nnx.Module):
    def __init__(self, rngs):
        self.kernel = nnx.Param(jax.random.normal(rngs.params(), (3, 2)))
        self.bias = nnx.Param(jnp.zeros(2))


class Trunk(nnx.Module):
    def __init__(self, rngs):
        self.up = Part(rngs)
        self.many = nnx.List([Part(rngs) for _ in range(11)])


class Headed(nnx.Module):
    def __init__(self, rngs):
        self.body = Trunk(rngs)
        self.head = Part(rngs)

    def __call__(self, x):
        return (x @ self.body.many[10].kernel[...]).sum() + self.head.bias[0]


RULES = ((r".*kernel", P(None, "fsdp")), (r".*bias", P("fsdp")))


def test_names_are_dotted_paths_without_the_trunk():
    graphdef, params = split(Headed(nnx.Rngs(0)))
    assert {"up.kernel", "many.0.bias", "many.10.kernel", "head.kernel"} <= params.keys()
    assert len(params) == 26
    assert list(params) == sorted(params)
    assert count(params) == 13 * 8 == count(graphdef.abstract)
    assert graphdef.abstract["up.kernel"] == jax.ShapeDtypeStruct((3, 2), jnp.float32)
    assert hash(graphdef) == hash(split(Headed(nnx.Rngs(1)))[0])


def test_a_name_for_two_parameters_is_refused():
    class Twice(nnx.Module):
        def __init__(self, rngs):
            self.body = Part(rngs)
            self.kernel = nnx.Param(jnp.zeros(2))

    with pytest.raises(AssertionError, match="one name"):
        split(Twice(nnx.Rngs(0)))


def test_bind_goes_by_name_whatever_the_order():
    graphdef, params = split(Headed(nnx.Rngs(0)))
    x = jnp.arange(3.0)
    expected = (x @ params["many.10.kernel"]).sum()
    for order in (params, dict(reversed(params.items()))):
        assert bind(graphdef, order)(x) == expected
    halved = bind(graphdef, {n: p.astype(jnp.bfloat16) for n, p in params.items()})
    assert halved.body.up.kernel[...].dtype == jnp.bfloat16


def test_bind_lists_every_parameter_that_does_not_fit():
    graphdef, params = split(Headed(nnx.Rngs(0)))
    wrong = {("up.kernels" if n == "up.kernel" else n): x for n, x in params.items()}
    wrong["head.bias"] = jnp.zeros(3)
    with pytest.raises(ValueError, match="fit") as error:
        bind(graphdef, wrong)
    for part in ("missing up.kernel (3, 2)", "unexpected up.kernels", "head.bias is (3,), the model has (2,)"):
        assert part in str(error.value)


NAMES = ("blocks.mlp.kernel", "blocks.mlp.bias", "blocks_norm.scale", "embeddings.kernel", "classifier.bias")
EVERYTHING = slice(None)


@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        (("embeddings.*",), {"embeddings.kernel": EVERYTHING}),
        (("*.bias",), {"blocks.mlp.bias": EVERYTHING, "classifier.bias": EVERYTHING}),
        (("blocks[:4].*",), {"blocks.mlp.kernel": slice(None, 4), "blocks.mlp.bias": slice(None, 4)}),
        (("blocks[-2:].mlp.bias",), {"blocks.mlp.bias": slice(-2, None)}),
        (("!classifier.*",), dict.fromkeys(NAMES[:4], EVERYTHING)),
        (("blocks[:4].*", "*.bias"),
         {"blocks.mlp.kernel": slice(None, 4), "blocks.mlp.bias": EVERYTHING, "classifier.bias": EVERYTHING}),
        (("*.bias", "blocks[:4].mlp.bias"), {"blocks.mlp.bias": EVERYTHING, "classifier.bias": EVERYTHING}),
        ((), {}),
    ],
)  # fmt: skip
def test_select(patterns, expected):
    assert select(NAMES, patterns) == expected


@pytest.mark.parametrize(
    ("patterns", "message"),
    [
        (("block.*",), "'block.*' matches no parameter; names look like blocks.mlp.bias"),
        (("embeddings",), "'embeddings' matches no parameter"),
        (("!*",), "matches no parameter"),
        (("!blocks[:4].*",), "slice cannot follow"),
        (("blocks[:1].*", "blocks[2:].*"), "another slice of blocks.mlp.kernel"),
    ],
)
def test_select_refuses(patterns, message):
    with pytest.raises(InputError) as error:
        select(NAMES, patterns)
    assert message in str(error.value)


def test_parameters_are_born_sharded_and_the_same_on_any_mesh():
    spec = describe(Headed, RULES)
    made = []
    for text in ("data=8", "data=4,fsdp=2"):
        mesh = make_mesh(text)
        at = shardings(spec.graphdef.abstract, mesh, spec.rules)
        params = materialize(spec, at, seed=5)
        assert all(params[n].sharding == at[n] for n in at)
        made.append(params)
    for name, x in made[0].items():
        np.testing.assert_array_equal(x, made[1][name])
    assert not np.array_equal(materialize(spec, at, seed=6)["up.kernel"], made[0]["up.kernel"])


def test_what_is_found_on_disk_is_kept_and_the_rest_initialised():
    plain = describe(Headed, RULES)
    asked = []

    def load(at):
        asked.append(set(at))
        return {"up.kernel": jax.device_put(np.full((3, 2), 7, np.float32), at["up.kernel"])}

    spec = type(plain)(plain.graphdef, plain.init, plain.rules, load)
    at = shardings(plain.graphdef.abstract, make_mesh("data=8"), plain.rules)
    loaded, fresh = materialize(spec, at, 0), materialize(plain, at, 0)
    assert asked == [set(at)]
    assert list(loaded) == list(at)
    np.testing.assert_array_equal(loaded["up.kernel"], 7)
    np.testing.assert_array_equal(loaded["head.kernel"], fresh["head.kernel"])
