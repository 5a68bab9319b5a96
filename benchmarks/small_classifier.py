"""Train the classifier of the tutorials, ``zoo.small_classifier(trained=True)``; three minutes."""

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.data import DataLoader

from captum_masking import zoo
from captum_masking.data import DigitsOnTextures
from captum_masking.training.classifier import train_alone

FILE = Path(zoo.__file__).with_name("small-classifier.safetensors")


def main() -> None:
    """Train, measure, and write the weights in half precision."""
    torch.manual_seed(0)
    data = DigitsOnTextures(12000, size=48)
    loader = DataLoader(data, batch_size=64, shuffle=True, drop_last=True)
    classifier = zoo.small_classifier()
    train_alone(classifier, loader, epochs=12, lr=5e-3)
    held_out = DigitsOnTextures(600, size=48, train=False, seed=1)
    images, labels = next(iter(DataLoader(held_out, batch_size=len(held_out))))
    with torch.no_grad():
        print(f"recognized: {(classifier(images).argmax(1) == labels).float().mean():.1%}")
    weights = classifier.state_dict()
    save_file({k: v.half() if v.is_floating_point() else v for k, v in weights.items()}, FILE)


if __name__ == "__main__":
    main()
