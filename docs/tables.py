"""Figures in these pages, read from ``benchmarks/*.json`` while they are built, never typed."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def step() -> str:
    """Show what a training step costs."""
    found = _read("step")
    header = ["", "passes, s", "step, s", "step / passes", "step / own step", "images/s", "MB"]
    rows = [
        [
            name,
            f"{row['passes']:.3f}",
            f"{row['step']:.3f}",
            f"**{row['ratio']:.3f}**",
            f"{row['step'] / row['own']:.2f}",
            f"{row['batch_size'] / row['step']:.1f}",
            "" if row["step_mb"] is None else f"{row['step_mb']:.0f}",
        ]
        for name, row in {**found["steps"], **found["sizes"]}.items()
    ]
    batch = next(iter(found["steps"].values()))["batch_size"]
    shares = ", ".join(f"{n} {s:.2%}" for n, s in found["pool_share_of_joint_step"].items())
    return (
        f"Measured on {found['device']} with {found['threads']} threads; the first rows at 224 "
        f"pixels and a batch of {batch}, the others EfficientNet-Lite0. *Passes* are the forward "
        "and backward passes that the step cannot do without, timed in turns with it; *own step* "
        "is an ordinary training step of the classifier; *MB* is the most memory a step takes "
        f"beyond the networks.\n\n{_table(header, rows)}\n\nA full pool of thirty past "
        f"classifiers adds, of a joint step: {shares}.\n\n{_command(found)}"
    )


def per_input() -> str:
    """Show masks optimised per input beside a trained masker."""
    found = _read("per_input")
    header = ["", "LE", "masked-in", "masked-out", "area", "forward passes (time)"]
    rows = [
        [
            name,
            *(_percent(row[key]) for key in ("missed", "masked_in", "masked_out", "area")),
            f"{row['forwards']:.1f}" if row["passes"] else "",
        ]
        for name, row in found["rows"].items()
    ]
    first, last = found["images"]
    return (
        f"EfficientNet-Lite0, {last - first} photographs with boxes, the class of the label; the "
        "judge is the classifier under the mean color, which is also what the masker was trained "
        "with. *LE* is the share of images whose box is missed, lower is better; *time* is "
        "processor time in forward passes of the classifier.\n\n"
        f"{_table(header, rows)}\n\n{_command(found)}"
    )


def scaling() -> str:
    """Show how training gets faster with more processes."""
    found = _read("scaling")
    rows = [
        [count, f"{rate:.1f}", f"{found['share_of_linear'][count]:.0%}"]
        for count, rate in found["images_per_second"].items()
    ]
    return (
        f"Frozen steps of EfficientNet-Lite0 at 224 pixels, global batch "
        f"{found['images_in_global_batch']}, one thread a process, on the {found['cores']} cores "
        f"at hand ({found['device']}); *of linear* is against the first row.\n\n"
        f"{_table(['processes', 'images/s', 'of linear'], rows)}\n\n{_command(found)}"
    )


def kill_and_resume() -> str:
    """Show the training that was killed ten times."""
    found = _read("kill_and_resume")
    equal = found["weights_are_equal"] and found["records_are_equal"]
    return (
        f"A joint training of {found['images']:,} images and {found['epochs']} epochs, killed "
        f"{len(found['deaths'])} times at random moments ({found['died_within_a_save']} of them "
        "within a save or the clean-up after it) and taken up again each time, ended with weights "
        f"and records {'equal to' if equal else 'DIFFERENT from'} those of one that was left "
        f"alone, bit by bit.\n\n{_command(found)}"
    )


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"


def _read(name: str) -> dict[str, Any]:
    return json.loads((BENCHMARKS / f"{name}.json").read_text(encoding="utf-8"))


def _command(found: dict[str, Any]) -> str:
    command = found["command"].removeprefix("python benchmarks/")
    return f".. code-block:: console\n\n   $ python benchmarks/{command}\n"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [".. list-table::", "   :header-rows: 1", ""]
    for row in [header, *rows]:
        lines += [f"   {'*' if not i else ' '} - {cell}" for i, cell in enumerate(row)]
    return "\n".join(lines)


TABLES: dict[str, Callable[[], str]] = {
    "kill_and_resume": kill_and_resume,
    "per_input": per_input,
    "scaling": scaling,
    "step": step,
}
