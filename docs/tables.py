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
    """Show masks optimized per input beside a trained masker."""
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


_STUDY_COLUMNS = {
    "error": "LE ↓",
    "box_iou": "box IoU ↑",
    "area": "area",
    "masked_in": "masked-in ↑",
    "masked_out": "masked-out ↓",
    "clean": "accuracy",
}

_CHOICES = {
    "frozen": "the default, frozen",
    "in-classification": "masked-in objective only",
    "out-entropy": "masked-out objective only",
    "both-classification": "classification on both sides",
    "infill-blur": "``infill=Blur()``",
    "infill-noise": "``infill=Noise()``",
    "infill-learned": "``infill=train_inpainter(loader)``",
    "gumbel-hard": "``sampler=GumbelSigmoid()``",
    "gumbel-soft": "``sampler=GumbelSigmoid(hard=False)``",
    "layers-1": "the deepest layer only",
    "unet": "``masker=UNetMasker``",
    "told-size": "``masker=partial(Masker, sized=True)``",
    "fix": "``recipes.fix``, the published constants",
    "few-shot-1": "1 image a class",
    "few-shot-10": "10 images a class",
    "few-shot-50": "50 images a class",
}

_JOINT = {
    "frozen": "frozen",
    "joint": "joint, the default",
    "joint-throughout": "joint from the first step on",
    "ca": "``recipes.ca``, the published constants",
    "few-shot-10": "frozen, 10 images a class",
    "joint-few-shot-10": "joint, 10 images a class",
    "few-shot-1": "frozen, 1 image a class",
    "joint-few-shot-1": "joint, 1 image a class",
}


def choices() -> str:
    """Show what each setting changes, from the study."""
    return _of_study(_CHOICES)


def frozen_or_joint() -> str:
    """Show frozen and joint training side by side, from the study."""
    return _of_study(_JOINT)


def shipped() -> str:
    """Show what ``captum-masking evaluate`` says of the shipped masker, from beside its weights."""
    folder = BENCHMARKS.parent / "captum_masking" / "zoo" / "efficientnet-lite0"
    found = json.loads((folder / "training.json").read_text(encoding="utf-8"))["figures"]
    names = {
        "clean": "recognized, whole picture",
        "masked_in": "recognized, masked-in",
        "masked_out": "recognized, masked-out",
        "area": "area",
        "localization_error": "box of the object missed (localization error)",
        "localization_error_centered_square": "the same for a centered square of half the area",
        "localization_error_whole_frame": "the same for the whole frame",
    }
    return _table(["", "share"], [[words, _percent(found[key])] for key, words in names.items()])


def whole_benchmark() -> str:
    """Show frozen and joint training on all thousand classes, from the benchmark."""
    found = json.loads((BENCHMARKS / "imagenet1k" / "result.json").read_text(encoding="utf-8"))
    names = {"MaskingSaliency (frozen1k)": "frozen", "MaskingSaliency (j1k)": "joint"}
    scores = {
        "error_at_mean": "LE ↓",
        "box_iou": "box IoU ↑",
        "area": "area",
        "masked_in_accuracy": "masked-in ↑",
        "masked_out_accuracy": "masked-out ↓",
    }
    rows = [
        [names[row["name"]], *(_interval(row["values"][score]) for score in scores)]
        for row in found["rows"]
        if row["name"] in names
    ]
    return _table(["", *scores.values()], rows)


_BENCHMARK_COLUMNS = {
    "error_at_mean": "LE ↓",
    "error_at_best": "LE, best cut ↓",
    "box_iou": "box IoU ↑",
    "saliency_metric": "SM ↓",
    "masked_in_accuracy": "masked-in ↑",
    "masked_out_accuracy": "masked-out ↓",
    "area": "area",
}

_RENAMED = {
    "MaskingSaliency (frozen1k)": "**MaskingSaliency, frozen**",
    "MaskingSaliency (j1k)": "**MaskingSaliency, joint**",
}


def imagenet1k() -> str:
    """Show every method of the benchmark on a thousand classes."""
    found = json.loads((BENCHMARKS / "imagenet1k" / "result.json").read_text(encoding="utf-8"))
    setting = found["setting"]
    rows = [
        [
            _RENAMED.get(row["name"], row["name"]),
            *(_score(key, row["values"][key]["mean"]) for key in _BENCHMARK_COLUMNS),
            f"{row['cost']['forwards']:.1f}",
        ]
        for row in found["rows"]
    ]
    return (
        f"{setting['classifier']} on {setting['images']} photographs with boxes, accuracy "
        f"{setting['accuracy']:.0%}; *forwards* is the time in forward passes of the classifier."
        f"\n\n{_table(['', *_BENCHMARK_COLUMNS.values(), 'forwards ↓'], rows)}\n\n"
        f".. code-block:: console\n\n   $ {setting['command']}\n"
    )


def _score(key: str, value: float) -> str:
    return f"{value:.2f}" if key == "saliency_metric" else f"{100 * value:.1f} %"


def audio() -> str:
    """Show what is heard in masked sounds."""
    found = _read("audio")
    columns = ["picture_in", "picture_out", "render_in", "render_out", "gain_in", "gain_out"]
    rows = [
        [name, *(f"{100 * row[key]:.1f} %" for key in ["area", *columns])]
        for name, row in found["masks"].items()
    ]
    header = ["mask", "area", *(column.replace("_", " ") for column in columns)]
    return f"{_table(header, rows)}\n\n{_command(found)}"


def lmac() -> str:
    """Show what listenable maps keep of clips, of mixtures, and of what is heard."""
    found = _read("lmac")
    names = ["AI ↑", "AD ↓", "AG ↑", "FF ↑", "Fid-In ↑", "SPS ↑", "COMP ↓", "area"]
    tables = []
    for kind, scores in found["scores"].items():
        rows = [[name, *map(_of_scores, row, row.values())] for name, row in scores.items()]
        tables.append(_table([kind, *names], rows))
    energy = [
        [name, *(f"{100 * share:.1f} %" for share in row.values())]
        for name, row in found["heard"]["energy"].items()
    ]
    tables.append(_table(["energy of the predicted clip", "masked in", "masked out"], energy))
    return "\n\n".join([*tables, _command(found)])


def _of_scores(key: str, value: float) -> str:
    return f"{value:.2f}" if key in ("sparseness", "complexity") else f"{100 * value:.1f} %"


def target_grid() -> str:
    """Show the grid pointing game of target-aware maps and of Captum's methods."""
    games = [game["scores"] for game in _read("target")["grid_pointing"].values()]
    named = {
        "MaskingSaliency (target-aware)": "**target-aware masker**",
        "LayerGradCam": "Grad-CAM",
        "LayerGradientXActivation": "``LayerGradientXActivation``, deepest layer, positive part",
        "MaskingSaliency (told nothing)": "masker that is told nothing",
    }
    rows = [
        [shown, *(_with_error(scores[name]) for scores in games)] for name, shown in named.items()
    ]
    others = [
        max(score["mean"] for name, score in scores.items() if name not in named)
        for scores in games
    ]
    rows.insert(
        3, ["every other method of Captum", *(f"{100 * best:.1f} % or less" for best in others)]
    )
    return _table(["method", "whole photographs, 448 px", "shrunken ones, 224 px"], rows)


def _with_error(score: dict[str, float]) -> str:
    return f"{100 * score['mean']:.1f} ± {100 * score['standard_error']:.1f} %"


def target_vit() -> str:
    """Show what a vision transformer's target-aware masker finds."""
    found = _read("target_vit")
    mean = found["mean"]
    names = {
        "accuracy": "the classifier's accuracy, one digit",
        "energy_in_box": "weight of the map on the one digit",
        "energy_in_box_told_nothing": "the same, told nothing",
        "energy_in_box_transformer_relevance": "the same, ``TransformerRelevance``",
        "energy_in_box_attention_rollout": "the same, ``AttentionRollout``",
        "energy_in_box_whole_picture": "the same, whole picture",
        "share_masker": "two digits: share of the one asked for",
        "share_evidence": "the same, of the evidence alone",
        "share_transformer_relevance": "the same, ``TransformerRelevance``",
        "share_saliency": "the same, ``Saliency``",
        "share_integrated_gradients": "the same, ``IntegratedGradients``",
    }
    rows = [[words, _percent(mean[name])] for name, words in names.items()]
    ratio = f"{mean['absent_over_present_median']:.4f}"
    rows.insert(6, ["area for an absent digit over that for the one there, median", ratio])
    return f"{_table(['', 'mean of the seeds'], rows)}\n\n{_command(found)}"


def cams() -> str:
    """Show Opti-CAM and Score-CAM beside Grad-CAM."""
    found = _read("cams")
    columns = {
        "average_drop": "average drop",
        "average_gain": "average gain",
        "insertion": "insertion",
        "deletion": "deletion",
        "LE": "LE",
        "MaxBoxAccV2": "MaxBoxAccV2",
    }
    names = {"Fake-CAM": "all but one pixel"}
    rows = [
        [names.get(name, name), *(f"{100 * row[column]:.1f}" for column in columns)]
        for name, row in found["rows"].items()
    ]
    text = (
        f"{found['images']} photographs of ImageNet, ``_blocks.15`` of EfficientNet-Lite0; too few "
        "for small differences. All in percent."
    )
    return f"{text}\n\n{_table(['method', *columns.values()], rows)}\n\n{_command(found)}"


def uncertainty() -> str:
    """Show which numbers tell the images whose box an ensemble's map misses."""
    found = _read("uncertainty")
    rows = [
        [found["words"][name], "{:.2f} [{:.2f}, {:.2f}]".format(*values)]
        for name, values in found["auroc"].items()
    ]
    less, more = (
        _percent(found[f"missed_in_half_with_{which}_spread"]) for which in ("less", "more")
    )
    text = (
        f"{found['maskers']} maskers, {found['steps']} steps each, {found['images']} photographs: "
        f"of the half with less spread the mean map misses the box in {less}, of the half with "
        f"more in {more}."
    )
    table = _table(["number of an image", "AUROC for missed boxes, 95 % interval"], rows)
    return f"{text}\n\n{table}\n\n{_command(found)}"


def target() -> str:
    """Show what target-aware maps do where the class is not, and what they cost elsewhere."""
    found = _read("target")
    absent, sanity, leakage = found["absent"], found["sanity"], found["leakage"]
    error = {
        name: [f"{100 * scores[key]:.1f} %" for key in ("LE_label", "LE_told_nothing")]
        for name, scores in found["localization"].items()
    }
    chance = leakage["label"]["chance"]
    read_off = [f"{100 * leakage[key]['accuracy']:.1f} %" for key in ("label", "told_nothing")]
    rows = [
        ["LE for the label, ``imagenet1k/val``", *error["imagenet1k"]],
        ["LE for the label, ``imagenette/val``", *error["imagenette"]],
        [
            "area for an absent class drawn at random over that for the label, median",
            f"{absent['area_to_present_median_random']:.3f}",
            "1",
        ],
        [
            "the same for the likeliest class that is neither label nor predicted",
            f"{absent['area_to_present_median_runner_up']:.2f}",
            "1",
        ],
        [
            "masked in with a random absent class, it becomes the predicted one",
            f"{100 * absent['believed_random']:.1f} %",
            "",
        ],
        ["the same for the likeliest one", f"{100 * absent['believed_runner_up']:.1f} %", ""],
        [
            "grid pointing with the targets of other cells",
            f"{100 * sanity['permuted_targets']:.1f} %",
            "25.0 %",
        ],
        [
            "grid pointing with a head of random weights",
            f"{100 * sanity['random_head']:.1f} %",
            "25.0 %",
        ],
        [
            "correlation of maps with those of a random head, median",
            f"{sanity['correlation_random_head_median']:.2f}",
            "1",
        ],
        [
            f"class read off the masks alone, ``imagenette/val``, chance {100 * chance:.1f} %",
            *read_off,
        ],
    ]
    return _table(["figure", "target-aware", "told nothing"], rows)


def figure(text: str) -> str:
    """Return one figure: ``study ROW SCORE`` in percent, or ``attribute_cost ROW`` in passes.

    Example:
        >>> figure("study frozen clean").endswith(" %")
        True
    """
    file, rest = text.split(maxsplit=1)
    if file == "attribute_cost":
        return f"{_read(file)['costs'][rest]['forwards']:.2f}"
    row, score = rest.split()
    return f"{_study()[row][score]:.1f} %"


def _study() -> dict[str, dict[str, Any]]:
    file = BENCHMARKS / "study" / "imagenette" / "table.json"
    rows = json.loads(file.read_text(encoding="utf-8"))["rows"]
    return {row["row"]: row for row in rows}


def _of_study(names: dict[str, str]) -> str:
    rows = _study()
    cells = [
        [name, *(f"{rows[row][score]:.1f} %" for score in _STUDY_COLUMNS), str(rows[row]["seeds"])]
        for row, name in names.items()
    ]
    return _table(["", *_STUDY_COLUMNS.values(), "seeds"], cells)


def _interval(value: dict[str, float]) -> str:
    mean, low, high = (100 * value[key] for key in ("mean", "low", "high"))
    return f"{mean:.1f} % [{low:.1f}, {high:.1f}]"


def _percent(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f}\N{NO-BREAK SPACE}%"


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
    "audio": audio,
    "cams": cams,
    "lmac": lmac,
    "choices": choices,
    "frozen_or_joint": frozen_or_joint,
    "imagenet1k": imagenet1k,
    "kill_and_resume": kill_and_resume,
    "per_input": per_input,
    "scaling": scaling,
    "shipped": shipped,
    "step": step,
    "target": target,
    "target_grid": target_grid,
    "target_vit": target_vit,
    "uncertainty": uncertainty,
    "whole_benchmark": whole_benchmark,
}
