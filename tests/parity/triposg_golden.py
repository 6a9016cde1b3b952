"""The golden files of TripoSG: which there are, what is in them, and the rule of their weights.

Every ``triposg_*`` pair of json and safetensors in ``tests/golden``, and in the folder named by
``RECTIFLOW_GOLDEN``, is checked by the same code; a case is chosen by the prefix of its name.
Cases of more than :data:`HEAVY` parameters take tens of seconds and gigabytes: they run where
``RECTIFLOW_HEAVY`` is set.
"""

import fnmatch
import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

FOLDERS = [Path(__file__).resolve().parents[1] / "golden"]
if "RECTIFLOW_GOLDEN" in os.environ:
    FOLDERS.append(Path(os.environ["RECTIFLOW_GOLDEN"]))

HEAVY = 20_000_000


@dataclass(frozen=True)
class Case:
    """A golden pair: ``about`` is the json, ``tensors`` the safetensors."""

    path: Path

    @cached_property
    def about(self):
        return json.loads(self.path.with_suffix(".json").read_text())

    @cached_property
    def tensors(self):
        drawn = self.about.get("generated_inputs", {}).get("tensors", {})
        return load_file(self.path) | {
            name: self._input(name, told) for name, told in drawn.items()
        }

    def __getitem__(self, name):
        return self.tensors[name]

    def starting(self, prefix):
        """Return the tensors whose names start so, without the prefix."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}

    def contexts(self):
        """Return the conditions, one or two."""
        return [self[name] for name in ("in/context", "in/context_2") if name in self.tensors]

    def check(self, name, found):
        """Compare with a stored tensor within the tolerance of its name."""
        told = self.about["tolerance"]
        wanted = self[name]
        assert found.shape == wanted.shape, name
        for pattern, bound in told["float32_abs"].items():
            if fnmatch.fnmatch(name, pattern):
                assert (found - wanted).abs().max().item() <= bound, name
                return
        [bound] = [b for p, b in told["float32_relative"].items() if fnmatch.fnmatch(name, p)]
        assert ((found - wanted).abs() / wanted.abs()).max().item() <= bound, name

    def check_gradients(self, told, loss, gradients, inputs=None):
        """Compare a loss and L2 norms of gradients by official name."""
        bound = self.about["tolerance"]
        assert abs(loss.item() - told["loss_value"]) <= bound["loss_value_abs"]
        relative = bound["gradient_norms_relative"]
        for name, norm in told["parameters"].items():
            found = gradients[name].double().norm().item()
            assert found == pytest.approx(norm, rel=relative), name
        for name, norm in told.get("inputs", {}).items():
            found = inputs[name].grad.double().norm().item()
            assert found == pytest.approx(norm, rel=relative), name

    def _input(self, name, told):
        value = _normal(self.about["weights"]["seed"], name, told["shape"]).astype(np.float32)
        assert hashlib.sha256(value.astype("<f4").tobytes()).hexdigest() == told["sha256"], name
        return torch.from_numpy(value)


def cases(prefix):
    """Return the cases of a prefix such as ``triposg_vae_`` as parameters of a fixture."""
    found = [
        Case(path)
        for folder in FOLDERS
        for path in sorted(folder.glob(f"{prefix}*.safetensors"))
        if path.with_suffix(".json").is_file()
    ]
    return [pytest.param(case, id=case.path.stem, marks=_marks(case)) for case in found]


def _marks(case):
    size = case.about.get("weights", {}).get("num_parameters", 0)
    skipped = size > HEAVY and "RECTIFLOW_HEAVY" not in os.environ
    return [pytest.mark.skipif(skipped, reason=f"{size:,} parameters; set RECTIFLOW_HEAVY=1")]


def draw_weights(about, shapes):
    """Draw the tensors of the official layout, and compare them with the digest of the json."""
    told, drawn = about["weights"], {}
    for key, shape in shapes.items():
        z = _normal(told["seed"], key, shape)
        if len(shape) >= 2:
            z /= np.sqrt(np.prod(shape[1:]))
        elif key.endswith("weight"):
            z = 1 + 0.1 * z
        else:
            z *= 0.05
        z *= next((f for suffix, f in told["factors"].items() if key.endswith(suffix)), 1.0)
        drawn[key] = torch.from_numpy(z.astype(np.float32))
    assert len(drawn) == told["num_tensors"]
    assert sum(value.numel() for value in drawn.values()) == told["num_parameters"]
    digest = hashlib.sha256()
    for name in sorted(drawn):
        digest.update(drawn[name].numpy().astype("<f4").tobytes())
    assert digest.hexdigest() == told["sha256"]
    return drawn


class Recorder:
    """Keeps the outputs of blocks, in order, while it is entered."""

    def __init__(self, blocks):
        self.blocks, self.outputs, self._hooks = blocks, [], []

    def __enter__(self):
        for block in self.blocks:
            hook = block.register_forward_hook(
                lambda *given: self.outputs.append(given[2].detach())
            )
            self._hooks.append(hook)
        return self.outputs

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()


def rms(values):
    """Return the root mean square of each tensor."""
    return torch.stack([value.double().square().mean().sqrt() for value in values]).float()


def _normal(seed, key, shape):
    return np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(tuple(shape))
