"""What loaders give; streams, unreadable images, balanced classes and seeded augmentation."""

from __future__ import annotations

import copy
import errno
import io
import pickle
import random
import time
import warnings
from collections import Counter, UserDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset, TensorDataset
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from captum_masking import MaskingTrainer
from captum_masking.data import (
    BalancedSampler,
    BoxedImages,
    Readable,
    Seeded,
    few_shot,
    labels_of,
    read_batch,
)
from captum_masking.data.seeded import random_states

INPUTS, LABELS = torch.arange(24.0).reshape(2, 3, 2, 2), torch.tensor([4, 1])
SERIES = torch.arange(10.0).reshape(2, 5)
AUGMENT = v2.Compose(
    [
        v2.RandomResizedCrop(16, antialias=True),
        v2.RandomHorizontalFlip(),
        v2.ColorJitter(0.4, 0.4, 0.4),
        v2.ToImage(),
        v2.ToDtype(torch.float32, scale=True),
    ]
)


@pytest.fixture
def folder(tmp_path):
    """Two classes of three pictures of noise each, of which cat/1.png and dog/0.png are damaged."""
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for index in range(3):
            pixels = np.random.randint(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / name / f"{index}.png")
    (tmp_path / "cat" / "1.png").write_bytes(b"no picture")
    truncated = (tmp_path / "dog" / "0.png").read_bytes()[:200]
    (tmp_path / "dog" / "0.png").write_bytes(truncated)
    return tmp_path


def in_silence(function, *arguments):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="an unreadable image")
        return function(*arguments)


def read_all(loader):
    """Return the inputs and the labels of a whole loader."""
    pairs = [read_batch(batch) for batch in loader]
    return [torch.cat(parts) for parts in zip(*pairs, strict=True)]


# Batches.


@pytest.mark.parametrize(
    "batch",
    [
        (INPUTS, LABELS),
        [INPUTS, LABELS],
        (INPUTS, LABELS, ["a.jpg", "b.jpg"]),
        (INPUTS, [4, 1]),
        (INPUTS, (4, 1)),
        (INPUTS, np.array([4, 1])),
        (INPUTS, [torch.tensor(4), np.int64(1)]),
        {"inputs": INPUTS, "labels": LABELS},
        {"image": INPUTS, "label": [4, 1]},
        {"images": INPUTS, "target": LABELS, "path": ["a.jpg", "b.jpg"]},
        {"y": LABELS, "x": INPUTS},
        UserDict(pixel_values=INPUTS, labels=LABELS),
        UserDict(input_values=INPUTS, targets=np.array([4, 1])),
    ],
    ids=lambda batch: type(batch).__name__,
)
def test_a_batch_of_any_usual_form_is_read(batch):
    inputs, labels = read_batch(batch)
    assert inputs is INPUTS
    assert torch.equal(labels, LABELS) and labels.dtype == torch.int64


def test_labels_in_a_read_only_array_are_read_without_a_warning():
    array = np.array([4, 1])
    array.setflags(write=False)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert read_batch((INPUTS, array))[1].tolist() == [4, 1]


@pytest.mark.parametrize("form", [tuple, list])
@pytest.mark.parametrize("wrap", [lambda i: (i, LABELS), lambda i: {"inputs": i, "label": LABELS}])
def test_several_inputs_become_a_tuple(form, wrap):
    inputs, _ = read_batch(wrap(form([INPUTS, SERIES])))
    assert type(inputs) is tuple and inputs[0] is INPUTS and inputs[1] is SERIES


def test_batches_of_transformers_are_read():
    transformers = pytest.importorskip("transformers")
    for kind in (transformers.BatchEncoding, transformers.BatchFeature):
        inputs, labels = read_batch(kind({"pixel_values": INPUTS, "labels": LABELS}))
        assert inputs is INPUTS and labels is LABELS


@pytest.mark.parametrize(
    "batch, said",
    [
        (None, r"must give pairs \(inputs, labels\), but gave NoneType"),
        (INPUTS, "but gave Tensor"),
        ((INPUTS,), "but gave tuple of Tensor"),
        ([], "but gave list of nothing"),
        ({"image": INPUTS}, r"labels under one of .*'targets'.* none of these among .*'image'"),
        ({"img": INPUTS, "label": LABELS}, r"inputs under .* none of these among the keys \['img'"),
        ({"image": INPUTS, "x": INPUTS, "y": LABELS}, r"several of these, \['image', 'x'\]"),
        ((INPUTS.numpy(), LABELS), "inputs are ndarray.*default_collate"),
        (([Image.new("RGB", (2, 2))], [0]), "inputs are list of Image"),
        (((), LABELS), "inputs are tuple of nothing"),
        ([(INPUTS[0], 4), (INPUTS[1], 1)], "inputs are tuple of Tensor and int"),
        ([{"image": INPUTS[0], "label": 4}] * 2, "inputs are dict"),
        ((INPUTS, ["cat", "dog"]), "labels are list of str; number the classes"),
        ((INPUTS, None), "labels are NoneType"),
        ((INPUTS, {"class": LABELS}), "labels are dict"),
        ((INPUTS, [[1], [2, 3]]), "labels are list of list"),
    ],
)
def test_a_batch_of_no_usual_form_is_refused_with_what_came(batch, said):
    with pytest.raises(TypeError, match=said):
        read_batch(batch)


@pytest.mark.parametrize(
    "example",
    [
        (INPUTS[0], 4),
        (INPUTS[0], np.int64(4)),
        (INPUTS[0], torch.tensor(4)),
        {"image": INPUTS[0], "label": 4},
        (torch.tensor(0.5), LABELS),
        ((INPUTS, torch.tensor(0.5)), LABELS),
    ],
)
def test_one_example_in_place_of_a_batch_is_refused(example):
    with pytest.raises(ValueError, match="must give batches, but gave one example.*DataLoader"):
        read_batch(example)


def test_images_of_one_batch_that_are_not_stacked_are_refused():
    with pytest.raises(ValueError, match=r"one row for each of the 2 labels.*\(3, 2, 2\).*stack"):
        read_batch((list(INPUTS), LABELS))


# Streams: no length, no index.


class Stream(IterableDataset):
    """As Hugging Face's ``IterableDataset.with_format("torch")``: dicts without an end in sight."""

    def __init__(self, form):
        self.form = form

    def __iter__(self):
        for number in range(10):
            yield self.form(torch.full((3, 4, 4), float(number)), number % 3)


FORMS = [
    lambda image, label: {"image": image, "label": label},
    lambda image, label: {"pixel_values": image, "labels": torch.tensor(label), "id": "a"},
    lambda image, label: (image, label),  # WebDataset after to_tuple("jpg", "cls")
]


@pytest.mark.parametrize("form", FORMS, ids=["image", "pixel_values", "tuple"])
def test_a_stream_goes_through_a_loader_without_a_length(form):
    loader = DataLoader(Stream(form), batch_size=4)
    with pytest.raises(TypeError):
        len(loader)
    inputs, labels = read_all(loader)
    assert inputs.shape == (10, 3, 4, 4) and inputs[:, 0, 0, 0].tolist() == [*range(10)]
    assert labels.tolist() == [number % 3 for number in range(10)]


def test_batches_that_a_stream_makes_itself_are_read():
    batches = [(INPUTS, [4, 1]), (INPUTS, [0, 2])]  # WebDataset's batched()
    _, labels = read_all(DataLoader(batches, batch_size=None))
    assert labels.tolist() == [4, 1, 0, 2]


@pytest.mark.parametrize("around", [Readable, lambda stream: Seeded(stream, 0)])
def test_a_stream_cannot_be_read_by_index(around):
    with pytest.raises(TypeError, match="length and an index, but got Stream"):
        around(Stream(FORMS[0]))


# Images that cannot be read.


@pytest.mark.parametrize("kind", [BoxedImages, ImageFolder], ids=lambda kind: kind.__name__)
def test_the_next_image_takes_the_place_of_an_unreadable_one(folder, kind):
    images = kind(folder, transform=v2.PILToTensor())
    readable = Readable(images)
    with pytest.warns(UserWarning) as warned:
        found = list(readable)
    for position, source in enumerate([0, 2, 2, 4, 4, 5]):
        assert torch.equal(found[position][0], images[source][0])
        assert found[position][1] == images[source][1] == [0, 0, 0, 1, 1, 1][source]
    assert len(warned) == 2  # once for each, although the first is passed twice
    for message, name in zip(warned, ("cat/1.png", "dog/0.png"), strict=True):
        assert str(folder / name) in str(message.message)


@pytest.mark.parametrize("kind", [BoxedImages, ImageFolder], ids=lambda kind: kind.__name__)
def test_unreadable_images_are_counted_and_named(folder, kind):
    readable = Readable(kind(folder))
    assert readable.unreadable == {} and readable.report().startswith("no unreadable image among 6")
    in_silence(list, readable)
    assert list(readable.unreadable) == [1, 3]
    assert str(folder / "cat" / "1.png") in readable.unreadable[1]
    assert readable.report().startswith("2 of 6 images cannot be read")
    assert str(folder / "dog" / "0.png") in readable.report()


class Faulty(Dataset):
    """Five items; some raise what they are told to."""

    def __init__(self, errors):
        self.errors, self.reads = errors, Counter()

    def __len__(self):
        return 5

    def __getitem__(self, index):
        self.reads[index] += 1
        if index in self.errors:
            raise self.errors[index]
        return torch.tensor(index), index


def test_the_search_goes_on_at_the_start_and_reads_no_bad_image_twice():
    faulty = Faulty({0: OSError("a"), 3: ValueError("b"), 4: SyntaxError("c")})
    readable = Readable(faulty)
    for _ in range(2):
        found = in_silence(lambda: [label for _, label in readable])
        assert found == [1, 1, 2, 1, 1]
    assert [faulty.reads[bad] for bad in (0, 3, 4)] == [1, 1, 1]
    assert readable.unreadable == {0: "item 0: a", 3: "item 3: b", 4: "item 4: c"}


def test_an_image_that_claims_to_be_huge_is_unreadable():
    faulty = Faulty({1: Image.DecompressionBombError("too large")})
    assert in_silence(Readable(faulty).__getitem__, 1)[1] == 2


def wrapped(error):
    outer = ValueError("cannot be read")
    outer.__cause__ = error
    return outer


@pytest.mark.parametrize(
    "error",
    [
        KeyError("a bug"),
        RuntimeError("a bug"),
        MemoryError(),
        OSError(errno.EMFILE, "too many open files"),
        wrapped(OSError(errno.EMFILE, "too many open files")),
        wrapped(MemoryError()),
    ],
    ids=repr,
)
def test_faults_of_the_code_and_of_the_machine_are_raised_as_ever(error):
    readable = Readable(Faulty({1: error}))
    with pytest.raises(type(error)) as raised:
        readable[1]
    assert raised.value is error and readable.unreadable == {}


def test_if_no_image_can_be_read_it_is_said_with_the_first_reason():
    readable = Readable(Faulty({index: OSError(f"broken {index}") for index in range(5)}))
    with pytest.raises(ValueError, match="none of 5 can.*item 0: broken 0.*paths"):
        in_silence(readable.__getitem__, 2)


@pytest.mark.filterwarnings("ignore:an unreadable image")
def test_what_workers_find_reaches_the_main_process(folder):
    readable = Readable(BoxedImages(folder, transform=v2.PILToTensor()))
    _, labels = read_all(DataLoader(readable, batch_size=2, num_workers=2))
    assert labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert list(readable.unreadable) == [1, 3]
    assert str(folder / "dog" / "0.png") in readable.unreadable[3]


@pytest.mark.filterwarnings("ignore:an unreadable image")
def test_a_subset_names_the_file_of_the_whole_set(folder):
    readable = Readable(Seeded(Subset(BoxedImages(folder), [5, 3]), seed=0))
    assert readable[1][1] == 1
    assert str(folder / "dog" / "0.png") in readable.unreadable[1]


def test_asking_why_does_not_move_the_random_states():
    class Recovers(Faulty):
        def __getitem__(self, index):
            torch.rand(3)
            return super().__getitem__(index)

    faulty = Recovers({1: OSError("once")})
    readable = Readable(faulty)
    in_silence(readable.__getitem__, 1)
    readable._words.clear()  # as if a worker had found it
    faulty.errors.clear()
    before = torch.get_rng_state()
    assert readable.unreadable == {1: "item 1: failed once, but can be read now"}
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("around", [Readable, lambda images: Seeded(images, 0)])
def test_a_data_set_around_another_keeps_its_labels_and_its_length(folder, around):
    images = around(BoxedImages(folder))
    assert labels_of(images) == [0, 0, 0, 1, 1, 1] and len(images) == 6
    assert images.class_names == ["cat", "dog"]
    assert images[-1][1] == 1
    with pytest.raises(IndexError, match="6 items, but got 6"):
        images[6]
    with pytest.raises(AttributeError):
        images.no_such_thing  # noqa: B018


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_a_copy_counts_for_itself(clone):
    readable = Readable(Faulty({1: OSError("a")}))
    copied = clone(readable)
    in_silence(list, copied)
    assert list(copied.unreadable) == [1] and readable.unreadable == {}
    assert copied._flags.is_shared()


# Balanced classes.

CLASSES = [7] * 7 + [5] * 2 + [9]  # indices 0-6, 7-8 and 9


def balanced(labels=CLASSES, seed=0):
    return BalancedSampler(labels, torch.Generator().manual_seed(seed))


def test_an_epoch_holds_as_many_of_each_class():
    sampler = balanced()
    for _ in range(3):
        drawn = list(sampler)
        assert len(drawn) == len(sampler) == 21
        assert Counter(CLASSES[index] for index in drawn) == {5: 7, 7: 7, 9: 7}


def test_small_classes_are_cycled_and_none_of_their_images_is_left_out():
    counts = Counter(balanced())
    assert all(counts[index] == 1 for index in range(7))
    assert sorted([counts[7], counts[8]]) == [3, 4] and counts[9] == 7


def test_classes_take_turns_so_that_batches_are_balanced():
    for batch in DataLoader(torch.tensor(CLASSES), batch_size=6, sampler=balanced()):
        assert all(count == len(batch) // 3 for count in Counter(batch.tolist()).values())


def test_each_epoch_and_each_seed_has_an_order_of_its_own():
    sampler = balanced()
    epochs = [tuple(sampler) for _ in range(4)]
    assert len({*epochs, tuple(balanced(seed=1))}) == 5
    again = balanced()
    assert [tuple(again) for _ in range(4)] == epochs


def test_every_image_is_as_likely_at_every_place_as_any_other_of_its_class():
    sampler, epochs = balanced([0, 0, 0, 1, 1], seed=3), 600
    firsts = Counter(next(iter(sampler)) for _ in range(epochs))
    for index in range(5):
        p = 1 / 6 if index < 3 else 1 / 4
        assert abs(firsts[index] - epochs * p) < 5 * (epochs * p * (1 - p)) ** 0.5


def test_without_a_generator_the_order_comes_from_torchs_random_numbers():
    sampler = BalancedSampler(CLASSES)
    torch.manual_seed(3)
    first, second = list(sampler), list(sampler)
    torch.manual_seed(3)
    assert list(sampler) == first != second


def test_a_few_images_of_each_class_come_in_balanced_batches():
    chosen = few_shot(TensorDataset(torch.arange(12.0), torch.tensor([0, 1, 2] * 4)), 3)
    loader = DataLoader(chosen, batch_size=3, sampler=BalancedSampler(labels_of(chosen)))
    assert [sorted(labels.tolist()) for _, labels in loader] == [[0, 1, 2]] * 3


@pytest.mark.parametrize("form", [tuple, np.array, torch.tensor])
def test_labels_of_any_form_are_taken(form):
    assert list(balanced(form(CLASSES))) == list(balanced())


@pytest.mark.parametrize(
    "labels", [[], ["cat"], [0.5, 1.0], [True, False], None, [[0], [1]], torch.eye(2)], ids=repr
)
def test_labels_that_are_none_are_refused(labels):
    with pytest.raises(ValueError, match="one whole number per image.*labels_of"):
        BalancedSampler(labels)


# Seeded augmentation.


class Draws(Dataset):
    """Items of numbers from all three sources."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        drawn = [torch.rand(()).item(), random.random(), np.random.rand(), np.random.randn()]
        return torch.tensor(drawn, dtype=torch.float64), index


@pytest.fixture
def pictures():
    """Eight pictures of noise, augmented at random."""
    pixels = np.random.randint(0, 256, (8, 20, 24, 3), dtype=np.uint8)
    return [Image.fromarray(image) for image in pixels]


class Augmented(Dataset):
    def __init__(self, pictures):
        self.pictures = pictures

    def __len__(self):
        return len(self.pictures)

    def __getitem__(self, index):
        return AUGMENT(self.pictures[index]), index


def test_items_are_the_same_with_and_without_workers_and_in_any_order(pictures):
    for dataset in (Seeded(Draws(), 3), Seeded(Augmented(pictures), 3)):
        alone, _ = read_all(DataLoader(dataset, batch_size=3))
        workers, _ = read_all(DataLoader(dataset, batch_size=2, num_workers=2))
        shuffled, order = read_all(DataLoader(dataset, batch_size=3, shuffle=True))
        assert torch.equal(alone, workers)
        assert torch.equal(shuffled, alone[order]) and order.tolist() != [*range(8)]


def test_items_do_not_depend_on_the_random_states_outside():
    dataset = Seeded(Draws(), 3)
    before = dataset[2][0]
    torch.manual_seed(99), random.seed(99), np.random.seed(99)
    assert torch.equal(dataset[2][0], before) and torch.equal(dataset[-6][0], before)


def states():
    kind, keys, *rest = np.random.get_state()
    return torch.get_rng_state().tolist(), random.getstate(), (kind, keys.tolist(), *rest)


def test_the_random_states_outside_are_left_alone_also_after_an_error():
    random.gauss(0, 1), np.random.randn()  # both keep a second number for later
    before = states()
    Seeded(Draws(), 0)[1]
    assert states() == before
    with pytest.raises(KeyError):
        Seeded(Faulty({1: KeyError("a bug")}), 0)[1]
    assert states() == before


def test_items_epochs_and_seeds_draw_numbers_of_their_own_from_each_source():
    dataset, drawn = Seeded(Draws(), 0), []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        drawn += [dataset[index][0] for index in range(8)]
    drawn += [Seeded(Draws(), seed)[index][0] for seed in (1, 2) for index in range(8)]
    values = torch.stack(drawn)  # (5 * 8, 4)
    assert all(len(values[:, source].unique()) == 40 for source in range(4))


def test_torch_and_numpy_do_not_draw_the_same_sequence():
    def draw():
        return int(torch.randint(2**16, ())), int.from_bytes(np.random.bytes(2), "little")

    torch.manual_seed(5), np.random.seed(5)
    assert len(set(draw())) == 1  # one seed, one sequence: what must not happen
    with random_states(5):
        assert len(set(draw())) == 2


def test_augmentation_differs_between_items_and_epochs_and_comes_back(pictures):
    dataset = Seeded(Augmented([pictures[0]] * 4), 0)  # one picture, four times
    first = [dataset[index][0] for index in range(4)]
    dataset.set_epoch(1)
    second = [dataset[index][0] for index in range(4)]
    other = [Seeded(dataset.dataset, 1)[index][0] for index in range(4)]
    everything = torch.stack(first + second + other)
    assert len(everything.unique(dim=0)) == 12
    dataset.set_epoch(0)
    assert all(torch.equal(dataset[index][0], first[index]) for index in range(4))


def test_workers_that_live_for_several_epochs_hear_of_the_next_one():
    dataset = Seeded(Draws(), 0)
    loader = DataLoader(dataset, batch_size=4, num_workers=1, persistent_workers=True)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        drawn, _ = read_all(loader)
        assert torch.equal(drawn, torch.stack([dataset[index][0] for index in range(8)]))


@pytest.mark.parametrize("seed, error", [(-1, ValueError), (0.5, TypeError), (None, TypeError)])
def test_a_seed_that_is_none_is_refused(seed, error):
    for make in (lambda: Seeded(Draws(), seed), lambda: Seeded(Draws(), 0).set_epoch(seed)):
        with pytest.raises(error, match=r"seed|epoch"):
            make()


def fastest(function, repeats=30):  # in time of this thread, blind to other processes
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        times.append(time.thread_time() - start)
    return min(times)


def test_a_seed_costs_far_less_than_the_image():
    pixels = np.random.default_rng(0).normal(128, 40, (375, 500, 3)).clip(0, 255)
    file = io.BytesIO()
    Image.fromarray(pixels.astype(np.uint8)).save(file, "JPEG", quality=90)
    decode = fastest(lambda: Image.open(io.BytesIO(file.getvalue())).convert("RGB"))
    seeded = Seeded(Faulty({}), 0)
    seed = fastest(lambda: seeded[1])
    print(f"{1e6 * seed:.0f} us for the seed of an item, {1e6 * decode:.0f} us to decode a JPEG")
    assert seed < decode / 5


# All of it together.


@pytest.mark.filterwarnings("ignore:an unreadable image", "ignore:the masker has collapsed")
def test_a_masker_trains_on_augmented_images_of_which_some_cannot_be_read(folder, model):
    images = Seeded(Readable(BoxedImages(folder, transform=AUGMENT)), seed=0)
    loader = DataLoader(images, batch_size=3, sampler=BalancedSampler(labels_of(images)))
    trainer = MaskingTrainer(model, train_classifier=False)
    before = copy.deepcopy(model.masker.state_dict())
    trainer.fit(loader, 2, show_progress=False)
    assert any(
        not torch.equal(before[name], now) for name, now in model.masker.state_dict().items()
    )
    assert list(images.unreadable) == [1, 3]
