"""Checks of the map that comes back."""

from __future__ import annotations

import copy
from typing import Any

import torch
from captum.attr import NoiseTunnel
from torch import Tensor, nn

from captum_masking.testing.report import Check, attempt, expect, expect_close


def explain(attribution: Any, inputs: Any, target: Any = 0, **options: Any) -> Any:
    """Call ``attribute``; an error becomes an ``AssertionError`` with the way out.

    Source:
        Own.

    Example:
        >>> from captum.attr import Saliency
        >>> explain(Saliency(lambda x: 2 * x), torch.ones(1, 1))
        tensor([[2.]])
    """
    return attempt(
        lambda: attribution.attribute(inputs, target=target, **options),
        "attribute(inputs, target=...) to return a map",
        "inputs come first; target, and what you pass as options, are keywords.",
    )


def the_map_has_the_shape_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's infidelity asks for it."""
    got = explain(attribution, inputs, **options)
    expect(
        isinstance(got, Tensor) and got.shape == inputs.shape,
        f"a tensor of shape {tuple(inputs.shape)}",
        tuple(got.shape) if isinstance(got, Tensor) else type(got).__name__,
        "repeat a map of one channel with .expand_as(inputs).clone().",
    )


def the_map_has_the_dtype_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Maps are added to and compared with inputs."""
    got = explain(attribution, inputs, **options).dtype
    expect(
        got == inputs.dtype, f"a map of {inputs.dtype}", got, "return attribution.to(inputs.dtype)."
    )


def the_map_is_on_the_device_of_the_input(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Maps are added to and compared with inputs."""
    got = explain(attribution, inputs, **options).device
    expect(got == inputs.device, f"a map on {inputs.device}", got, "move it there.")


def the_map_is_finite(attribution: Any, model: nn.Module, inputs: Tensor, **options: Any) -> None:
    """NaN spreads through every metric and breaks Captum's pictures."""
    good = explain(attribution, inputs, **options).isfinite()
    bad = f"{int((~good).sum())} of {good.numel()} values NaN or infinite"
    expect(good.all(), "finite values", bad, "look for a division by zero.")


def the_map_asks_for_no_gradient(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A graph that hangs on to the map holds the model's memory."""
    got = explain(attribution, inputs, **options)
    expect(not got.requires_grad, "a detached map", "one with a graph", "return it .detach()-ed.")


def the_map_can_be_viewed_and_written_to(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's sensitivity_max flattens it; an expanded tensor fails there."""
    got = explain(attribution, inputs, **options)
    way_out = "return .expand_as(inputs).clone(memory_format=torch.contiguous_format)."
    attempt(lambda: got.view(len(got), -1), "a map that .view(N, -1) flattens", way_out)
    before = inputs.detach().clone()
    attempt(lambda: got.fill_(7), "a map with memory of its own", way_out)
    expect(torch.equal(inputs, before), "a map apart from the inputs", "a view of them", way_out)


def a_tuple_gives_a_tuple(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's sensitivity_max passes a tuple of one, and takes the map out of one."""
    got = explain(attribution, (inputs,), **options)
    way_out = "return (attribution,) if isinstance(inputs, tuple) else attribution."
    expect(
        isinstance(got, tuple) and len(got) == 1,
        "a tuple of one map for a tuple of one input",
        type(got).__name__,
        way_out,
    )
    bare = explain(attribution, inputs, **options)
    expect_close(got[0], bare, "the same map with and without a tuple", way_out)


def a_batch_gives_what_its_inputs_give_one_by_one(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A map must not depend on what else is in the batch."""
    together = explain(attribution, inputs, **options)
    alone = torch.cat([explain(attribution, one, **options) for one in inputs.split(1)])
    expect_close(
        together,
        alone,
        "the same maps for a batch as for its inputs one by one",
        "hold the model in eval mode meanwhile, and average nothing over the batch.",
    )


def asking_twice_gives_the_same_map(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """A map that changes cannot be published."""
    first = explain(attribution, inputs, **options).clone()
    expect_close(
        explain(attribution, inputs, **options),
        first,
        "the same map when asked twice",
        "draw random numbers from a torch.Generator seeded at each call.",
        tolerance=1e-6,
    )


def it_works_without_gradients(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """NoiseTunnel and Captum's metrics call it under no_grad."""
    wanted = explain(attribution, inputs, **options)
    with torch.no_grad():
        got = explain(attribution, inputs, **options)
    expect_close(
        got, wanted, "the same map under no_grad", "switch gradients on inside with enable_grad()."
    )


def noise_tunnel_takes_it(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Captum's NoiseTunnel calls the function behind the decorator of ``attribute``."""
    way_out = "decorate attribute with captum.log.log_usage, and define multiplies_by_inputs."
    with torch.random.fork_rng(devices=[inputs.device] if inputs.is_cuda else []):
        got = attempt(
            lambda: NoiseTunnel(attribution).attribute(inputs, nt_samples=2, target=0, **options),
            "NoiseTunnel(attribution) to work",
            way_out,
        )
    expect(got.shape == inputs.shape, f"shape {tuple(inputs.shape)}", tuple(got.shape), way_out)


def a_deep_copy_gives_the_same_map(
    attribution: Any, model: nn.Module, inputs: Tensor, **options: Any
) -> None:
    """Users send attributions to other processes."""
    way_out = "keep no open file, lock or generator in it, or define __deepcopy__."
    copied = attempt(lambda: copy.deepcopy(attribution), "copy.deepcopy to work", way_out)
    wanted = explain(attribution, inputs, **options)
    expect_close(explain(copied, inputs, **options), wanted, "the same map of a copy", way_out)


CHECKS: list[Check] = [
    the_map_has_the_shape_of_the_input,
    the_map_has_the_dtype_of_the_input,
    the_map_is_on_the_device_of_the_input,
    the_map_is_finite,
    the_map_asks_for_no_gradient,
    the_map_can_be_viewed_and_written_to,
    a_tuple_gives_a_tuple,
    a_batch_gives_what_its_inputs_give_one_by_one,
    asking_twice_gives_the_same_map,
    it_works_without_gradients,
    noise_tunnel_takes_it,
    a_deep_copy_gives_the_same_map,
]
