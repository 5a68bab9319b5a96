"""The loop of a benchmark: batch by batch, method by method, each kept on disk once it is done."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from tqdm import tqdm

from captum_masking.benchmark.cost import measure_cost
from captum_masking.benchmark.guard import untouched
from captum_masking.benchmark.method import Method
from captum_masking.benchmark.result import Cost
from captum_masking.benchmark.scores import Arrays, Scores
from captum_masking.benchmark.store import Store
from captum_masking.benchmark.truth import Batch, Images

#: Images in the montage, and in the batch that is timed.
SHOWN, TIMED = 6, 8


class Loop:
    """Measures methods and keeps what it finds.

    Args:
        methods: By name.
        judge: The classifier whose answers count, in eval mode.
        scores: What is measured.
        store: Where it is kept.
        seed: Of each batch's random numbers.
        cost_seconds: For timing a method.

    Attributes:
        failures: By name, why a method was dropped.

    Source:
        Own.
    """

    def __init__(
        self,
        methods: Mapping[str, Method],
        judge: nn.Module,
        scores: Scores,
        store: Store,
        *,
        seed: int,
        cost_seconds: float,
    ) -> None:
        self.methods, self.judge, self.scores = methods, judge, scores
        self.store, self.seed, self.cost_seconds = store, seed, cost_seconds
        self.failures: dict[str, str] = {}

    def run(self, images: Images, *, predicted: bool, show_progress: bool) -> None:
        """Measure what is not yet in the store; a method that raises is dropped."""
        with tqdm(
            total=len(images) * len(self.methods), unit="map", disable=not show_progress
        ) as bar:
            for batch in images.batches(self.judge, predicted=predicted):
                for name in self.methods:
                    bar.set_postfix_str(name)
                    self._try(name, batch)
                    bar.update(len(batch.inputs))

    def _try(self, name: str, batch: Batch) -> None:
        if name in self.failures or self.store.has(name, batch.first):
            return
        method = self.methods[name]
        modules = [] if method.module is None else [method.module]
        try:
            with untouched(self.judge, *modules, seed=self.seed + batch.first):
                arrays = self._measure(name, method, batch)
        except Exception as error:  # any method may raise anything; the others are to go on
            told = f"{type(error).__name__}: {' '.join(str(error).split())}"
            self.failures[name] = f"failed after {batch.first} images: {told}"
        else:
            self.store.write(name, batch.first, arrays)

    def _measure(self, name: str, method: Method, batch: Batch) -> Arrays:
        inputs, target = batch.inputs, batch.target
        maps = method.maps(inputs.clone(), target)
        if batch.first == 0:
            self.store.write_cost(name, self._cost(method, inputs[:TIMED].clone(), target[:TIMED]))
            self.store.write(name, "maps", {"maps": maps[:SHOWN, 0].half()})
        return self.scores(method, maps, batch)

    def _cost(self, method: Method, inputs: Tensor, target: Tensor) -> Cost:
        seconds = self.cost_seconds
        return measure_cost(method.explain, self._forward, inputs, target, seconds=seconds)

    @torch.no_grad()
    def _forward(self, inputs: Tensor) -> Tensor:
        logits: Tensor = self.judge(inputs)
        return logits
