"""Where the names of others are documented: inventories for intersphinx, written at every build.

Only names that our pages mention, so that a build needs no network and gives the same links with
and without one. A name that is missing here is a warning of ``make docs``: add it.
"""

import zlib
from collections.abc import Mapping
from pathlib import Path

TORCH, CAPTUM = "https://docs.pytorch.org/docs/stable/", "https://captum.ai/api/"
PYTHON, NUMPY = "https://docs.python.org/3/", "https://numpy.org/doc/stable/"
PILLOW = "https://pillow.readthedocs.io/en/stable/"

#: For each project its address, and the page of each name; an empty page is that of its own name.
#: Names after ``=`` are the same thing under the module in which it happens to be defined, or as
#: our own code abbreviates it: Sphinx finds these in signatures.
NAMES: dict[str, tuple[str, str]] = {
    "torch": (
        TORCH,
        """
        tensors.html torch.Tensor = Tensor
        tensor_attributes.html torch.device
        tensor_attributes.html torch.memory_format
        optim.html torch.optim.Optimizer = torch.optim.optimizer.Optimizer = Optimizer
        data.html torch.utils.data.DataLoader = torch.utils.data.dataloader.DataLoader = DataLoader
        data.html torch.utils.data.Dataset = torch.utils.data.dataset.Dataset = Dataset
        data.html torch.utils.data.IterableDataset = torch.utils.data.dataset.IterableDataset
        data.html torch.utils.data.Sampler = torch.utils.data.sampler.Sampler
        data.html torch.utils.data.Subset = torch.utils.data.dataset.Subset
        - torch.Generator = torch._C.Generator
        - torch.compile
        - torch.nn.Module = torch.nn.modules.module.Module = nn.Module
        - torch.nn.Linear = torch.nn.modules.linear.Linear
        - torch.nn.Sequential
        - torch.nn.parameter.Parameter = torch.nn.Parameter
        - torch.nn.BatchNorm1d = torch.nn.modules.batchnorm.BatchNorm1d
        - torch.nn.BatchNorm2d = torch.nn.modules.batchnorm.BatchNorm2d
        - torch.nn.BatchNorm3d = torch.nn.modules.batchnorm.BatchNorm3d
        - torch.optim.Adam
        - torch.optim.AdamW = torch.optim.adamw.AdamW
        - torch.optim.lr_scheduler.LRScheduler = LRScheduler
        - torch.optim.lr_scheduler.LambdaLR
        """,
    ),
    "captum": (
        CAPTUM,
        """
        base_classes.html captum.attr.Attribution = captum.attr._utils.attribution.Attribution
        base_classes.html captum.attr.LayerAttribution = \
            captum.attr._utils.attribution.LayerAttribution
        noise_tunnel.html captum.attr.NoiseTunnel
        saliency.html captum.attr.Saliency
        integrated_gradients.html captum.attr.IntegratedGradients
        metrics.html captum.metrics.infidelity
        metrics.html captum.metrics.sensitivity_max
        utilities.html captum.attr.visualization.visualize_image_attr
        """,
    ),
    "python": (
        PYTHON,
        """
        library/collections.abc.html collections.abc.Callable
        library/collections.abc.html collections.abc.Collection
        library/collections.abc.html collections.abc.Iterable
        library/collections.abc.html collections.abc.Iterator
        library/collections.abc.html collections.abc.Mapping
        library/collections.abc.html collections.abc.Sequence
        library/contextlib.html contextlib.AbstractContextManager
        library/os.html os.PathLike
        library/pathlib.html pathlib.Path = Path
        """,
    ),
    "numpy": (
        NUMPY,
        """
        reference/generated/numpy.ndarray.html numpy.ndarray = np.ndarray
        reference/generated/numpy.dtype.html numpy.dtype
        """,
    ),
    "pillow": (PILLOW, "reference/Image.html PIL.Image.Image = Image.Image"),
}


def write(folder: Path) -> Mapping[str, tuple[str, str]]:
    """Write an inventory for each project, and return what intersphinx is to be told."""
    folder.mkdir(parents=True, exist_ok=True)
    for project, (_, names) in NAMES.items():
        lines = [line for text in names.strip().splitlines() for line in entries(text.strip())]
        (folder / f"{project}.inv").write_bytes(inventory(project, lines))
    return {name: (address, str(folder / f"{name}.inv")) for name, (address, _) in NAMES.items()}


def entries(text: str) -> list[str]:
    """Turn a line of the list above into lines of an inventory, one for each spelling.

    The last field, "-", has names shown as they are written.

    Example:
        >>> entries("- torch.nn.Module = nn.Module")[1].split()[0]
        'nn.Module'
    """
    page, rest = text.split(maxsplit=1)
    name, *others = (part.strip() for part in rest.split("="))
    page = f"generated/{name}.html" if page == "-" else page
    kind = "function" if name.rsplit(".", 1)[1].islower() and name not in _TYPES else "class"
    return [f"{each} py:{kind} 1 {page}#{name} -" for each in (name, *others)]


def inventory(project: str, lines: list[str]) -> bytes:
    """Return the bytes of an inventory of version 2, as Sphinx reads it."""
    head = f"# Sphinx inventory version 2\n# Project: {project}\n# Version: \n"
    head += "# The remainder of this file is compressed using zlib.\n"
    return head.encode() + zlib.compress("\n".join([*lines, ""]).encode())


_TYPES = {"torch.device", "torch.memory_format", "numpy.ndarray", "numpy.dtype"}
