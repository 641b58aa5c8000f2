"""The smoke test that one graph serves torch's machinery too: FSDP2 on two ranks, a LoRA leaf, a compiled layer, a
fused override."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

from ingot.model import Targets, build  # noqa: E402
from ingot.model.gated_delta_net import delta_mixer  # noqa: E402
from ingot.ops import Segments, reference  # noqa: E402
from ingot.ops.autograd import OpSet  # noqa: E402
from tests.model.small import small_config, weights  # noqa: E402
from tests.tolerance import OP_SETS_OF_SCALE  # noqa: E402

CONFIG = small_config()
LENGTHS = [37, 5, 70]


class LoRA(nn.Module):
    """A matrix leaf with a low-rank correction, as an adapter would wrap it."""

    def __init__(self, base: nn.Module, rank: int = 3) -> None:
        super().__init__()
        out_features, in_features = base.weight.shape
        self.base = base
        self.a = nn.Parameter(torch.full((rank, in_features), 0.01))
        self.b = nn.Parameter(torch.full((out_features, rank), 0.02))

    def forward(self, x):
        return self.base(x) + x @ self.a.T @ self.b.T


def model(trainable=True, lora=True):
    ops = OpSet(trainable=trainable)
    root = build(CONFIG, ops, weights(), components=("text", "mtp"))
    if lora:
        for layer in root.model.layers[:2]:
            layer.linear_attn.in_proj_qkv = LoRA(layer.linear_attn.in_proj_qkv)
    return ops, root


def batch():
    ids = torch.from_numpy(np.random.default_rng(1).integers(0, CONFIG.text.vocab_size, sum(LENGTHS)))
    weight = torch.ones(len(ids))
    targets = Targets(ids.roll(-1), weight, ids.roll(-2), weight)
    return ids, Segments.of_lengths(LENGTHS), targets


def losses_and_grads(ops, root):
    ids, seg, targets = batch()
    loss, draft_loss = root(ops, ids, seg, targets=targets)
    (loss + draft_loss).backward()
    grads = {n: p.grad for n, p in root.named_parameters()}
    return float(loss.detach()), grads


def test_state_dict_is_the_checkpoint():
    from ingot.spec import weights_table

    _, root = model(lora=False)
    state, table = root.state_dict(), weights_table(CONFIG)
    assert set(state) == set(table)
    assert all(tuple(state[n].shape) == table[n].shape for n in table)


def test_packed_equals_separate_with_gradients():
    ops, root = model(lora=False)
    ids, seg, targets = batch()
    sum(root(ops, ids, seg, targets=targets)).backward()
    packed = {n: p.grad.clone() for n, p in root.named_parameters()}
    root.zero_grad()
    for begin, end in zip(seg.offset[:-1], seg.offset[1:], strict=True):
        part = slice(int(begin), int(end))
        cut = Targets(*(t[part] for t in (targets.next_T, targets.weight_T, targets.after_T, targets.after_weight_T)))
        sum(root(ops, ids[part], Segments.of_lengths([part.stop - part.start]), targets=cut)).backward()
    for name, parameter in root.named_parameters():
        scale = packed[name].abs().max()
        assert (parameter.grad - packed[name]).abs().max() <= OP_SETS_OF_SCALE * scale, name


def test_torch_gradient_equals_finite_differences_of_the_reference():
    ops, root = model(lora=False)
    ids, seg, targets = batch()
    plain = build(CONFIG, reference, weights(), components=("text",))

    def loss_of(array):
        logits = plain(reference, ids.numpy(), seg).astype(np.float64)
        logits -= logits.max(-1, keepdims=True)
        picked = np.take_along_axis(logits, targets.next_T.numpy()[:, None], 1)[:, 0]
        return float((np.log(np.exp(logits).sum(-1)) - picked).sum())

    root(ops, ids, seg, targets=Targets(targets.next_T, targets.weight_T))[0].backward()
    for path in ("linear_attn.A_log", "linear_attn.dt_bias", "linear_attn.norm.weight", "input_layernorm.weight"):
        node, name = plain.model.layers[0], path
        while "." in name:
            first, name = name.split(".", 1)
            node = getattr(node, first)
        array = getattr(node, name)
        direction = np.random.default_rng(0).standard_normal(array.shape).astype(np.float32)
        step, kept = 2e-3, array.copy()
        array[:] = kept + step * direction
        up = loss_of(array)
        array[:] = kept - step * direction
        down = loss_of(array)
        array[:] = kept
        want = (up - down) / (2 * step)
        got = float((root.get_parameter(f"model.layers.0.{path}").grad.numpy() * direction).sum())
        assert got == pytest.approx(want, rel=2e-2, abs=2e-2), path


def test_lora_leaf_is_used_and_collects_gradients():
    ops, root = model()
    plain_ops, plain = model(lora=False)
    loss, grads = losses_and_grads(ops, root)
    assert loss != losses_and_grads(plain_ops, plain)[0]
    assert grads["model.layers.0.linear_attn.in_proj_qkv.b"].abs().max() > 0


def test_compiled_layers_equal_eager():
    ops, root = model()
    want, want_grads = losses_and_grads(ops, root)
    ops, root = model()
    for i in (2, 3):  # a linear layer and a full one
        root.model.layers[i].compile(backend="aot_eager")
    got, grads = losses_and_grads(ops, root)
    assert got == pytest.approx(want, rel=1e-5)
    for name, grad in want_grads.items():
        assert (grads[name] - grad).abs().max() <= OP_SETS_OF_SCALE * max(1e-3, float(grad.abs().max())), name


def test_op_set_override_replaces_the_composite():
    calls = []
    fused = SimpleNamespace(**{n: getattr(reference, n) for n in dir(reference) if not n.startswith("_")})

    def own_delta_mixer(w, x_TD, seg, pool=None):
        calls.append(len(x_TD))
        return delta_mixer(reference, w, x_TD, seg, pool)

    fused.delta_mixer = own_delta_mixer
    root = build(CONFIG, fused, weights())
    ids, seg, _ = batch()
    want = build(CONFIG, reference, weights())(reference, ids.numpy(), seg)
    assert np.array_equal(root(fused, ids.numpy(), seg), want)
    assert calls == [sum(LENGTHS)] * 3


def _rank(rank: int, port: int, queue) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh("cpu", (2,))
    ops, root = model()
    root.model.layers[2].compile(backend="aot_eager")
    for layer in [*root.model.layers, root.mtp]:
        fully_shard(layer, mesh=mesh)
    fully_shard(root, mesh=mesh)
    loss, grads = losses_and_grads(ops, root)
    whole = {n: g.full_tensor().numpy() for n, g in grads.items()}
    if rank == 0:
        queue.put((loss, whole))
    torch.distributed.destroy_process_group()


def test_fsdp2_on_two_ranks_equals_one():
    """Both ranks see the same batch, so the averaged gradients must be those of one process: sharding changed
    nothing."""
    want_loss, want = losses_and_grads(*model())
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("spawn")
    queue = context.Queue()
    processes = [context.Process(target=_rank, args=(rank, port, queue)) for rank in range(2)]
    for process in processes:
        process.start()
    loss, grads = queue.get(timeout=240)
    for process in processes:
        process.join(60)
        assert process.exitcode == 0
    assert loss == pytest.approx(want_loss, rel=1e-5)
    assert set(grads) == set(want)
    for name, grad in want.items():
        assert np.abs(grads[name] - grad.numpy()).max() <= OP_SETS_OF_SCALE * max(1e-3, float(grad.abs().max())), name
