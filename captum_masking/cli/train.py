"""Train a masker for a classifier, together with it or with the classifier frozen.

--data is a CSV with columns file,label (further columns are ignored) or a folder with one folder
of pictures per class. With --val the accuracy is watched and the best state kept.

  captum-masking train --data train.csv --val val.csv --classifier efficientnet-lite0 --out my-model
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from captum_masking.checkpoint import check_destination, load_model, save_model
from captum_masking.cli.classifiers import Prepared, notes_of, prepare
from captum_masking.data import BoxedImages
from captum_masking.figures import summary
from captum_masking.model import MaskingModel
from captum_masking.schedule import FineTune, FromScratch
from captum_masking.trainer import MaskingTrainer


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options."""
    parser.add_argument(
        "--data", required=True, type=Path, metavar="CSV", help="a CSV, or a folder per class"
    )
    parser.add_argument(
        "--classifier",
        required=True,
        metavar="SPEC",
        help="efficientnet-lite0, torchvision:NAME, or package.module:function that returns a "
        "module (its attributes mean, std and class_names are used where it has them)",
    )
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="the model's folder")
    parser.add_argument("--val", type=Path, metavar="CSV", help="pictures that are not trained on")
    parser.add_argument("--epochs", type=int, default=8, metavar="N", help="default: 8")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--frozen", action="store_true", help="leave the classifier exactly as it is")
    how.add_argument(
        "--from-scratch",
        action="store_true",
        help="the classifier knows nothing yet; torchvision:NAME then starts from random weights "
        "with one output per class of the data",
    )
    parser.add_argument(
        "--start",
        metavar="DIR",
        help="a model that train wrote for this classifier, to go on from; joint training then "
        "starts at once: train frozen first, look, then train jointly",
    )
    parser.add_argument("--image-size", type=int, metavar="N", help="side in pixels; default: 224")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="default: 16")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="default: 0")
    parser.add_argument(
        "--label-column", default="label", metavar="NAME", help="of the CSV; default: label"
    )
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="loader processes")


def run(arguments: argparse.Namespace) -> None:
    """Read the data, train, save; nothing is written before the first epoch has ended."""
    check_destination(arguments.out)
    torch.manual_seed(arguments.seed)
    images = BoxedImages(arguments.data, label_column=arguments.label_column)
    scratch = max(images.labels) + 1 if arguments.from_scratch else None
    prepared = prepare(arguments.classifier, image_size=arguments.image_size, from_scratch=scratch)
    prepared.label_column = arguments.label_column
    match_labels(images, prepared, arguments.data)
    validation = _validation_set(arguments, prepared)
    images.transform = augmented(prepared)

    if arguments.start is None:
        model, lr = MaskingModel(prepared.classifier, prepared.layers), 1e-3
    else:
        model, lr = load_model(arguments.start, prepared.classifier), 5e-4
    trainer = MaskingTrainer(model, train_classifier=_how(arguments), lr=lr)
    settings = {"batch_size": arguments.batch_size, "num_workers": arguments.workers}
    loader = DataLoader(
        images, shuffle=True, drop_last=len(images) > arguments.batch_size, **settings
    )
    log = arguments.out.with_name(arguments.out.name + "-log.csv")
    records = trainer.fit(
        loader,
        arguments.epochs,
        validation=None if validation is None else DataLoader(validation, **settings),
        log=log,
    )
    save_model(model, arguments.out, notes=notes_of(prepared, from_scratch=scratch))
    print(f"last epoch: {summary(records[-1])}\nmodel: {arguments.out}\nlog: {log}")


def augmented(prepared: Prepared) -> Any:
    """Make the training transform: a random crop of most of the picture, perhaps mirrored.

    Source:
        Crops and flips as Phang et al. 2020, but of at least 40 % of the picture: with smaller
        ones the masker learns that things fill the frame.
    """
    from torchvision.transforms import v2

    side = (prepared.image_size, prepared.image_size)
    crop = v2.RandomResizedCrop(side, scale=(0.4, 1.0), antialias=True)
    flip = v2.RandomHorizontalFlip()

    def transform(picture: Any) -> Tensor:
        return prepared.normalize(v2.functional.pil_to_tensor(flip(crop(picture))))

    return transform


def match_labels(images: BoxedImages, prepared: Prepared, source: Path) -> None:
    """Number a data set's labels as the classifier numbers its logits, or refuse it.

    Args:
        images: Its labels are renumbered where its class folders carry the classifier's names.
        prepared: The classifier; it takes the folders' names where it has none.
        source: Named in errors.

    Raises:
        ValueError: If a label has no logit.

    Source:
        Own.
    """
    known = {name: index for index, name in enumerate(prepared.class_names)}
    names = images.class_names
    if names is not None and known and all(name in known for name in names):
        images.labels = [known[names[label]] for label in images.labels]
    elif names is not None and known:
        raise ValueError(
            f"the class folders in {source} must be named as classes of {prepared.spec}, but "
            f"{next(n for n in names if n not in known)!r} is none; rename them, give a CSV with "
            "a label column, or train a classifier on them with --from-scratch."
        )
    elif names is not None:
        prepared.class_names = tuple(names)
    classes = _count_classes(prepared)
    if max(images.labels) >= classes:
        raise ValueError(
            f"labels must lie in 0..{classes - 1} for {prepared.spec}, but {source} has "
            f"{max(images.labels)}; choose another --label-column or classifier."
        )


@torch.no_grad()
def _count_classes(prepared: Prepared) -> int:
    side = prepared.image_size
    return int(prepared.classifier(torch.zeros(1, 3, side, side)).shape[1])


def _validation_set(arguments: argparse.Namespace, prepared: Prepared) -> BoxedImages | None:
    if arguments.val is None:
        return None
    column = arguments.label_column
    images = BoxedImages(arguments.val, transform=prepared.read, label_column=column)
    match_labels(images, prepared, arguments.val)
    return images


def _how(arguments: argparse.Namespace) -> bool | FineTune:
    if arguments.from_scratch:
        return FromScratch()
    masker_first = FineTune.masker_first if arguments.start is None else 0.0
    return not arguments.frozen and FineTune(masker_first=masker_first)
