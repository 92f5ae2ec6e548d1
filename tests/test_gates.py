"""Batch-Instance Norm and squeeze-and-excitation against torch's own layers and their equations."""

import pytest
import torch
from torch import nn

from reidgen.models.gates import BatchInstanceNorm2d, SqueezeExcite


def moved(module: nn.Module) -> None:
    """Give every parameter but the gate a value of its own."""
    torch.manual_seed(1)
    for name, parameter in module.named_parameters():
        if name != "gate":
            nn.init.normal_(parameter, 1, 0.3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("gate", [1.0, 0.0])
def test_at_its_ends_it_is_torchs_batch_or_instance_norm(gate: float, training: bool) -> None:
    ours = BatchInstanceNorm2d(6)
    moved(ours)
    nn.init.constant_(ours.gate, gate)
    theirs: nn.Module = nn.BatchNorm2d(6) if gate else nn.InstanceNorm2d(6, affine=True)
    state = ours.state_dict()
    names = ("weight", "bias") if gate else ("instance_weight", "instance_bias")
    theirs.load_state_dict({"weight": state[names[0]], "bias": state[names[1]]}, strict=False)
    ours.train(training), theirs.train(training)
    torch.manual_seed(0)
    images, weight = torch.randn(4, 6, 5, 3) * 2 + 3, torch.randn(4, 6, 5, 3)
    found = []
    for module in (ours, theirs):
        inputs = images.clone().requires_grad_()
        out = module(inputs)
        (out * weight).sum().backward()
        found.append((out, inputs.grad))
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-4)
    if gate:
        assert isinstance(theirs, nn.BatchNorm2d)
        torch.testing.assert_close(ours.running_mean, theirs.running_mean)
        torch.testing.assert_close(ours.running_var, theirs.running_var)


def test_between_them_it_is_their_sum_and_its_gradients_are_finite_differences() -> None:
    ours = BatchInstanceNorm2d(3).double()
    moved(ours)
    with torch.no_grad():
        ours.gate.copy_(torch.tensor([0.2, 0.5, 0.9]))
    batch, instance = nn.BatchNorm2d(3).double(), nn.InstanceNorm2d(3, affine=True).double()
    for theirs, names in ((batch, ("weight", "bias")), (instance, ("instance_weight", "instance_bias"))):
        theirs.weight.data, theirs.bias.data = (getattr(ours, name).data for name in names)
    torch.manual_seed(0)
    images = torch.randn(3, 3, 4, 2, dtype=torch.float64)
    gate = ours.gate.view(1, 3, 1, 1)
    torch.testing.assert_close(ours(images), gate * batch(images) + (1 - gate) * instance(images))
    names, values = zip(*ours.named_parameters(), strict=True)

    def run(images: torch.Tensor, *values: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = torch.func.functional_call(ours, dict(zip(names, values, strict=True)), images)
        return out

    assert torch.autograd.gradcheck(run, (images.requires_grad_(), *values))


def test_it_starts_as_the_norm_that_it_replaces_and_its_gate_is_clamped() -> None:
    norm = nn.BatchNorm2d(4)
    moved(norm)
    norm(torch.randn(8, 4, 3, 3) + 2)
    ours = BatchInstanceNorm2d(4)
    ours.take_over(norm)
    images = torch.randn(2, 4, 3, 3)
    torch.testing.assert_close(ours.eval()(images), norm.eval()(images), rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        ours.gate.copy_(torch.tensor([-1.0, 0.3, 1.0, 7.0]))
    ours.after_step()
    torch.testing.assert_close(ours.gate.detach(), torch.tensor([0.0, 0.3, 1.0, 1.0]))
    assert dict(ours.rates) == {"gate": 20.0}


def test_squeeze_and_excitation_equals_its_equation_before_pooling() -> None:
    """Before average pooling it scales the pooled vector: that is why it is the control for SNR at stage 4."""
    torch.manual_seed(0)
    module, images = SqueezeExcite(8), torch.randn(3, 8, 4, 2)
    pooled = images.mean((2, 3))
    gate = torch.sigmoid(module.gate[2](torch.relu(module.gate[0](pooled))))
    torch.testing.assert_close(module(images), images * gate[:, :, None, None])
    torch.testing.assert_close(module(images).mean((2, 3)), pooled * gate)


def test_what_means_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="rate must be at least 0"):
        BatchInstanceNorm2d(4, rate=-1.0)
    with pytest.raises(ValueError, match="reduction must be at least 1"):
        SqueezeExcite(4, reduction=0)
