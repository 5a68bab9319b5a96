"""Promises about choosing a few images of each class, and images of a few classes."""

from __future__ import annotations

import pickle
import random

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, Subset, TensorDataset

from captum_masking.data import BoxedImages, few_shot, labels_of, of_classes

LABELS = [2, 0, 1, 0, 2, 1, 1, 0, 2, 2, 0, 1]  # four images of each of three classes


@pytest.fixture
def dataset() -> TensorDataset:
    return TensorDataset(torch.arange(12.0), torch.tensor(LABELS))


class Targets(Dataset):
    """As torchvision's data sets: ``targets`` say the labels, reading an image is dear."""

    def __init__(self, targets, target_transform=None):
        self.targets, self.target_transform, self.reads = targets, target_transform, 0

    def __len__(self):
        return len(self.targets)

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(1), self.targets[index]


class Pairs(Dataset):
    """Nothing but images with labels."""

    def __init__(self, labels):
        self.given, self.reads = labels, 0

    def __len__(self):
        return len(self.given)

    def __getitem__(self, index):
        self.reads += 1
        return torch.zeros(1), self.given[index]


# What is chosen.


def test_there_are_per_class_images_of_each_class_and_none_twice(dataset):
    chosen = few_shot(dataset, 3)
    assert sorted(chosen.labels) == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert len(set(chosen.indices)) == len(chosen) == 9


def test_the_labels_are_those_of_the_images(dataset):
    chosen = few_shot(dataset, 2)
    assert [int(label) for _, label in chosen] == chosen.labels
    assert [LABELS[index] for index in chosen.indices] == chosen.labels


def test_a_smaller_choice_is_the_beginning_of_a_larger_one(dataset):
    choices = [few_shot(dataset, n, seed=5).indices for n in (1, 2, 3, 4)]
    for smaller, larger in zip(choices, choices[1:], strict=False):
        assert larger[: len(smaller)] == smaller


def test_the_same_seed_gives_the_same_images_and_another_seed_others(dataset):
    assert few_shot(dataset, 2, seed=3).indices == few_shot(dataset, 2, seed=3).indices
    assert len({tuple(few_shot(dataset, 2, seed=seed).indices) for seed in range(10)}) > 5


def test_every_image_of_a_class_is_as_likely_as_any_other(dataset):
    seeds = 400
    counts = dict.fromkeys(range(12), 0)
    for seed in range(seeds):
        for index in few_shot(dataset, 1, seed=seed).indices:
            counts[index] += 1
    # Binomial with p = 1/4: 100 +- 8.7; five standard deviations.
    assert all(abs(count - seeds / 4) < 5 * 8.7 for count in counts.values()), counts


def test_leaving_out_a_class_does_not_change_the_images_of_the_others(dataset):
    everything, some = few_shot(dataset, 2), few_shot(dataset, 2, classes=[2, 0])
    kept = [index for index in everything.indices if LABELS[index] != 1]
    assert some.indices == kept


def test_the_order_in_which_classes_are_named_does_not_matter(dataset):
    assert (
        few_shot(dataset, 1, classes={2, 0}).indices
        == few_shot(dataset, 1, classes=[0, 2, 2]).indices
    )


def test_all_images_can_be_asked_for(dataset):
    assert sorted(few_shot(dataset, 4).indices) == list(range(12))


def test_the_random_states_are_left_alone(dataset):
    before = torch.get_rng_state(), random.getstate(), np.random.get_state()[1].copy()
    few_shot(dataset, 2, seed=1)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert random.getstate() == before[1] and (np.random.get_state()[1] == before[2]).all()


def test_of_classes_keeps_the_order_and_the_labels(dataset):
    kept = of_classes(dataset, [2, 1])
    assert kept.indices == [0, 2, 4, 5, 6, 8, 9, 11]
    assert kept.labels == [2, 1, 2, 1, 1, 2, 2, 1]


def test_choices_can_be_chained_without_reading_an_image():
    images = Targets(LABELS)
    chosen = few_shot(of_classes(images, [0, 2]), 2)
    assert sorted(chosen.labels) == [0, 0, 2, 2]
    assert images.reads == 0
    assert [label for _, label in chosen] == chosen.labels


def test_a_choice_goes_through_a_loader_and_a_pickle(dataset):
    chosen = pickle.loads(pickle.dumps(few_shot(dataset, 2)))
    _, labels = next(iter(DataLoader(chosen, batch_size=6)))
    assert labels.tolist() == chosen.labels


# Where labels are read.


@pytest.mark.parametrize("form", [list, tuple, torch.tensor, np.array], ids=lambda f: f.__name__)
def test_labels_come_from_targets_of_any_form(form):
    images = Targets(form(LABELS))
    found = labels_of(images)
    assert found == LABELS and images.reads == 0
    assert all(type(label) is int for label in found)


def test_transformed_targets_are_what_the_data_set_gives_out():
    assert labels_of(Targets([0, 1, 2], target_transform=lambda target: target + 5)) == [5, 6, 7]


def test_labels_come_from_boxed_images_without_reading_one(tmp_path):
    for name in ("a.png", "b.png"):
        Image.new("RGB", (4, 4)).save(tmp_path / name)
    (tmp_path / "list.csv").write_text("file,label\na.png,3\nb.png,1\n")
    images = BoxedImages(tmp_path / "list.csv")
    (tmp_path / "a.png").write_bytes(b"no picture")
    assert labels_of(images) == [3, 1]


def test_labels_of_a_subset_of_a_subset_follow_its_indices(dataset):
    assert labels_of(Subset(Subset(dataset, [4, 1, 2]), [2, 0])) == [LABELS[2], LABELS[4]]


def test_any_other_data_set_is_walked_through_once():
    images = Pairs([torch.tensor(1), np.int64(0), 1])
    assert labels_of(images) == [1, 0, 1]
    assert images.reads == 3


# What is refused.


@pytest.mark.parametrize("per_class", [0, -1])
def test_fewer_than_one_image_is_refused(dataset, per_class):
    with pytest.raises(ValueError, match=f"whole number >= 1, but got {per_class}"):
        few_shot(dataset, per_class)


@pytest.mark.parametrize("per_class", [1.5, "2", None, True])
def test_a_number_of_images_that_is_none_is_refused(dataset, per_class):
    with pytest.raises(TypeError, match="whole number"):
        few_shot(dataset, per_class)


def test_a_class_with_too_few_images_is_named_with_its_count():
    images = TensorDataset(torch.zeros(6), torch.tensor([0, 0, 0, 7, 7, 0]))
    with pytest.raises(ValueError, match="3 images of each class, but class 7 has 2.*lower.* to 2"):
        few_shot(images, 3)
    assert few_shot(images, 3, classes=[0]).labels == [0, 0, 0]


@pytest.mark.parametrize("choose", [of_classes, lambda data, c: few_shot(data, 1, classes=c)])
def test_unknown_classes_are_refused_with_those_there_are(dataset, choose):
    with pytest.raises(ValueError, match=r"unknown classes \[9\]; the data set has \[0, 1, 2\]"):
        choose(dataset, [0, 9])


@pytest.mark.parametrize("choose", [of_classes, lambda data, c: few_shot(data, 1, classes=c)])
def test_an_empty_choice_of_classes_is_refused(dataset, choose):
    with pytest.raises(ValueError, match="at least one label"):
        choose(dataset, [])


@pytest.mark.parametrize("classes", ["01", [0.5], 1, ["cat"]])
def test_classes_that_are_no_labels_are_refused(dataset, classes):
    with pytest.raises(TypeError, match="whole numbers such as"):
        of_classes(dataset, classes)


@pytest.mark.parametrize(
    "images",
    [TensorDataset(torch.zeros(3, 2, 2)), [torch.zeros(3)] * 2, iter([(0, 1)])],
    ids=["one tensor", "images alone", "a stream"],
)
def test_a_data_set_without_labels_is_refused(images):
    with pytest.raises(ValueError, match="gives no labels.*attribute 'labels'"):
        few_shot(images, 1)


@pytest.mark.parametrize(
    "labels", [torch.eye(3), torch.tensor([0.5, 1.0, 2.0]), ["cat", "dog", "cat"]]
)
def test_labels_that_are_no_whole_numbers_are_refused(labels):
    with pytest.raises(ValueError, match="labels to be whole numbers"):
        few_shot(Targets(labels), 1)


def test_labels_that_are_not_one_an_image_are_refused(dataset):
    dataset.labels = [0, 1]
    with pytest.raises(ValueError, match="2 labels for 12 images"):
        few_shot(dataset, 1)
