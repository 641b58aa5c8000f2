"""The hand-written gradients against autograd's own, and the isolation of packed runs."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from ingot.ops.autograd import OpSet  # noqa: E402
from ingot.ops.segments import Segments  # noqa: E402
from ingot.train.fused import FusedOpSet  # noqa: E402

LENGTHS = ([5, 17, 30, 64, 1, 33], [3, 70, 140, 20], [1], [2, 3])  # one chunk each; several; the shortest
H, G, K, V, D, W = 6, 2, 5, 7, 11, 4
# fp32 sums of up to 250 terms in another order
CLOSE = {"rtol": 1e-4, "atol": 2e-5}


def pair(lengths, make):
    """(values, gradients) of both op sets for the same inputs; `make(ops, seg, leaf)` gives one output."""
    results = []
    for kind in (OpSet, FusedOpSet):
        ops = kind(trainable=True)
        random = torch.Generator().manual_seed(3)
        leaves = []

        def leaf(*shape, random=random, leaves=leaves):
            leaves.append(torch.randn(shape, generator=random).requires_grad_())
            return leaves[-1]

        out = make(ops, ops.segments(Segments.of_lengths(lengths)), leaf)
        grads = torch.autograd.grad(out, leaves, torch.randn(out.shape, generator=random))
        results.append((out.detach(), grads))
    return results


def assert_same(lengths, make):
    (value, grads), (fused, fused_grads) = pair(lengths, make)
    torch.testing.assert_close(fused, value, **CLOSE)
    for grad, fused_grad in zip(grads, fused_grads, strict=True):
        torch.testing.assert_close(fused_grad, grad, **CLOSE)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_gated_delta_rule(lengths):
    tokens = sum(lengths)

    def make(ops, seg, leaf):
        q, k = (ops.l2_norm(leaf(tokens, G, K), scale) for scale in (K**-0.5, 1.0))
        log_decay, beta = ops.delta_gates(leaf(tokens, H), leaf(tokens, H), leaf(H), leaf(H))
        return ops.gated_delta_rule(q, k, leaf(tokens, H, V), log_decay, beta, seg)

    assert_same(lengths, make)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_convolution(lengths):
    assert_same(lengths, lambda ops, seg, leaf: ops.causal_conv1d(leaf(sum(lengths), D), leaf(D, W), seg))


@pytest.mark.parametrize("one_plus", [False, True])
def test_norms(one_plus):
    assert_same([9], lambda ops, seg, leaf: ops.rms_norm(leaf(9, D), leaf(D), 1e-6, one_plus))
    assert_same([9], lambda ops, seg, leaf: ops.rms_norm(leaf(9, H, V), leaf(V), 1e-6, one_plus))
    assert_same([9], lambda ops, seg, leaf: ops.gated_rms_norm(leaf(9, H, V), leaf(9, H, V), leaf(V), 1e-6))


def test_products():
    assert_same([9], lambda ops, seg, leaf: ops.silu_mul(leaf(9, D), leaf(9, D)))


def test_loss_leaves_silent_tokens_out():
    target, weight = torch.arange(9) % 5, torch.tensor([0.0, 1.0, 0.0, 0.5, 1.0, 0.0, 0.0, 1.0, 0.0])

    def make(ops, seg, leaf):
        x, matrix = leaf(9, D), leaf(5, D)

        class Head:
            weight = matrix

            def __call__(self, x):
                return x @ matrix.T

        return ops.cross_entropy(x, Head(), target, weight)

    assert_same([9], make)


def test_a_run_is_not_touched_by_its_neighbours():
    random = torch.Generator().manual_seed(1)
    u, w = torch.randn(12, D, generator=random), torch.randn(D, W, generator=random)
    other = torch.cat([torch.randn(5, D, generator=random), u[5:]])
    ops = FusedOpSet()
    seg = ops.segments(Segments.of_lengths([5, 7]))
    assert torch.equal(ops.causal_conv1d(u, w, seg)[5:], ops.causal_conv1d(other, w, seg)[5:])


def test_a_gate_that_is_shut_still_has_its_gradient():
    def make(ops, seg, leaf):
        q, k, v = leaf(6, G, K), leaf(6, G, K), leaf(6, H, V)
        return ops.gated_delta_rule(q, k, v, torch.zeros(6, H), torch.relu(leaf(6, H)), seg)

    assert_same([6], make)
