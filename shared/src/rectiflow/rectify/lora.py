"""Low-rank adapters: a few numbers beside each weight, trained alone, stored alone, stacked."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from rectiflow.storage.faults import CheckpointError
from rectiflow.storage.files import write_tensors
from rectiflow.storage.pretrained import read_card
from rectiflow.storage.tensor_files import load_tensors

ADAPTER = "adapter.safetensors"
"""Name of an adapter in the folder of an export."""

_ADAPTED = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)


class LowRank(nn.Module):
    r"""What is added to a weight, :math:`W + s\,B A`; a matrix of each output's inputs.

    A convolution counts as a linear map of all that its kernel covers. It is a parametrization:
    code that reads ``layer.weight`` sees the sum.
    """

    def __init__(self, down: Tensor, up: Tensor, scale: float) -> None:
        super().__init__()
        self.down, self.up, self.scale = nn.Parameter(down), nn.Parameter(up), scale

    def delta(self) -> Tensor:
        """Return ``s B A``, shape (out, in)."""
        return self.scale * (self.up @ self.down)

    def forward(self, weight: Tensor) -> Tensor:
        """Return the weight with the adapter's part."""
        return weight + self.delta().reshape(weight.shape).to(weight.dtype)


@dataclass(frozen=True)
class Adapter:
    """The adapters of a network as a value.

    Attributes
    ----------
    factors : mapping of str to (Tensor, Tensor)
        ``A (rank, in)`` and ``B (out, rank)`` by the name of the layer.
    scale : float
        The factor s of their product.

    References
    ----------
    Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models" (ICLR 2022); Luo et al.,
    "LCM-LoRA: A Universal Stable-Diffusion Acceleration Module" (arXiv 2311.05556).
    """

    factors: Mapping[str, tuple[Tensor, Tensor]] = field(hash=False)
    scale: float = 1.0

    @classmethod
    def of(cls, network: nn.Module, index: int = -1) -> Adapter | None:
        """Return the adapter that a network wears, the last of a stack; None if there is none."""
        parts = {name: layers[index] for name, layers in _stacks(network).items()}
        if not parts:
            return None
        factors = {
            name: (part.down.detach().clone(), part.up.detach().clone())
            for name, part in parts.items()
        }
        return cls(factors, next(iter(parts.values())).scale)

    def save(self, path: Path | str) -> None:
        """Write the adapter alone to a safetensors file."""
        ends = ("down", "up")
        tensors = {
            f"{name}.{end}": value
            for name, pair in self.factors.items()
            for end, value in zip(ends, pair, strict=True)
        }
        told = {"class": "Adapter", "scale": self.scale}
        write_tensors(path, tensors, {"format": "pt", "rectiflow": json.dumps(told)})

    @classmethod
    def load(cls, path: Path | str) -> Adapter:
        """Read an adapter from its file, from a folder that holds it, or from a run.

        Raises
        ------
        FileNotFoundError
            When there is none.
        CheckpointError
            When the file is no adapter.
        """
        places = (Path(path), Path(path) / ADAPTER, Path(path) / "export" / ADAPTER)
        file = next((place for place in places if place.is_file()), None)
        if file is None:
            raise FileNotFoundError(
                f"no adapter at {str(path)!r}; expected a file {ADAPTER}, or a run or an export "
                "that has one."
            )
        told, tensors = read_card(file), load_tensors(file)
        names = sorted({name.rpartition(".")[0] for name in tensors})
        whole = {f"{name}.{end}" for name in names for end in ("down", "up")} == tensors.keys()
        scale = told.get("scale")
        known = told.get("class") == "Adapter" and isinstance(scale, float) and math.isfinite(scale)
        if not (known and names and whole):
            raise CheckpointError(file, "is no adapter, expected what a training of one exports")
        if not all(torch.isfinite(value).all() for value in tensors.values()):
            raise CheckpointError(file, "holds NaN or infinity; its training failed")
        return cls(
            {n: (tensors[f"{n}.down"], tensors[f"{n}.up"]) for n in names}, float(scale or 0)
        )

    def __mul__(self, weight: float) -> Adapter:
        """Return the adapter with another strength."""
        return Adapter(self.factors, self.scale * weight)

    def attach(self, network: nn.Module) -> None:
        """Put the adapter on a network, over those that it wears.

        Raises
        ------
        ValueError
            When a layer is not there, or of another shape.
        """
        for name, layer in self._layers(network).items():
            down, up = (value.detach().clone().to(layer.weight) for value in self.factors[name])
            part = LowRank(down, up, self.scale)
            parametrize.register_parametrization(layer, "weight", part)

    @torch.no_grad()
    def merge(self, network: nn.Module, sign: float = 1.0) -> None:
        """Add the adapter to the weights themselves; ``sign=-1`` takes it out, to rounding."""
        for name, layer in self._layers(network).items():
            down, up = (
                value.to(layer.weight.device, torch.float64) for value in self.factors[name]
            )
            delta = sign * self.scale * (up @ down)
            layer.weight.copy_(layer.weight.double() + delta.reshape(layer.weight.shape))

    def _layers(self, network: nn.Module) -> dict[str, Any]:
        layers = dict(network.named_modules())
        for name, (down, up) in self.factors.items():
            layer: Any = layers.get(name)
            weight = layer.weight if isinstance(layer, _ADAPTED) else torch.empty(0, 0)
            found, wanted = (len(weight), weight[:1].numel()), (len(up), down.shape[1])
            if found != wanted or up.shape[1] != len(down):
                raise ValueError(
                    f"the adapter is of another network: it has a part for {name!r} of "
                    f"{wanted[1]} inputs and {wanted[0]} outputs, got "
                    f"{'no such layer' if layer is None else f'{found[1]} and {found[0]}'}. Use "
                    "it with the weights it was trained on."
                )
        return {name: layers[name] for name in self.factors}


def adapted(
    network: nn.Module,
    *,
    rank: int = 8,
    scale: float = 1.0,
    match: Sequence[str] = ("*",),
    seed: int = 0,
) -> nn.Module:
    """Put a fresh adapter on a network and freeze all else; it says what it said before.

    Parameters
    ----------
    network : nn.Module
        Changed in place, and returned.
    rank : int, default 8
        Of each product, at most that of the weight.
    scale : float, default 1.0
        Papers' ``alpha / rank``.
    match : sequence of str, default all
        Patterns, ``*`` for anything, of the names of linear layers and convolutions to adapt.
    seed : int
        Of A; B starts at zero.

    Raises
    ------
    ValueError
        When the rank is not positive, or nothing matches.
    """
    if rank < 1:
        raise ValueError(f"rank must be at least 1, got {rank}; 4 to 64 is usual.")
    chosen = {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _ADAPTED) and any(fnmatchcase(name, each) for each in match)
    }
    if not chosen:
        raise ValueError(
            f"no layer is named like {list(match)}; expected names of linear layers or "
            "convolutions, as in network.named_modules()."
        )
    generator = torch.Generator().manual_seed(seed)
    network.requires_grad_(False)
    for layer in chosen.values():
        weight: Any = layer.weight
        outputs, inputs = len(weight), weight[0].numel()
        r = min(rank, outputs, inputs)
        down = torch.randn(r, inputs, generator=generator) / math.sqrt(inputs)
        part = LowRank(down.to(weight), weight.new_zeros(outputs, r), scale)
        parametrize.register_parametrization(layer, "weight", part)
    return network


def detach(network: nn.Module) -> None:
    """Take all adapters off a network: its own weights are what they were, bit for bit."""
    _remove(network, keep=False)


def merge(network: nn.Module) -> None:
    """Make the adapters that a network wears part of its weights: it is plain again, as fast."""
    _remove(network, keep=True)


@contextmanager
def merged(network: nn.Module) -> Iterator[nn.Module]:
    """Give a network its adapters as part of its weights inside the block, apart after it."""
    stacks = _stacks(network)
    layers: dict[str, Any] = {name: network.get_submodule(name) for name in stacks}
    own = {name: layer.parametrizations.weight.original.data for name, layer in layers.items()}
    merge(network)
    try:
        yield network
    finally:
        for name, layer in layers.items():
            layer.weight.data = own[name]
            for part in stacks[name]:
                parametrize.register_parametrization(layer, "weight", part)


def _remove(network: nn.Module, *, keep: bool) -> None:
    # Not torch's own removal: it takes the property off a class that copies of the layer share.
    for name in _stacks(network):
        layer: Any = network.get_submodule(name)
        plain = parametrize.type_before_parametrizations(layer)
        own = layer.parametrizations.weight.original
        if keep:
            own.data = layer.weight.detach()
        del layer.parametrizations
        layer.__class__ = plain
        layer.register_parameter("weight", own)


def _stacks(network: nn.Module) -> dict[str, list[Any]]:
    """Return the adapters of each layer, in the order they were put on."""
    found: dict[str, list[Any]] = {}
    for name, layer in network.named_modules():
        if parametrize.is_parametrized(layer, "weight"):
            parts: Any = layer.parametrizations
            if all(isinstance(part, LowRank) for part in parts.weight):
                found[name] = list(parts.weight)
    return found
