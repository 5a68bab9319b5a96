"""Promises about the benchmark: the same images for all, honest numbers, nothing lost."""

from __future__ import annotations

import json
import re
import sys
from typing import Any

import numpy as np
import pytest
import scipy.stats
import torch
from captum.attr import LayerGradCam, Saliency
from networks import assert_same, cnn, everything
from torch import Tensor, nn

from captum_masking import MaskingModel, MaskingSaliency
from captum_masking.benchmark import Method, benchmark, default_methods, trivial_methods
from captum_masking.benchmark.images import Images
from captum_masking.benchmark.measures import (
    MEASURES,
    Scores,
    asked,
    at_best_threshold,
    best_variants,
    draw,
    halves,
    interval,
    mean,
    pooled_precision,
    spread,
)
from captum_masking.data.images import EmptyObjectError
from captum_masking.metrics import (
    PxAP,
    completeness,
    completeness_and_soundness,
    deletion,
    masked_scores,
    soundness,
)
from captum_masking.metrics.thresholds import pixel_histograms

SIDE = 16


class Squares:
    """Images of noise with a bright square, its box, and its pixels if asked for."""

    def __init__(self, count: int, *, boxed: bool = True, pixels: bool = False) -> None:
        generator = torch.Generator().manual_seed(count)
        self.images = torch.randn(count, 3, SIDE, SIDE, generator=generator)
        self.corners = torch.randint(0, SIDE // 2, (count, 2), generator=generator).tolist()
        self.labels = [index % 4 for index in range(count)]
        for image, (x, y) in zip(self.images, self.corners, strict=True):
            image[:, y : y + 8, x : x + 8] += 5
        if boxed:
            ends = [torch.tensor([[x, y, x + 8, y + 8]]) / SIDE for x, y in self.corners]
            self.boxes = [end.float() for end in ends]
        if pixels:
            self.pixel_mask = self._pixel_mask

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        return self.images[index], self.labels[index]

    def _pixel_mask(self, index: int, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
        x, y = self.corners[index]
        found = torch.zeros(size, dtype=torch.bool)
        found[y : y + 8, x : x + 8] = True
        return found, torch.zeros_like(found)


def bright(inputs: Tensor, target: Tensor) -> Tensor:
    """Find the square: brightness, smoothed."""
    return torch.nn.functional.avg_pool2d(inputs.mean(1, keepdim=True), 3, 1, 1)


def run(data: Any = None, methods: Any = None, **options: Any) -> Any:
    data = Squares(10) if data is None else data
    methods = {"bright": bright} if methods is None else methods
    model = options.pop("model", None) or cnn()
    options = {"batch_size": 4, "cost_seconds": 0.01, "show_progress": False, **options}
    return benchmark(model, data, methods, **options)


# What a user gets


def test_one_call_with_an_attribution_of_ones_own_writes_the_whole_report(tmp_path):
    classifier = cnn()
    saliency = Saliency(classifier)
    run(methods={"mine": saliency}, model=classifier, out=tmp_path)
    written = {file.name for file in tmp_path.iterdir()}
    assert {"table.md", "table.csv", "result.json", "montage.png", "report.html"} <= written
    found = json.loads((tmp_path / "result.json").read_text())
    assert [row["name"] for row in found["rows"]][-1] == "mine"
    assert "error_at_best" in found["rows"][-1]["values"]


def test_attributions_masks_layers_and_functions_can_stand_side_by_side():
    model = MaskingModel(cnn())
    rows = {
        "masker": MaskingSaliency(model),
        "input": Saliency(model.classifier),
        "layer": LayerGradCam(model.classifier, model.classifier.get_submodule(model.layers[-1])),
        "function": bright,
    }
    result = run(methods=rows, model=model)
    assert not any(row.failure for row in result.rows)
    assert all(row.cost is not None and row.cost.ms >= 0 for row in result.rows)


def test_without_methods_all_that_apply_are_taken_ours_first():
    model = MaskingModel(cnn())
    methods, _ = default_methods(model, torch.randn(2, 3, SIDE, SIDE))
    assert next(iter(methods)) == "MaskingSaliency"
    assert {"Saliency", "IntegratedGradients", "Occlusion", "LayerGradCam"} <= set(methods)


def test_missing_boxes_leave_their_columns_out_and_say_so():
    result = run(Squares(6, boxed=False))
    assert not [column for column in result.columns if "boxes" in column.group]
    assert any("no boxes" in note for note in result.notes)
    assert "saliency_metric" in result["bright"].values


def test_pixel_masks_bring_their_columns():
    result = run(Squares(6, pixels=True))
    perfect = {"perfect": lambda x, t: (bright(x, t) > 2.5).float()}
    assert result["bright"].values["pxap_masks"].mean > 0.9
    assert run(Squares(6, pixels=True), perfect)["perfect"].values["mask_iou"].mean > 0.6


def test_an_image_whose_pixel_mask_is_empty_is_not_judged():
    class Emptied(Squares):
        def _pixel_mask(self, index, size):
            if index == 3:
                raise EmptyObjectError("no object")
            return super()._pixel_mask(index, size)

    all_, fewer = Squares(6, pixels=True), Emptied(6, pixels=True)
    perfect = {"perfect": lambda x, t: (bright(x, t) > 2.5).float()}
    value = run(fewer, perfect)["perfect"].values["mask_iou"].mean
    assert value == pytest.approx(run(all_, perfect)["perfect"].values["mask_iou"].mean, abs=0.1)


def test_an_image_without_boxes_among_others_does_not_count_as_an_error():
    data = Squares(8)
    data.boxes[3] = torch.zeros(0, 4)
    assert run(data)["bright"].values["error_at_mean"].mean == 0


def test_the_numbers_are_those_of_the_metrics():
    result = run()
    assert result["bright"].values["error_at_mean"].mean == 0  # it finds every square
    assert result["bright"].values["energy"].mean > result["random"].values["energy"].mean
    assert result["whole frame"].values["masked_out_accuracy"].mean <= 1
    # the whole frame holds the square of 64 of 256 pixels: an IoU of one quarter
    assert result["whole frame"].values["box_iou"].mean == pytest.approx(0.25)
    assert result["whole frame"].values["average_drop"].mean < 0.05
    assert result["centered square"].values["area"].mean == pytest.approx(0.5, abs=0.1)


def test_the_predicted_class_can_be_explained_where_labels_are_not_the_classifiers():
    data = Squares(6)
    data.labels = [99] * 6  # the classifier has four classes
    result = run(data, predicted=True)
    assert result.setting["accuracy"] == 1
    assert not result["bright"].failure


def test_labels_that_the_classifier_does_not_know_are_refused():
    with pytest.raises(ValueError, match=r"of 200 clean examples.*check_accuracy=False"):
        run(Squares(200), {"bright": bright})


def test_a_limit_takes_the_first_of_one_order():
    few = Images(Squares(12), limit=5, seed=3, batch_size=4)
    all_ = Images(Squares(12), limit=None, seed=3, batch_size=4)
    assert few.indices == all_.indices[:5] != sorted(few.indices)


def test_curves_can_be_kept_to_the_first_images():
    judge = cnn().eval()
    scores, row = Scores(judge, ["curves"], curve_images=4), Method(bright)
    batches = Images(Squares(8), limit=None, seed=0, batch_size=4).batches(judge, predicted=False)
    first, second = (scores(row, row.maps(b.inputs, b.target), b) for b in batches)
    assert set(first) - set(second) == {"insertion", "deletion", "completeness", "soundness"}
    asked_for = {"measures": ["quick", "curves"]}
    few = run(Squares(8), curve_images=4, **asked_for)["bright"]
    all_ = run(Squares(8), **asked_for)["bright"]
    assert few.values["insertion"] != all_.values["insertion"]
    assert few.values["error_at_best"] == all_.values["error_at_best"]


def test_measures_are_asked_for_by_name_and_the_others_are_left_out(capsys):
    class Counting(nn.Module):
        def __init__(self, network):
            super().__init__()
            self.network, self.seen = network, []

        def forward(self, inputs):
            self.seen.append(len(inputs))
            return self.network(inputs)

    judge = Counting(cnn()).eval()
    row, images = Method(bright), Images(Squares(4, pixels=True), limit=None, seed=0, batch_size=4)
    (batch,) = images.batches(judge, predicted=False)
    maps, passes, keys = row.maps(batch.inputs, batch.target), {}, {"correct", "degenerate", "area"}
    everything = set(Scores(judge, asked("all"))(row, maps, batch, maps.mean((1, 2, 3))))
    for name in asked("all"):
        judge.seen.clear()
        arrays = Scores(judge, [name])(row, maps, batch, maps.mean((1, 2, 3)))
        passes[name] = sum(judge.seen) / len(maps)
        assert len(arrays) > 3 and set(arrays) <= everything
        keys |= set(arrays)
    assert keys == everything
    # Clean images have been seen; with steps of 25 of 256 pixels, a curve has 11 more points.
    few = {"le": 0, "iou": 0, "masked": 2, "sm": 1, "equal": 2, "maps": 0, "half": 2, "curves": 33}
    assert {name: passes[name] for name in few} == few and passes["infidelity"] == 13
    result = run(Squares(4), measures="masked, maps", show_progress=True)
    assert "masked_in_accuracy" in result["bright"].values
    assert not {"error_at_mean", "saliency_metric", "insertion"} & set(result["bright"].values)
    others = "le, iou, sm, equal, half, curves, infidelity, sensitivity"
    assert f"Not measured: {others} (see measures)" in result.notes[-1]
    assert result.setting["measures"] == ["masked", "maps"]
    assert re.search(r"about \d+\.\d minutes for 4 images", capsys.readouterr().err)


@pytest.mark.parametrize(("measures", "got"), [("le,speed", "speed"), ([], "none"), ("", "got")])
def test_measures_that_are_unknown_are_refused_with_the_list(measures, got):
    with pytest.raises(ValueError, match=rf"quick, all, le, .*sensitivity, but.* {got}"):
        run(measures=measures)


def test_a_judge_without_its_batch_norm_gives_the_numbers_of_the_one_with_it():
    """Folded, and with the clean logits of the batch: as each metric on its own with the judge."""
    judge, data, maps = cnn().eval(), Squares(6), torch.rand(6, 1, SIDE, SIDE)
    for part in judge.modules():
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.running_var, 0.5, 2)
    order = Images(data, limit=None, seed=0, batch_size=4).indices
    inputs, target = data.images[order], torch.tensor(data.labels)[order]
    found = run(data, {"m": lambda x, t: maps[:0]}, model=judge, measures="masked,half,curves")
    values = found["centered square"].values
    square = trivial_methods()["centered square"].maps(inputs, target)
    for name, score in masked_scores(judge, inputs, square, target).items():
        if name in values:
            assert values[name].mean == pytest.approx(float(score.mean()), abs=1e-5)
    area = deletion(judge, inputs, square, target, step_px=25).mean()
    assert values["deletion"].mean == pytest.approx(float(area), abs=1e-5)


def test_every_method_shows_as_much_of_an_image_as_the_reference_does():
    """Masked in and out by hand: the same count of pixels, the highest of each map."""
    data, judge = Squares(8), cnn().eval()
    dim = Method(lambda inputs, target: bright(inputs, target).sigmoid() / 2, is_mask=True)
    result = run(data, methods={"bright": bright, "dim": dim}, reference="dim")
    kept = {name: [] for name in ("in", "out")}
    for image, label in data:
        maps = dim.maps(image[None], torch.tensor([label]))[0, 0]
        count = round(float(maps.mean()) * maps.numel())
        order = sorted(range(maps.numel()), key=lambda i: -float(maps.flatten()[i]))
        on = torch.zeros(maps.numel())
        on[order[:count]] = 1
        on = on.reshape(maps.shape)
        for name, part in (("in", on), ("out", 1 - on)):
            kept[name].append(float(judge((image * part)[None]).argmax() == label))
    for row in ("bright", "dim"):  # a faint map gains nothing
        values = result[row].values
        assert values["masked_in_own"].mean == pytest.approx(np.mean(kept["in"]))
        assert values["masked_out_own"].mean == pytest.approx(np.mean(kept["out"]))


# Honest numbers


def test_a_threshold_is_never_chosen_on_the_images_it_is_reported_on():
    generator = np.random.default_rng(0)
    rows, parts = generator.random((40, 10)), halves(40, seed=1)
    values, chosen = at_best_threshold(rows, parts)
    for index in range(40):
        others = [rows[other] for other in range(40) if parts[other] != parts[index]]
        best = int(np.argmax(np.mean(others, axis=0)))
        assert values[index] == rows[index, best]
        assert chosen[parts[index]] == best / 10
    assert sum(parts) == 20


def test_levels_have_a_threshold_each():
    rows = np.zeros((4, 2, 3))
    rows[:, 0, 1], rows[:, 1, 2] = 1, 0.5  # level 0 is best at 1/3, level 1 at 2/3
    values, chosen = at_best_threshold(rows, np.array([0, 0, 1, 1]))
    assert values.tolist() == [0.75] * 4
    assert chosen == [0.3333, 0.6667] * 2


def test_intervals_agree_with_another_bootstrap():
    values = np.random.default_rng(0).random(60) ** 2
    ours = interval(mean(values, draw(60, resamples=4000, seed=0)))
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=4000, method="percentile", random_state=1
    ).confidence_interval
    assert ours.mean == pytest.approx(values.mean())
    assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=0.01)


def test_pooled_precision_and_spread_are_those_of_all_images():
    maps, truth = torch.rand(5, 6, 6), torch.rand(5, 6, 6) > 0.5
    metric = PxAP(step=0.01)
    metric.update(maps, truth)
    rows = pixel_histograms(maps, truth, step=0.01).numpy().astype(float)
    once = np.ones((1, 5))
    assert pooled_precision(rows, once)[0] == pytest.approx(float(metric.compute()), abs=1e-6)
    areas = np.array([0.1, 0.4, 0.7])
    assert spread(areas, np.ones((1, 3)))[0] == pytest.approx(areas.std())


def test_differences_are_paired():
    result = run(methods={"one": bright, "same": bright})
    assert result.reference == "one"
    differences = [column["same"] for column in result.differences.values()]
    assert all(d.mean == d.low == d.high == 0 for d in differences)


def test_both_proofs_from_one_curve_are_the_two_functions():
    classifier, images, maps = cnn().eval(), torch.randn(5, 3, 16, 16), torch.rand(5, 1, 16, 16)
    target = torch.tensor([0, 1, 2, 3, 0])
    complete, sound = completeness_and_soundness(classifier, images, maps, target, step_px=40)
    wrong = torch.stack([torch.tensor([k for k in range(4) if k != t]) for t in target])
    assert torch.allclose(complete, completeness(classifier, images, maps, target, step_px=40))
    assert torch.allclose(sound, soundness(classifier, images, maps, wrong, step_px=40))


def test_every_measure_has_a_name_of_its_own_and_says_what_it_is():
    keys = [measure.column.key for measure in MEASURES]
    assert len(set(keys)) == len(keys)
    assert all(measure.column.legend.endswith((".", ")")) for measure in MEASURES)


# Variants: a class activation map may read one layer or another


def dark(inputs: Tensor, target: Tensor) -> Tensor:
    return -bright(inputs, target)


def either(first: Any, second: Any, *names: str) -> Method:
    one, other = names or ("first", "second")
    return Method(first, settings=one, variants=(Method(second, settings=other),))


def test_a_row_with_variants_is_what_its_best_variant_is():
    result = run(methods={"bright": bright, "either": either(dark, bright)})
    assert result["either"].values == result["bright"].values
    assert result.thresholds["either"] == result.thresholds["bright"]
    assert all(
        column["either"].low == column["either"].high == 0 for column in result.differences.values()
    )
    assert result["either"].settings == "first (not chosen) or second (chosen)"
    assert result["bright"].settings == "bright"


def test_a_variant_is_never_chosen_on_the_images_it_is_reported_on():
    generator, parts = np.random.default_rng(0), halves(40, seed=1)
    rows = {name: generator.random((40, 10)) for name in ("a", "b")}
    rows["a"][parts == 0] += 0.3
    rows["b"][parts == 1] += 0.3
    names = best_variants({name: {"found": found} for name, found in rows.items()}, parts)
    assert names == ["b", "a"]  # each part has what the other one chose
    (measure,) = (measure for measure in MEASURES if measure.column.key == "error_at_best")
    errors, chosen = measure.rows([rows[name] for name in names], parts)
    for index in range(40):
        own = rows[names[parts[index]]]
        others = [own[other] for other in range(40) if parts[other] != parts[index]]
        best = int(np.argmax(np.mean(others, axis=0)))
        assert errors[index] == 1 - own[index, best]
        assert chosen[parts[index]] == best / 10


def test_pixel_masks_choose_where_there_are_no_boxes_and_without_either_the_first_stands():
    masked = run(Squares(6, boxed=False, pixels=True), {"either": either(dark, bright)})
    assert masked["either"].settings == "first (not chosen) or second (chosen)"
    asked = Stopping(Squares(6).images)
    assert run(Squares(6, boxed=False), {"m": either(dark, asked)})["m"].settings == "first"
    assert not asked.seen


def test_a_variant_that_raises_leaves_the_row_to_the_others():
    def broken(inputs, target):
        raise ArithmeticError("no map")

    rows = {"bright": bright, "half": either(broken, bright), "none": either(broken, broken)}
    result = run(methods=rows)
    assert result["half"].values["error_at_best"] == result["bright"].values["error_at_best"]
    assert not result["half"].failure and "ArithmeticError: no map) or" in result["half"].settings
    assert "no map" in result["none"].failure and not result["none"].values


def test_variants_are_kept_and_asked_anew_only_if_they_change(tmp_path):
    model, data = cnn(), Squares(10)
    first = run(data, {"m": either(dark, bright)}, model=model, out=tmp_path)
    asked, new = Stopping(data.images), []
    again = run(data, {"m": either(asked, asked)}, model=model, out=tmp_path)
    assert numbers(again) == numbers(first) and not asked.seen
    changed = either(asked, lambda x, t: new.append(x) or dark(x, t), "first", "another")
    after = run(data, {"m": changed}, model=model, out=tmp_path)
    assert new and not asked.seen
    assert after["m"].values["energy"].mean < first["m"].values["energy"].mean


class Mirror(nn.Module):
    def forward(self, maps: Tensor) -> Tensor:
        return maps.flip(-1)


@pytest.mark.parametrize(("mirrors", "read", "best"), [(1, "0", "0"), (2, "1", "2")])
def test_a_cam_reads_the_layer_at_which_it_finds_the_object(mirrors, read, best):
    """Brightness, mirrored before it is pooled: mirrored once, it is no longer at the square."""
    mirrored = [Mirror() for _ in range(mirrors)]
    ends = nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(1, 4)
    classifier = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), *mirrored, *ends)
    for part in (classifier[0], classifier[-1]):
        torch.nn.init.ones_(part.weight)
    model = MaskingModel(classifier, [read])
    before = everything(classifier)
    methods = default_methods(model, torch.randn(2, 3, SIDE, SIDE))[0]
    cam = methods["LayerGradCam"]
    tried = [each.settings.partition("layer=")[2] for each in (cam, *cam.variants)]
    assert tried == [repr(str(mirrors)), repr(read)]  # the map that is pooled, then the masker's
    result = run(Squares(40), {"cam": cam}, model=model)
    assert result["cam"].settings.count("chosen") == 2  # one is chosen by both halves, one is not
    assert f"layer={best!r} (chosen)" in result["cam"].settings
    assert result["cam"].values["error_at_best"].mean < 0.1
    assert_same(before, everything(classifier))


# Bad input


def test_a_method_that_raises_halfway_is_named_and_the_others_finish():
    calls = []

    def tired(inputs, target):
        calls.append(len(inputs))
        if len(calls) > 12:
            raise RuntimeError("no more")
        return bright(inputs, target)

    result = run(
        Squares(200), {"tired": tired, "bright": bright}, measures="le", check_accuracy=False
    )
    assert "RuntimeError: no more" in result["tired"].failure
    assert result["tired"].values == {} and result["bright"].values
    assert result.images == 200


@pytest.mark.parametrize(
    ("explain", "told"),
    [
        (lambda x, t: x[:, :1, ::2, ::2], r"expected maps of shape \(4, 1, 16, 16\)"),
        (lambda x, t: x[:1, :1], "expected maps of shape"),
        (lambda x, t: x.flatten(), "expected maps of shape"),
        (lambda x, t: "a map", "return a tensor"),
    ],
)
def test_maps_that_do_not_fit_fail_in_words(explain, told):
    failure = run(methods={"odd": explain, "bright": bright})["odd"].failure
    assert re.search(told, failure), failure


def test_a_mask_that_leaves_its_range_fails_in_words():
    failure = run(methods={"mask": Method(lambda x, t: 2 + x[:, :1], is_mask=True)})["mask"].failure
    assert "expected masks in [0, 1]" in failure


def test_maps_with_nan_are_counted_and_score_as_no_evidence():
    def broken(inputs, target):
        maps = bright(inputs, target)
        maps[0, 0, 3, 3] = float("nan")
        return maps

    row = run(methods={"broken": broken})["broken"]
    assert row.degenerate == 3  # one in each batch of ten images
    assert row.values["error_at_mean"].mean == pytest.approx(0.3)
    assert not row.failure


def test_what_cannot_be_called_is_refused_before_anything_runs():
    with pytest.raises(TypeError, match="Captum Attribution or a callable"):
        run(methods={"odd": 3})


@pytest.mark.parametrize("library", ["pandas", "jinja2"])
def test_without_a_library_of_the_report_nothing_runs(tmp_path, monkeypatch, library):
    monkeypatch.setitem(sys.modules, library, None)
    method = Stopping(Squares(10).images)
    with pytest.raises(ImportError, match=rf"need {library}.*captum-masking\[benchmark\]"):
        run(methods={"m": method}, out=tmp_path)
    assert not method.seen
    assert run(methods={"bright": bright}).images == 10  # no report, no library


def test_no_image_is_refused():
    with pytest.raises(ValueError, match="at least one image"):
        run(Squares(0))


# Interrupted, continued


class Stopping:
    """Finds the square, and is stopped as by Ctrl-C at the images it was told."""

    def __init__(self, at: Tensor) -> None:
        self.at, self.seen = at, []

    def __call__(self, inputs: Tensor, target: Tensor) -> Tensor:
        self.seen += list(inputs)
        if any(torch.equal(image, other) for image in inputs for other in self.at):
            raise KeyboardInterrupt
        return bright(inputs, target) + 0.1 * torch.rand(len(inputs), 1, SIDE, SIDE)


def numbers(result: Any) -> Any:
    return {row.name: row.values for row in result.rows}


def test_an_interrupted_run_continues_and_ends_as_if_it_had_not_been(tmp_path):
    model, data = cnn(), Squares(40)
    order = Images(data, limit=None, seed=0, batch_size=4).indices
    whole = run(data, {"m": Stopping([])}, model=model, out=tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(data, {"m": Stopping(data.images[order[22:23]])}, model=model, out=tmp_path / "cut")
    again = Stopping(data.images[order[:20]])  # what is done must not be asked again
    assert numbers(run(data, {"m": again}, model=model, out=tmp_path / "cut")) == numbers(whole)
    assert len(again.seen) == 20


def test_a_finished_run_asks_no_method_again(tmp_path):
    model, data = cnn(), Squares(10)
    first = run(data, model=model, out=tmp_path)
    asked = Stopping(data.images)
    again = run(data, {"bright": Method(asked, settings="bright")}, model=model, out=tmp_path)
    assert numbers(again) == numbers(first)
    assert not asked.seen


def test_a_row_can_be_added_to_a_finished_run(tmp_path):
    model, data = cnn(), Squares(10)
    run(data, model=model, out=tmp_path)
    rows = {"bright": Method(Stopping(data.images), settings="bright"), "new": bright}
    both = run(data, rows, model=model, out=tmp_path)
    assert both["new"].values == both["bright"].values


def test_a_row_that_is_set_otherwise_is_measured_anew(tmp_path):
    model = cnn()
    before = run(methods={"m": Method(bright, settings="a")}, model=model, out=tmp_path)
    dark = Method(lambda x, t: -bright(x, t), settings="b")
    after = run(methods={"m": dark}, model=model, out=tmp_path)
    assert after["m"].values["energy"].mean < before["m"].values["energy"].mean
    assert after["random"].values == before["random"].values


def test_a_folder_with_another_benchmark_is_refused_with_the_difference(tmp_path):
    model = cnn()
    run(model=model, out=tmp_path)
    with pytest.raises(ValueError, match="seed: 0 there, 1 now"):
        run(model=model, out=tmp_path, seed=1)
    with pytest.raises(ValueError, match="classifier: "):
        run(model=cnn(seed=1), out=tmp_path)
    with pytest.raises(ValueError, match="data: "):
        run(Squares(10, boxed=False), model=model, out=tmp_path)


# The user's model


def test_the_model_is_given_back_as_it_was_also_by_a_method_that_raises():
    classifier = cnn()
    classifier.train()
    classifier[0].weight.grad = torch.ones_like(classifier[0].weight)
    before, state = everything(classifier), torch.random.get_rng_state()

    class Rude(Saliency):
        def attribute(self, inputs, target=None):
            classifier[0].register_forward_hook(lambda *_: None)
            classifier(inputs.requires_grad_()).sum().backward()
            classifier.train()
            torch.manual_seed(5)
            raise RuntimeError("and out")

    result = run(methods={"rude": Rude(classifier), "bright": bright}, model=classifier)
    assert "and out" in result["rude"].failure
    assert_same(before, everything(classifier))
    assert torch.equal(state, torch.random.get_rng_state())
