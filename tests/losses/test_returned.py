"""A loss that does not return one float per pair, answer or token is refused while it is traced, in one line."""

import jax
import jax.numpy as jnp
import pytest

from jaxllm.losses import (
    AnswerLogps,
    PairLogps,
    PolicyLogps,
    Term,
    policy_loss,
    preference_loss,
    resolve,
    unpaired_loss,
)
from jaxllm.types import InputError

PAIRS = PairLogps.of([[-1.0]] * 3, [[-2.0]] * 3, [[-1.5]] * 3, [[-1.5]] * 3)
ANSWERS = AnswerLogps.of([[-1.0]] * 3, [[-2.0]] * 3, [1, -1, 1])

WRONG = {
    "[3, 1]": lambda x_B: x_B[:, None],
    "[1]": lambda x_B: x_B[:1],
    "[3, 3]": lambda x_B: x_B[:, None] - x_B[None, :],
    "a scalar": jnp.mean,
    "None": lambda x_B: None,
    "a float": lambda x_B: 1.0,
    "a list": list,
    "int32 numbers, which have no gradient": lambda x_B: jnp.sign(x_B).astype(jnp.int32),
}


@pytest.mark.parametrize("returned", WRONG)
def test_one_number_each(returned):
    """Called and traced, as a term beside the loss too; the file and the function are named."""

    def margin(p, *, beta=0.1):
        return WRONG[returned](-beta * p.delta_B)

    def two(p):
        return -p.delta_B, Term(WRONG[returned](p.chosen_B))

    def judged(a, *, beta=0.1):
        return WRONG[returned](-beta * a.ratio_B)

    def message(name, unit):
        return f"test_returned.py:{name} returned {returned}; one number per {unit}, [3], is wanted"

    for found, inputs, wanted in (
        (preference_loss(margin).mean, PAIRS, message("margin", "pair")),
        (jax.jit(preference_loss(margin).per_pair), PAIRS, message("margin", "pair")),
        (jax.jit(preference_loss(reward=lambda p: (p.chosen_B, p.chosen_B))(two).mean), PAIRS, message("two", "pair")),
        (unpaired_loss(judged).mean, ANSWERS, message("judged", "answer")),
        (jax.jit(unpaired_loss(judged).per_pair), ANSWERS, message("judged", "answer")),
    ):
        with pytest.raises(InputError) as error:
            found(inputs)
        assert str(error.value) == wanted


def test_one_number_for_each_token_of_completions():
    """A number per completion is taken for no number per token, whatever would broadcast."""
    p = PolicyLogps.of(-jnp.ones((3, 3)), None, jnp.ones((3, 3)), jnp.ones(3))

    wrong = {
        "[3]": lambda p: p.sum(p.ratio_BT),
        "[3, 1]": lambda p: p.ratio_BT[:, :1],
        "a scalar": lambda p: jnp.sum(p.ratio_BT),
    }
    for what in wrong:

        def soft(p, *, beta=0.1, what=what):
            return wrong[what](p)

        for found in (policy_loss(soft).mean, jax.jit(policy_loss(soft).per_token)):
            with pytest.raises(InputError) as error:
                found(p)
            assert str(error.value) == f"test_returned.py:soft returned {what}; one number per token, [3, 3], is wanted"


def test_counts_of_terms_and_what_is_right():
    @preference_loss
    def counted(p):
        return -p.delta_B, Term(p.chosen_B, p.chosen_length_B.sum())

    with pytest.raises(InputError, match="counted returned a scalar; one number per pair"):
        counted.mean(PAIRS)

    @preference_loss
    def right(p):
        return (-p.delta_B).astype(jnp.bfloat16)

    assert right.per_pair(PAIRS).tolist() == [-1.0] * 3


OWN = """
import jax.numpy as jnp
from jaxllm.losses import Mean, PairLogps, policy_loss, preference_loss, token_loss, unpaired_loss
from jaxllm.losses.reward import read_rewards

@preference_loss
def column(p, *, beta=0.1):
    return -beta * p.delta_B[:, None]

@preference_loss(reference=False, read=read_rewards)
def reward(p):
    return jnp.sum(p.rejected_B - p.chosen_B)

@unpaired_loss
def answer(a, *, beta=0.1):
    return -beta * a.ratio_B[:, None]

@token_loss
def token(logits_NV, targets_N):
    return logits_NV

@preference_loss
def typo(p):
    return -p.delta

@preference_loss
def branch(p):
    return p.delta_B if p.delta_B[0] > 0 else -p.delta_B

@preference_loss
def forgotten(p):
    return -jax.nn.log_sigmoid(p.delta_B)

@preference_loss(needs=("kl", "log_sum_sq"))
def reads_all(p, *, beta=0.1):
    c, r = p.chosen_tokens, p.rejected_tokens
    return c.sum(c.kl_BT + c.ref_logps_BT) + r.sum(r.log_sum_sq_BT) + beta * p.delta_B

@policy_loss
def completion(p, *, epsilon=0.2):
    return -jnp.mean(p.ratio_BT * p.advantages_BT, axis=1)

@policy_loss
def unseen(p):
    return -p.ratio_BT * p.advantages_BT, {"cut": jnp.mean(p.ratio_BT)}

@policy_loss
def lonely(p):
    return p.policy_BT - p.ref_BT

@policy_loss(reference=True, needs=("entropy",))
def own_kl(p, *, beta=0.1, top_entropy_quantile=0.5):
    return -p.ratio_BT * p.advantages_BT + beta * (p.policy_BT - p.ref_BT) - p.entropy_BT

def number(model, batch, key=None):
    return 3.0

def unsummed(model, batch, key=None):
    return {"loss": Mean(jnp.ones(4), jnp.ones(4))}
"""


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("column", "own.py:column returned [8, 1]; one number per pair, [8], is wanted"),
        ("reward", "own.py:reward returned a scalar; one number per pair, [8], is wanted"),
        ("answer", "own.py:answer returned [8, 1]; one number per answer, [8], is wanted"),
        ("token", "own.py:token returned [8, 6]; one number per token, [8], is wanted"),
        ("completion", "own.py:completion returned [8]; one number per token, [8, 5], is wanted"),
        ("unseen", "own.py:unseen returned 'cut' to log, which is neither [B, T] nor [B]"),
        ("lonely", "does not run on tokens: TypeError: unsupported operand type(s) for -"),
        ("typo", "AttributeError: 'PairLogps' object has no attribute 'delta'"),
        ("typo", "(own.py:24 in typo); `python -m jaxllm losses --fields` lists what there is"),
        ("branch", "does not run on pairs: jax.errors.TracerBoolConversionError: Attempted boolean conversion"),
        ("forgotten", "NameError: name 'jax' is not defined (own.py:32 in forgotten): add `import jax`"),
    ],
)
def test_a_file_is_tried_before_anything_is_loaded(tmp_path, monkeypatch, name, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(InputError) as error:
        resolve(f"own.py:{name}")
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unknown_mean_is_refused():
    with pytest.raises(InputError, match=r"reduction='token'\): give one of token mean, .*; did you mean token mean\?"):
        policy_loss(reduction="token")


def test_a_policy_loss_that_has_an_argument_itself_is_left_to_use_it(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    loss = resolve(f"{tmp_path}/own.py:own_kl", beta=0.3)
    assert loss.reference
    assert loss.needs == ("entropy",)
    assert set(loss.own) == {"beta", "top_entropy_quantile"}
    assert set(loss.shared) == {
        "entropy_coef", "off_policy_mask_threshold", "vllm_importance_sampling_mode",
        "vllm_importance_sampling_clip_max", "vllm_importance_sampling_clip_min",
    }  # fmt: skip
    old, entropy = jnp.log(jnp.array([[0.5, 0.25]])), jnp.array([[1.0, 2.0]])
    p = PolicyLogps.of(old, None, jnp.ones((1, 2)), [2.0], ref_BT=old + 1, entropy_BT=entropy)
    assert float(loss.mean(p)) == pytest.approx(-2.0 + 0.3 * -1 - 1.5)


def test_what_is_right_passes_the_trial(tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    for arguments in ({}, {"use_weighting": True, "f_divergence": "forward_kl", "ld_alpha": 0.5}):
        assert resolve(f"{tmp_path}/own.py:reads_all", **arguments).needs == ("kl", "log_sum_sq")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("number", r'returned a float; a dictionary with "loss": Mean\(total, count\) is wanted'),
        ("unsummed", r"returned 'loss' as sums of shape \[4\]; scalars are wanted"),
    ],
)
def test_a_function_of_model_and_batch_returns_sums(tmp_path, name, message):
    (tmp_path / "own.py").write_text(OWN)
    with pytest.raises(InputError, match=message):
        resolve(f"{tmp_path}/own.py:{name}")(None, None)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("@preference_loss\ndef f(p):\n    return p.delta_B\n", "from jaxllm.losses import preference_loss"),
        ("@token_loss\ndef f(x, y):\n    return x\n", "from jaxllm.losses import token_loss"),
        ("f = jnp.zeros\n", "import jax.numpy as jnp"),
    ],
)
def test_the_import_that_is_missing_is_named(tmp_path, source, message):
    (tmp_path / "own.py").write_text(source)
    with pytest.raises(InputError) as error:
        resolve(f"{tmp_path}/own.py:f")
    assert f"own.py:1 in <module>): add `{message}`" in str(error.value)


def test_a_syntax_error_has_its_line(tmp_path):
    (tmp_path / "own.py").write_text("import jax\ndef f(:\n")
    with pytest.raises(InputError, match=r"does not import: SyntaxError: invalid syntax \(line 2\)"):
        resolve(f"{tmp_path}/own.py:f")
