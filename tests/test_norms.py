"""The normalization modules against their equations written naively, and against torch's own layers."""

import copy
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from reidgen.models import SNR, norms
from reidgen.models.norms import InstanceBatchNorm2d, InstanceNorm2d, SNRConv, SwitchableNorm2d

NORMS = [SNR, lambda channels: SNR(channels, gates=2), SNRConv, InstanceNorm2d, SwitchableNorm2d]


def random_snr(channels: int, module: nn.Module) -> nn.Module:
    """Give every parameter a random value, so that no identity holds by the start alone."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.5 + 0.1)
    return module


def naive(module: SNR | SNRConv, map_BCHW: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return F~, R+, R- and F~+ as the paper writes them, by maps, with torch's InstanceNorm."""
    channels = map_BCHW.shape[1]
    norm = nn.functional.instance_norm(map_BCHW, weight=module.weight, bias=module.bias, eps=module.eps)
    removed = map_BCHW - norm
    if isinstance(module, SNRConv):
        plus, minus = module.plus(removed), module.minus(removed)
    else:
        gate = module.gate(removed.mean((2, 3))).view(-1, channels, 1, 1)
        plus, minus = gate * removed, (1 - gate) * removed
        if module.gate_minus is not None:
            minus = module.gate_minus(removed.mean((2, 3))).view(-1, channels, 1, 1) * removed
    return norm, plus, minus, norm + plus


@pytest.mark.parametrize("gates", [1, 2])
@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_snr_equals_the_equations_written_naively_in_value_and_gradient(gates: int, offset: float) -> None:
    torch.manual_seed(0)
    snr = random_snr(32, SNR(32, gates=gates))
    inputs = [(torch.randn(4, 32, 6, 3) * 2 + offset).requires_grad_() for _ in range(2)]
    inputs[1].data.copy_(inputs[0].data)
    weight = torch.randn(4, 32, 6, 3)

    fast = snr(inputs[0])
    assert snr.offered is not None
    pooled = snr.offered
    ((fast * weight).sum() + pooled.restored.square().sum() + pooled.contaminated.square().sum()).backward()
    fast_grads = [parameter.grad.clone() for parameter in snr.parameters()]
    snr.zero_grad()

    norm, _, minus, restored = naive(snr, inputs[1])
    contaminated = norm + minus
    (
        (restored * weight).sum() + restored.mean((2, 3)).square().sum() + contaminated.mean((2, 3)).square().sum()
    ).backward()
    torch.testing.assert_close(fast, restored, rtol=1e-5, atol=1e-4)
    torch.testing.assert_close(pooled.normalized, norm.mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled.restored, restored.mean((2, 3)), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(pooled.contaminated, contaminated.mean((2, 3)), rtol=1e-5, atol=1e-5)
    for found, expected in ((fast, restored), (inputs[0].grad, inputs[1].grad)):
        assert (found - expected).norm() < 1e-5 * expected.norm()
    for (name, parameter), grad in zip(snr.named_parameters(), fast_grads, strict=True):
        assert (grad - parameter.grad).norm() < 1e-5 * parameter.grad.norm(), name


def test_snr_conv_equals_the_equations_written_naively() -> None:
    torch.manual_seed(0)
    module = random_snr(16, SNRConv(16))
    images = torch.randn(4, 16, 6, 3)
    out = module(images)
    norm, _, minus, restored = naive(module, images)
    torch.testing.assert_close(out, restored, rtol=1e-5, atol=1e-5)
    assert module.offered is not None
    torch.testing.assert_close(module.offered.contaminated, (norm + minus).mean((2, 3)), rtol=1e-5, atol=1e-5)
    assert module.eval()(images).shape == images.shape


def test_the_pooled_style_normalized_feature_is_the_bias() -> None:
    snr = random_snr(32, SNR(32))
    snr(torch.randn(5, 32, 7, 4) * 3 + 2)
    assert torch.equal(snr.offered.normalized, snr.bias.detach().expand(5, 32))
    norm, *_ = naive(snr, torch.randn(5, 32, 7, 4) * 3 + 2)
    torch.testing.assert_close(norm.mean((2, 3)), snr.bias.expand(5, 32), rtol=0, atol=1e-5)


def test_restored_and_contaminated_parts_sum_to_what_was_removed() -> None:
    """R+ + R- = R, pooled: f~+ + f~- = bias + pool(F)."""
    snr, images = random_snr(32, SNR(32)), torch.randn(5, 32, 7, 4) + 1
    snr(images)
    total = snr.offered.restored + snr.offered.contaminated
    torch.testing.assert_close(total, snr.bias + images.mean((2, 3)), rtol=1e-5, atol=1e-5)
    _, plus, minus, _ = naive(snr, images)
    norm = nn.functional.instance_norm(images, weight=snr.weight, bias=snr.bias)
    torch.testing.assert_close(plus + minus, images - norm, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("make", NORMS)
def test_gradients_equal_finite_differences(make: Callable[[int], nn.Module]) -> None:
    torch.manual_seed(0)
    module = random_snr(4, make(4)).double()
    images = (torch.randn(3, 4, 3, 2, dtype=torch.float64) * 2 + 1).requires_grad_()
    names, parameters = zip(*module.named_parameters(), strict=True)

    def run(map_BCHW: Tensor, *values: Tensor) -> tuple[Tensor, ...]:
        out = torch.func.functional_call(module, dict(zip(names, values, strict=True)), map_BCHW)
        pooled = getattr(module, "offered", None)
        return out, *(pooled[1:] if pooled else ())

    assert torch.autograd.gradcheck(run, (images, *parameters))


@pytest.mark.parametrize("make", NORMS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_any_layout_and_bfloat16_give_the_same(make: Callable[[int], nn.Module], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    module = random_snr(16, make(16))
    start, weight = (torch.randn(4, 16, 6, 3).to(dtype) for _ in range(2))
    rounding = 0.1 if make is SNRConv else 0.03  # of the norm; its convolutions add theirs
    bound = 1e-5 if dtype == torch.float32 else rounding
    expected = None
    for layout in ("float32", "contiguous", "channels last", "turned"):
        images = start.float() if layout == "float32" else start.clone()
        if layout == "channels last":
            images = images.contiguous(memory_format=torch.channels_last)
        elif layout == "turned":
            images = images.transpose(2, 3).contiguous().transpose(2, 3)
        images.requires_grad_()
        with torch.autocast("cpu", dtype=torch.bfloat16, enabled=dtype == torch.bfloat16 and layout != "float32"):
            out = module(images)
        (grad,) = torch.autograd.grad((out * weight.to(out.dtype)).sum(), images)
        assert out.dtype == images.dtype and out.stride() == images.stride()
        expected = expected or (out.float(), grad.float())
        for found, value in zip((out, grad), expected, strict=True):
            assert (found.float() - value).norm() < bound * value.norm(), layout


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("make", [lambda channels: SNR(channels), InstanceNorm2d, SwitchableNorm2d])
def test_a_mean_far_above_the_deviation_costs_no_precision(
    make: Callable[[int], nn.Module], layout: torch.memory_format
) -> None:
    """The same in float64 is the truth."""
    torch.manual_seed(0)
    module = random_snr(8, make(8))
    images, weight = torch.randn(4, 8, 32, 16) * 2 + 100, torch.randn(4, 8, 32, 16)
    found = []
    for dtype in (torch.float32, torch.float64):
        inputs = images.to(dtype).contiguous(memory_format=layout).requires_grad_()
        found.append(torch.autograd.grad((module.to(dtype)(inputs) * weight.to(dtype)).sum(), inputs)[0])
    assert (found[0] - found[1]).norm() < 1e-4 * found[1].norm()


def test_a_mixture_of_switchable_norm_equals_its_equation() -> None:
    torch.manual_seed(0)
    switch = random_snr(6, SwitchableNorm2d(6))
    images = torch.randn(4, 6, 5, 3) * torch.tensor([1e-4, 1, 2, 3, 4, 5]).view(1, 6, 1, 1) + torch.randn(4, 6, 1, 1)
    means = [images.mean(dim, keepdim=True) for dim in ((2, 3), (1, 2, 3), (0, 2, 3))]
    variances = [images.var(dim, correction=0, keepdim=True) for dim in ((2, 3), (1, 2, 3), (0, 2, 3))]
    mean, var = (
        sum(w * value for w, value in zip(torch.softmax(weights, 0), values, strict=True))
        for weights, values in ((switch.mean_weight, means), (switch.var_weight, variances))
    )
    scale, bias = (values.view(1, 6, 1, 1) for values in (switch.weight, switch.bias))
    expected = (images - mean) / (var + switch.eps).sqrt() * scale + bias
    torch.testing.assert_close(switch(images), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("offset", [0.0, 5.0])
def test_instance_norm_equals_torch(offset: float) -> None:
    torch.manual_seed(0)
    ours, torchs = random_snr(6, InstanceNorm2d(6)), nn.InstanceNorm2d(6, affine=True)
    torchs.load_state_dict(ours.state_dict())
    images, weight = torch.randn(4, 6, 5, 3) * 2 + offset, torch.randn(4, 6, 5, 3)
    found = []
    for module in (ours, torchs):
        inputs = images.clone().requires_grad_()
        (module(inputs) * weight).sum().backward()
        found.append((module(inputs), inputs.grad, module.weight.grad, module.bias.grad))
    torch.testing.assert_close(*found, rtol=1e-5, atol=1e-5)


def test_snr_fits_behind_any_convolution_and_says_what_does_not_fit() -> None:
    body = nn.Sequential(nn.Conv2d(3, 24, 3), SNR(24), nn.ReLU(), nn.Conv2d(24, 8, 3), SNR(8))
    body(torch.randn(2, 3, 16, 16)).sum().backward()
    with pytest.raises(ValueError, match=r"24 channels needs \(B, 24, H, W\); got \(2, 8, 4, 4\)"):
        SNR(24)(torch.randn(2, 8, 4, 4))


def test_snr_can_be_copied_after_training_and_forgets_in_evaluation() -> None:
    snr = SNR(8)
    snr(torch.randn(2, 8, 4, 4))
    assert snr.offered is not None and copy.deepcopy(snr).offered is None
    snr.eval()(torch.randn(2, 8, 4, 4))
    assert snr.offered is None


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["IN", "LN", "BN"])
def test_switchable_norm_equals_torch_at_its_three_extremes(kind: str, training: bool) -> None:
    torch.manual_seed(0)
    switch = SwitchableNorm2d(6)
    with torch.no_grad():
        switch.weight.uniform_(0.5, 2)
        switch.bias.uniform_(-1, 1)
        for shares in (switch.mean_weight, switch.var_weight):
            shares.fill_(-200)
            shares[["IN", "LN", "BN"].index(kind)] = 200
    reference: nn.Module
    if kind == "IN":
        reference = nn.InstanceNorm2d(6, affine=True)
    elif kind == "LN":
        reference = nn.GroupNorm(1, 6)  # Layer Norm over channels and positions
    else:
        reference = nn.BatchNorm2d(6)
    reference.weight, reference.bias = switch.weight, switch.bias
    for _ in range(3):  # running averages of several batches
        batch = torch.randn(4, 6, 5, 3) * 2 + 1
        switch(batch), reference(batch)
    switch.train(training), reference.train(training)
    if kind == "IN":
        reference.train()  # has no running statistics
    torch.testing.assert_close(switch(batch), reference(batch), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_ibn_a_is_instance_norm_of_the_first_half_and_batch_norm_of_the_rest(layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    norm, (split, channels) = random_snr(7, InstanceBatchNorm2d(7)), (3, 7)
    theirs = nn.InstanceNorm2d(split, affine=True), nn.BatchNorm2d(channels - split)
    theirs[0].load_state_dict(norm.IN.state_dict())
    theirs[1].load_state_dict(norm.BN.state_dict())
    map_BCHW = torch.randn(4, channels, 6, 3).to(memory_format=layout)
    map_BCHW[:, -1] *= 1e-3  # of a variance below eps
    for train in (True, False):
        wanted = torch.cat(
            [half.train(train)(x) for half, x in zip(theirs, map_BCHW.split([3, 4], 1), strict=True)], dim=1
        )
        found = norm.train(train)(map_BCHW)
        torch.testing.assert_close(found, wanted)
        assert found.is_contiguous(memory_format=layout)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        short = norm(map_BCHW.bfloat16())
    assert short.dtype == torch.bfloat16 and short.is_contiguous(memory_format=layout)
    torch.testing.assert_close(short.float(), wanted, rtol=0.03, atol=0.03)
    assert not torch.equal(norm.BN.running_mean, torch.zeros(4)) and norm.BN.num_batches_tracked == 1
    assert set(norm.state_dict()) == {
        *("IN.weight", "IN.bias", "BN.weight", "BN.bias"),  # the names of published weights
        *("BN.running_mean", "BN.running_var", "BN.num_batches_tracked"),
    }


@pytest.mark.parametrize("half", ["IN", "BN"])
def test_ibn_a_asks_a_norm_that_does_more_than_its_own(half: str) -> None:
    class Doubled(nn.BatchNorm2d if half == "BN" else InstanceNorm2d):  # type: ignore[misc]
        def forward(self, map_BCHW: Tensor) -> Tensor:
            return 2 * super().forward(map_BCHW)

    norm, map_BCHW = random_snr(6, InstanceBatchNorm2d(6)), torch.randn(4, 6, 5, 3)
    plain = norm(map_BCHW)
    doubled = Doubled(3)
    doubled.load_state_dict(getattr(norm, half).state_dict())
    setattr(norm, half, doubled)
    factor = torch.tensor([2.0, 2, 2, 1, 1, 1] if half == "IN" else [1.0, 1, 1, 2, 2, 2])[:, None, None]
    torch.testing.assert_close(norm(map_BCHW), factor * plain)


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_moments_of_a_large_map_are_those_of_each_image(layout: torch.memory_format) -> None:
    map_BCHW = (torch.randn(9, 64, 64, 16) + torch.arange(9.0)[:, None, None, None]).to(memory_format=layout)
    _, mean_BC, variance_BC = norms.moments(map_BCHW, 64)
    variance, mean = torch.var_mean(map_BCHW.double(), dim=(2, 3), correction=0)
    torch.testing.assert_close(mean_BC, mean.float(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(variance_BC, variance.float(), rtol=1e-5, atol=0)


def test_ibn_a_takes_over_a_batch_norm_by_halves() -> None:
    batch_norm = random_snr(6, nn.BatchNorm2d(6))
    batch_norm(torch.randn(4, 6, 5, 3) + 2)  # so that it has seen a batch
    norm = InstanceBatchNorm2d(6)
    norm.take_over(batch_norm)
    assert torch.equal(norm.IN.weight, batch_norm.weight[:3]) and torch.equal(norm.IN.bias, batch_norm.bias[:3])
    assert torch.equal(norm.BN.weight, batch_norm.weight[3:]) and torch.equal(norm.BN.bias, batch_norm.bias[3:])
    assert torch.equal(norm.BN.running_mean, batch_norm.running_mean[3:])
    map_BCHW = torch.randn(2, 6, 5, 3)
    torch.testing.assert_close(norm.eval()(map_BCHW)[:, 3:], batch_norm.eval()(map_BCHW)[:, 3:])
    with pytest.raises(ValueError, match="2 at least; got 1"):
        InstanceBatchNorm2d(1)
