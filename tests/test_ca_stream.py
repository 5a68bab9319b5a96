"""CA-Stream: its attention worked by hand and by a slow loop, and a training of nothing else."""

from __future__ import annotations

import math

import pytest
import torch
from captum.attr import LayerGradCam
from networks import assert_same, cnn, colors, everything, mixed_modes
from torch import Tensor, nn

from captum_masking import MaskingModel
from captum_masking.methods import CAStream
from captum_masking.methods.ca_stream import Stream
from captum_masking.model.files import CheckpointError
from captum_masking.training.callbacks import Callback
from captum_masking.training.checkpoint import Checkpoints


class Functional(nn.Module):
    """Pools by a function, so that no module says where."""

    def __init__(self) -> None:
        super().__init__()
        self.stages = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.Conv2d(4, 6, 3, 2))
        self.head = nn.Linear(6, 2)

    def forward(self, inputs: Tensor) -> Tensor:
        return self.head(self.stages(inputs).mean((2, 3)))


def drawn(module: nn.Module, seed: int = 0) -> nn.Module:
    """Give a module weights that no one chose."""
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for each in module.parameters():
            each.copy_(torch.randn(each.shape, generator=random))
    return module


def patches(labels: Tensor) -> Tensor:
    """Dark pictures (B, 3, 8, 8), with a patch of the label's color in a corner at random."""
    pictures = 0.1 * torch.rand(len(labels), 3, 8, 8)
    corners = 4 * torch.randint(2, (len(labels), 2))
    for picture, label, (row, column) in zip(pictures, labels, corners.tolist(), strict=True):
        picture[label, row : row + 4, column : column + 4] += 1
    return pictures


def test_one_cell_of_two_holds_three_quarters_of_the_attention():
    stream = Stream([1])
    nn.init.ones_(stream.token)
    token, scores = stream([torch.tensor([[[0.0, math.log(3)]]])])
    torch.testing.assert_close(scores, torch.tensor([[[0.0, math.log(3)]]]))
    torch.testing.assert_close(token, torch.tensor([[0.75 * math.log(3)]]))


def test_two_maps_worked_by_hand():
    stream = Stream([1, 4], project=True)
    with torch.no_grad():
        stream.token.fill_(0.0)  # even attention: the mean of 2 and 4
        stream.steps[0].weight.copy_(torch.tensor([[1.0], [0.0], [0.0], [0.0]]))
        stream.steps[0].bias.copy_(torch.tensor([-1.0, 0.0, 0.0, 0.0]))  # q = (2, 0, 0, 0)
        stream.project.bias.fill_(0.5)
    last = torch.tensor([[[0.0, math.log(2)], [6.0, 3.0], [0.0, 0.0], [0.0, 0.0]]])
    token, scores = stream([torch.tensor([[[2.0, 4.0]]]), last])
    torch.testing.assert_close(scores, torch.tensor([[[0.0, math.log(2)]]]))  # 2 x / sqrt(4)
    # Weights of 1/3 and 2/3, then the identity and one half.
    expected = torch.tensor([[2 / 3 * math.log(2), 4.0, 0.0, 0.0]]) + 0.5
    torch.testing.assert_close(token, expected)


@pytest.mark.parametrize("project", [True, False])
def test_it_agrees_with_a_slow_loop_over_cells(project):
    stream = drawn(Stream([2, 3, 5], project=project)).double()
    maps = [torch.randn(2, d, side, side + 1).double() for d, side in [(2, 4), (3, 2), (5, 3)]]
    token, found = stream(maps)
    steps = [*stream.steps, stream.project]
    for example in range(2):
        query = stream.token.tolist()
        for level, step in zip(maps, steps, strict=True):
            channels, rows, columns = level.shape[1:]
            scores = {}
            for place in [(r, c) for r in range(rows) for c in range(columns)]:
                cell = level[example, :, place[0], place[1]].tolist()
                dot = sum(q * f for q, f in zip(query, cell, strict=True))
                scores[place] = dot / math.sqrt(channels)
            total = sum(map(math.exp, scores.values()))
            pooled = [
                sum(math.exp(s) / total * float(level[example, k][p]) for p, s in scores.items())
                for k in range(channels)
            ]
            query = pooled
            if isinstance(step, nn.Linear):
                query = [
                    sum(w * v for w, v in zip(line, pooled, strict=True)) + bias
                    for line, bias in zip(step.weight.tolist(), step.bias.tolist(), strict=True)
                ]
        torch.testing.assert_close(token[example].tolist(), query)
        expected = torch.tensor([scores[r, c] for r in range(3) for c in range(4)]).double()
        torch.testing.assert_close(found[example, 0].flatten(), expected, atol=1e-5, rtol=1e-5)


def test_cells_in_another_order_give_their_scores_in_that_order_and_the_same_token():
    stream, maps = drawn(Stream([4, 6])), [torch.randn(2, 4, 9), torch.randn(2, 6, 5)]
    order = torch.tensor([3, 0, 4, 1, 2])
    token, scores = stream(maps)
    turned = stream([maps[0], maps[1][..., order]])
    torch.testing.assert_close(turned, (token, scores[..., order]))


@pytest.mark.parametrize("dims", [1, 2, 3])
def test_untrained_it_answers_as_the_classifier_and_looks_nowhere(dims):
    classifier, inputs = cnn(dims=dims).eval(), torch.randn(2, 3, *[12] * dims)
    method = CAStream(classifier, example_inputs=inputs)
    torch.testing.assert_close(method.network(inputs), classifier(inputs))
    assert not method.attribute(inputs).any()


def test_the_map_is_that_of_the_last_scores_from_0_to_1():
    method = CAStream(colors(), ["3"])
    with torch.no_grad():
        method.network.stream.token.copy_(torch.tensor([0.0, 1.0, 0.0]))  # looks for green
    inputs = torch.zeros(1, 3, 4, 4)
    inputs[0, 1, 0, 0], inputs[0, 0, 2, 2] = 2.0, 5.0  # the network reads every second pixel
    found = method.attribute(inputs)[0, 0]
    # Cells of 2, 0, 0 and 0 green: cells' middles lie between pixels, so that the corner is 1.
    weights = torch.tensor([1.0, 0.75, 0.25, 0.0])
    torch.testing.assert_close(found, weights[:, None] * weights)


@pytest.mark.parametrize("target", [None, 2, lambda logits: logits[:, 1]])
def test_a_map_takes_one_pass_of_the_classifier(target):
    classifier, calls = cnn(), []
    method = CAStream(classifier)
    handle = classifier[0].register_forward_hook(lambda *_: calls.append(1))
    method.attribute(torch.randn(2, 3, 16, 16), target=target)
    handle.remove()
    assert len(calls) == 1


def test_training_moves_all_of_the_stream_and_no_bit_of_the_classifier():
    classifier = mixed_modes(cnn())
    for each in classifier.parameters():
        each.grad = torch.ones_like(each)
    before, method = everything(classifier), CAStream(classifier, project=True)
    first = {n: p.clone() for n, p in method.network.stream.named_parameters()}
    labels = torch.tensor([0, 1, 2, 3])
    batches = [(torch.randn(4, 3, 16, 16), labels)] * 4
    records = method.trainer(lr=0.1).fit(
        batches, epochs=3, validation=batches[:1], show_progress=False
    )
    assert_same(before, everything(classifier))
    for name, weights in method.network.stream.named_parameters():
        assert not torch.equal(weights, first[name]), name
    assert records[-1]["classifier_loss"] < records[0]["classifier_loss"]
    assert {"clean", "val_clean", "val_masked_in"} <= records[-1].keys()


def test_a_step_keeps_no_graph_of_the_classifier():
    classifier = cnn().eval()
    method, seen = CAStream(classifier), []
    handle = classifier[5].register_forward_hook(lambda *a: seen.append(a[2].requires_grad))
    method.network(torch.randn(2, 3, 16, 16)).sum().backward()
    handle.remove()
    assert seen == [False]
    assert all(p.grad is None for p in classifier[:6].parameters())
    assert method.network.stream.token.grad is not None


def test_it_learns_to_look_where_the_evidence_is():
    torch.manual_seed(0)
    classifier = colors(sharpness=3.0)  # an average over the picture leaves it unsure
    method = CAStream(classifier)
    labels = torch.randint(3, (48,))
    batches = list(zip(patches(labels).split(16), labels.split(16), strict=True))
    inputs, target = patches(torch.arange(3)), torch.arange(3)
    before = nn.functional.cross_entropy(classifier(inputs), target)
    method.trainer(lr=0.03).fit(batches, epochs=20, show_progress=False)
    assert nn.functional.cross_entropy(method.network(inputs), target) < 0.8 * before
    shown = inputs.amax(1) > 0.5
    maps = method.attribute(inputs)[:, 0]
    assert maps[shown].mean() > 0.6 > 0.3 > maps[~shown].mean()


def test_a_training_goes_on_where_it_was_cut(tmp_path):
    class Cut(Callback):
        in_checkpoint = False

        def on_step(self, trainer, record):
            if trainer.steps_done == 5:
                raise ArithmeticError("cut")

    batches = [(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3])) for _ in range(4)]
    whole, cut, rest = (CAStream(cnn()) for _ in range(3))
    how = {"epochs": 2, "show_progress": False}
    whole.trainer().fit(batches, **how)
    saves = [Checkpoints(tmp_path, every=3)]
    with pytest.raises(ArithmeticError, match="cut"):
        cut.trainer().fit(batches, callbacks=[*saves, Cut()], **how)
    rest.trainer().fit(batches, callbacks=saves, resume=tmp_path, **how)
    assert_same(whole.network.state_dict(), rest.network.state_dict())


@pytest.mark.parametrize("project", [True, False])
def test_grad_cam_of_the_network_weighs_channels_as_the_projection_and_the_class_do(project):
    # Scores add nothing to the gradient's mean: sum_p a_p (z_p - sum_r a_r z_r) = 0.
    classifier, inputs = cnn().eval(), torch.randn(2, 3, 16, 16)
    method = CAStream(classifier, project=project)
    drawn(method.network.stream)
    found = LayerGradCam(method.network, classifier[5]).attribute(inputs, target=1)
    weights, maps = classifier[9].weight[1], classifier[:6](inputs)
    weights = weights @ method.network.stream.project.weight if project else weights
    expected = torch.einsum("d,bdhw->bhw", weights, maps)[:, None] / maps[0, 0].numel()
    torch.testing.assert_close(found, expected)


def test_batch_norm_of_a_network_in_train_mode_stays():
    classifier = cnn()
    network, before = CAStream(classifier).network.train(), classifier.state_dict()
    before = {name: value.clone() for name, value in before.items()}
    network(torch.randn(4, 3, 16, 16))
    assert_same(before, classifier.state_dict())


def test_what_a_function_pools_is_replaced_where_it_is_taken():
    classifier, inputs = Functional(), torch.randn(2, 3, 16, 16)
    with pytest.raises(ValueError, match=r"pool='fc.input'"):
        CAStream(classifier)
    method = CAStream(classifier, pool="head.input")
    torch.testing.assert_close(method.network(inputs), classifier(inputs))
    drawn(method.network.stream)
    assert not torch.allclose(method.network(inputs), classifier(inputs))


def test_a_layer_that_is_not_the_one_pooled_is_refused():
    with pytest.raises(ValueError, match="name the layer that is pooled last"):
        CAStream(cnn(), ["2"])


def test_what_is_saved_comes_back(tmp_path):
    classifier, inputs = cnn(), torch.randn(2, 3, 16, 16)
    method = CAStream(classifier, project=True)
    drawn(method.network.stream)
    method.save(tmp_path / "stream", notes={"epochs": 3})
    loaded = CAStream.load(tmp_path / "stream", classifier)
    assert torch.equal(loaded.attribute(inputs), method.attribute(inputs))
    assert torch.equal(loaded.network.eval()(inputs), method.network.eval()(inputs))
    with pytest.warns(UserWarning, match="other weights than this classifier's"):
        CAStream.load(tmp_path / "stream", cnn(seed=1))
    with pytest.raises(CheckpointError, match="does not fit"):
        CAStream.load(tmp_path / "stream", colors())
    with pytest.raises(CheckpointError, match="it has no model"):
        MaskingModel.load(tmp_path / "stream", classifier)
    with pytest.raises(CheckpointError, match=r"CAStream.save"):
        CAStream.load(tmp_path, classifier)


def test_the_same_seed_gives_the_same_stream_and_random_numbers_go_on():
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, other = (CAStream(cnn(), seed=3).network.stream for _ in range(2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(one.token, other.token)
    assert not torch.equal(one.token, CAStream(cnn(), seed=4).network.stream.token)


def test_one_input_is_explained():
    method, inputs = CAStream(cnn()), torch.randn(2, 3, 16, 16)
    with pytest.raises(TypeError, match="one tensor"):
        method.attribute((inputs, inputs))


def test_a_network_that_cannot_be_tapped_is_refused():
    with pytest.raises(TypeError, match="needs a module"):
        CAStream(lambda inputs: inputs.mean((2, 3)))
