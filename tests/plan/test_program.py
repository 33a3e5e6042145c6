"""FLOPs and bytes of programs small enough to count by hand, compiled for fake CPU devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from jaxllm.plan.collectives import Parameter, find, sent_bytes
from jaxllm.plan.groups import Links, axes_of, groups_of
from jaxllm.plan.hlo import Instruction, arrays, parse
from jaxllm.plan.program import Cost, convolution_flops


def mesh_of(**sizes):
    devices = np.array(jax.devices()[: int(np.prod(list(sizes.values())))]).reshape(tuple(sizes.values()))
    return Mesh(devices, tuple(sizes), axis_types=(AxisType.Auto,) * len(sizes))


def cost_of(function, *shapes, out=None):
    """The costs of a function of float32 arrays given as (shape, sharding)."""
    given = [jax.ShapeDtypeStruct(shape, jnp.float32, sharding=at) for shape, at in shapes]
    compiled = jax.jit(function, out_shardings=out).lower(*given).compile()
    return Cost(parse(compiled.as_text()), lambda *_: None)


def moved(cost, mesh):
    """(axis, kind, bytes, trips) of each collective."""
    links = Links("cpu", tuple((0, 0) for _ in range(mesh.size)))
    return sorted((x.axis, x.kind, x.bytes, x.trips) for x in find(cost, mesh, [], links))


B, D, F = 16, 64, 32
WHOLE = 2 * B * D * F


@pytest.mark.parametrize(
    ("sizes", "left", "right", "out", "flops", "sent"),
    [
        ({"a": 8}, P("a"), P(), P("a"), WHOLE / 8, []),  # rows: nothing moves
        ({"a": 8}, P(), P(None, "a"), P(None, "a"), WHOLE / 8, []),  # columns
        ({"b": 2, "c": 4}, P("b"), P(None, "c"), P("b", "c"), WHOLE / 8, []),  # both
        # A contraction cut over c: the partial results [B, F] are summed, round the ring and back.
        ({"c": 4}, P(None, "c"), P("c"), P(), WHOLE / 4, [("c", "all-reduce", 2 * 3 / 4 * B * F * 4, 1)]),
        # Rows over b, contraction over c: what is summed is the device's own rows.
        ({"b": 2, "c": 4}, P("b", "c"), P("c"), P("b"), WHOLE / 8, [("c", "all-reduce", 2 * 3 / 4 * B / 2 * F * 4, 1)]),
        # The result is wanted whole.
        ({"b": 2, "c": 4}, P("b"), P(), P(), WHOLE / 2, [("b", "all-gather", 1 / 2 * B * F * 4, 1)]),
    ],
)
def test_a_matmul_under_each_sharding(sizes, left, right, out, flops, sent):
    mesh = mesh_of(**sizes)
    at = lambda spec: NamedSharding(mesh, spec)
    cost = cost_of(lambda x, w: x @ w, ((B, D), at(left)), ((D, F), at(right)), out=at(out))
    assert cost.flops() == flops
    assert moved(cost, mesh) == sent


def test_a_kernel_stored_in_parts_is_gathered():
    mesh = mesh_of(b=2)
    at = lambda *spec: NamedSharding(mesh, P(*spec))
    rows, parts = ((B, D), at("b")), ((D, F), at("b"))
    gather = lambda x, w: x @ jax.lax.with_sharding_constraint(w, at())
    cost = cost_of(gather, rows, parts, out=at("b"))
    assert cost.flops() == WHOLE / 2
    assert moved(cost, mesh) == [("b", "all-gather", 1 / 2 * D * F * 4, 1)]


def test_a_scan_of_ten_counts_ten_times():
    mesh = mesh_of(c=4)
    at = lambda *spec: NamedSharding(mesh, P(*spec))

    def run(x, ws):
        body = lambda x, w: (jnp.tanh(jax.lax.with_sharding_constraint(x @ w, at())), None)
        return jax.lax.scan(body, x, ws)[0]

    cost = cost_of(run, ((B, D), at()), ((10, D, D), at(None, "c")), out=at())
    assert cost.flops() == 10 * 2 * B * D * D / 4
    each, last = ("c", "all-reduce", 10 * 2 * 3 / 4 * B * D * 4, 10), ("c", "all-gather", 3 / 4 * B * D * 4, 1)
    assert moved(cost, mesh) == [last, each]  # between steps a device keeps only its columns


def test_nested_loops_multiply():
    def run(x, w):
        inner = lambda x: jax.lax.fori_loop(2, 7, lambda i, x: jnp.tanh(x @ w), x)
        return jax.lax.fori_loop(0, 3, lambda i, x: inner(x), x)

    assert cost_of(run, ((B, D), None), ((D, D), None)).flops() == 3 * 5 * 2 * B * D * D


def test_a_conditional_counts_its_dearest_branch():
    def run(x, w):
        return jax.lax.cond(x[0, 0] > 0, lambda: x @ w @ w, lambda: x @ w)

    assert cost_of(run, ((B, D), None), ((D, D), None)).flops() == 2 * 2 * B * D * D


def test_batched_products_and_their_gradients():
    def loss(x, w):
        return jnp.sum(jnp.tanh(jnp.einsum("nbd,ndf->nbf", x, w)))

    cost = cost_of(jax.grad(loss, argnums=(0, 1)), ((3, B, D), None), ((3, D, F), None))
    assert cost.flops() == 3 * 3 * WHOLE
    assert cost.by_dtype() == {"f32": 3 * 3 * WHOLE}


def test_a_ring_of_permutes():
    """Keys pass round four devices, three times: what each sends is its block, each time."""
    mesh = mesh_of(b=2, c=4)
    at = NamedSharding(mesh, P(None, "c"))

    def device(x):
        def step(carry, _):
            total, block = carry
            block = jax.lax.ppermute(block, "c", [(i, (i + 1) % 4) for i in range(4)])
            return (total + block, block), None

        return jax.lax.scan(step, (x, x), None, length=3)[0][0]

    run = jax.shard_map(device, mesh=mesh, in_specs=P(None, "c"), out_specs=P(None, "c"))
    assert moved(cost_of(run, ((B, D), at), out=at), mesh) == [("c", "collective-permute", 3 * B * D / 4 * 4, 3)]


def test_reduce_scatter_and_all_to_all():
    mesh = mesh_of(c=4)
    at = NamedSharding(mesh, P(None, "c"))
    scattered = jax.shard_map(
        lambda x: jax.lax.psum_scatter(x, "c", scatter_dimension=0, tiled=True),
        mesh=mesh, in_specs=P(None, "c"), out_specs=P("c"),
    )  # fmt: skip
    assert moved(cost_of(scattered, ((B, D), at)), mesh) == [("c", "reduce-scatter", 3 / 4 * B * D / 4 * 4, 1)]
    turned = jax.shard_map(
        lambda x: jax.lax.all_to_all(x, "c", 0, 1, tiled=True), mesh=mesh, in_specs=P("c"), out_specs=P(None, "c")
    )
    found = moved(cost_of(turned, ((B, D), NamedSharding(mesh, P("c")))), mesh)
    assert found == [("c", "all-to-all", 3 / 4 * B * D / 4 * 4, 1)]


def test_two_slices():
    """A sum over both axes crosses slices; over one alone it need not."""
    mesh = mesh_of(data=2, fsdp=4)
    links = Links("tpu", tuple((i // 4, i) for i in range(8)))
    at = NamedSharding(mesh, P(("data", "fsdp")))
    for spec, axis, link, members in (
        (P(), "data+fsdp", "network between slices", 8),
        (P("data"), "fsdp", "ICI", 4),
        (P("fsdp"), "data", "network between slices", 2),
    ):
        names = tuple(axis.split("+"))
        run = jax.shard_map(lambda x, names=names: jax.lax.psum(x, names), mesh=mesh, in_specs=at.spec, out_specs=spec)
        [one] = find(cost_of(run, ((B, D), at)), mesh, [], links)
        size = B / 8 * D * 4
        assert (one.axis, one.link, one.members) == (axis, link, members)
        assert one.bytes == 2 * (members - 1) / members * size
    assert links.per_host((0, 1, 2, 3)) == 4
    assert links.per_host((0, 4)) == 1


SLICES = """HloModule slices, is_scheduled=true, num_partitions=4

ENTRY %main (x: f32[256,8,128]) -> f32[256,8,128] {
  %x = f32[256,8,128]{2,1,0} parameter(0)
  %after = token[] after-all()
  %send = (f32[256,8,128]{2,1,0}, u32[], token[]) send(%x, %after), channel_id=2, is_host_transfer=true, \
frontend_attributes={_xla_megascale_target="{1,2}x{0:3}",_xla_megascale_transfer_type="ALL_REDUCE"}
  %sent = token[] send-done(%send), channel_id=2, is_host_transfer=true
  ROOT %all = f32[256,8,128]{2,1,0} all-reduce(%x), channel_id=3, replica_groups={{0,1},{2,3}}
}
"""


def test_a_tpus_transfers_between_slices():
    """A slice's program counts its own devices, wherever they are in the mesh, and hands the rest to its host."""
    mesh = mesh_of(fsdp=4, data=2)  # slices are the inner axis here
    links = Links("tpu", tuple((i % 2, 0) for i in range(8)))
    cost = Cost(parse(SLICES.replace("\\\n", "")), lambda *_: None)
    over, within = find(cost, mesh, [], links)
    assert (over.axis, over.kind, over.link) == ("data", "all-reduce", "network between slices")
    assert over.bytes == 2 * 1 / 2 * 256 * 8 * 128 * 4
    assert (within.axis, within.link, within.group) == ("fsdp", "ICI", (0, 2))


RINGS = """HloModule rings, is_scheduled=true, num_partitions=4

%sum (a: f32[16,8], b: f32[16,8]) -> f32[16,8] {
  %a = f32[16,8]{1,0} parameter(0)
  %b = f32[16,8]{1,0} parameter(1)
  ROOT %add = f32[16,8]{1,0} add(%a, %b)
}

ENTRY %main (w: f32[16,8], dw: f32[16,8]) -> f32[16,8] {
  %w = f32[16,8]{1,0} parameter(0)
  %dw = f32[16,8]{1,0} parameter(1)
  %zero = f32[] constant(0)
  %zeros = f32[16,8]{1,0} broadcast(%zero), dimensions={}
  %c1 = f32[16,8]{1,0} collective-permute(%w), RING
  %c2 = f32[16,8]{1,0} collective-permute(%c1), RING
  %c3 = f32[16,8]{1,0} collective-permute(%zeros), RING
  %fusion = f32[16,8]{1,0} fusion(%c3, %dw), kind=kLoop, calls=%sum
  %copy = f32[16,8]{1,0} copy(%fusion)
  ROOT %c4 = f32[16,8]{1,0} collective-permute(%copy), RING
}
"""


def test_rings_that_a_compiler_made_of_a_product_are_what_they_were():
    ring = 'source_target_pairs={{0,1},{1,2},{2,3},{3,0}}, metadata={op_name="jit(step)/transpose(jvp())/dot_general"}'
    cost = Cost(parse(RINGS.replace("RING", ring)), lambda *_: None)
    mesh, kernel = mesh_of(fsdp=4), Parameter("kernel", (64, 8), (("fsdp",), ()))
    found = find(cost, mesh, [kernel], Links("tpu", ((0, 0),) * 4))
    gathered = ("all-gather", "parameters gathered (kernel), as a ring", 16 * 8 * 4)
    scattered = ("reduce-scatter", "gradients scattered (kernel), as a ring", 16 * 8 * 4)
    assert [(x.kind, x.what, x.bytes) for x in found] == [gathered, gathered, scattered, scattered]


def test_what_each_device_sends():
    sizes = {kind: sent_bytes(kind, 80, 4) for kind in ("all-gather", "reduce-scatter", "all-reduce", "all-to-all")}
    assert sizes == {"all-gather": 60, "reduce-scatter": 60, "all-reduce": 120, "all-to-all": 60}
    assert sent_bytes("collective-permute", 80, 4) == 80


def instruction(rest, opcode="all-gather"):
    return Instruction("x", opcode, arrays("f32[4]"), (), "", rest)


@pytest.mark.parametrize(
    ("text", "groups"),
    [
        ("replica_groups={{0,1},{2,3}}, x=1", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[4]", [(0, 1), (2, 3)]),
        ("replica_groups=[2,2]<=[2,2]T(1,0), dimensions={0}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=1,'axis_2'=2] {'axis_2'}, x=1", [(0, 1), (2, 3)]),
        ("replica_groups=mesh['axis_0'=2,'axis_1'=2] {'axis_0'}", [(0, 2), (1, 3)]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(1)2}", [(0, 4), (1, 5), (2, 6), (3, 7)]),
        ("replica_groups=mesh['axis_0'=8] {'axis_0':(4)2}", [(0, 1), (2, 3), (4, 5), (6, 7)]),
        ("source_target_pairs={{0,1},{1,0}}", [(0, 1), (1, 0)]),
    ],
)
def test_groups_in_every_notation(text, groups):
    assert sorted(groups_of(instruction(text), 8)) == groups


def test_axes_follow_from_groups():
    mesh = mesh_of(data=2, fsdp=2, tensor=2)
    assert axes_of([(0, 1), (2, 3)], mesh) == "tensor"
    assert axes_of([(0, 2), (1, 3)], mesh) == "fsdp"
    assert axes_of([(0, 1, 2, 3)], mesh) == "fsdp+tensor"
    assert axes_of([(0, 7)], mesh) == "data+fsdp+tensor"


@pytest.mark.parametrize(
    ("left", "right", "out", "rest", "flops"),
    [
        # a TPU's [4, 512, 1024] x [1024, 2048]
        ((4, 512, 1024), (1024, 2048, 1), (4, 512, 2048), "window={size=1}, dim_labels=0bf_io0->0bf",
         2 * 4 * 512 * 1024 * 2048),
        # eight products [16, 32] x [32, 64], of which a batch dimension is a spatial one
        ((8, 16, 32), (8, 32, 64), (8, 16, 64), "window={size=8 stride=7 lhs_dilate=8}, dim_labels=0bf_0io->0bf",
         8 * 2 * 16 * 32 * 64),
        ((8, 16, 32), (8, 32, 64), (8, 16, 64),
         "window={size=8 pad=7_7 rhs_reversal=1 stride=1 rhs_dilate=1}, dim_labels=0bf_0io->0bf",
         2 * 16 * 32 * 64 * 36),
        # an image of 5 x 5 and a kernel of 3 x 3, padded: positions of the kernel on the image
        ((1, 5, 5, 3), (3, 3, 3, 2), (1, 5, 5, 2), "window={size=3x3 pad=1_1x1_1}, dim_labels=b01f_01io->b01f",
         2 * 3 * 2 * 13 * 13),
    ],
)  # fmt: skip
def test_products_written_as_convolutions(left, right, out, rest, flops):
    name = lambda shape: f"bf16[{','.join(map(str, shape))}]"
    given = [Instruction(n, "parameter", arrays(name(s)), (), "0", "") for n, s in (("l", left), ("r", right))]
    x = Instruction("c", "convolution", arrays(name(out)), ("l", "r"), "", rest)
    assert convolution_flops(x, given) == flops


def test_memory_moved_is_what_instructions_read_and_write():
    cost = cost_of(lambda x: jnp.sin(x) * 2, ((256, 256), None))
    assert cost.traffic() == 2 * 256 * 256 * 4
