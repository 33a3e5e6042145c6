"""FLOPs of kernels by formula."""

from jaxllm.models import decoder
from jaxllm.models.heads import describe_model
from jaxllm.plan.hlo import Array
from jaxllm.plan.kernels import kernel_flops


def test_a_mask_larger_than_the_queries_does_not_count_as_them():
    config = decoder.Config(vocab_size=64, width=32, depth=1, heads=2, mlp_width=48, max_positions=512)
    flops = kernel_flops(describe_model(config), None)
    B, T, N, H = 1, 512, 2, 16
    heads, mask = Array("bf16", (B, T, N, H)), Array("bf16", (B, 1, T, T))
    blocks = 1.0  # one block of 512, which a causal mask leaves something of
    for name, products in (("__cudnn$fmhaScaleBiasSoftmax", 2), ("__cudnn$fmhaScaleBiasSoftmaxBackward", 5)):
        assert flops(name, [heads, heads, heads, mask], (heads,)) == products * 2 * B * N * T * T * H * blocks
    assert flops("__cudnn$convBiasActivationForward", [heads], (heads,)) is None
