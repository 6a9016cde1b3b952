"""The golden files of FlowSep: which there are, what is in them, and the rule of their weights.

Every ``flowsep_*`` pair of json and safetensors in ``tests/golden``, and in the folder named by
``RECTIFLOW_GOLDEN``, is checked by the same code; a case is chosen by the prefix of its name.
"""

import hashlib
import json
import os
import re
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


@dataclass(frozen=True)
class Case:
    """A golden pair: ``about`` is the json, ``tensors`` the safetensors."""

    path: Path

    @cached_property
    def about(self):
        return json.loads(self.path.with_suffix(".json").read_text())

    @cached_property
    def tensors(self):
        return load_file(self.path)

    @property
    def config(self):
        return self.about["config"]

    @property
    def is_large(self):
        """Whether it has a released network's size, so that a backward pass takes long."""
        return self.about["weights"]["num_parameters"] > 50_000_000

    def __getitem__(self, name):
        return self.tensors[name]

    def starting(self, prefix):
        """Return the tensors whose names start so, without the prefix."""
        return {k[len(prefix) :]: v for k, v in self.tensors.items() if k.startswith(prefix)}


def cases(prefix, *, large=None):
    """Return the cases of a prefix such as ``flowsep_vae_`` as parameters of a test.

    ``large`` keeps only those that are, or are not, of a released network's size.
    """
    found = [
        Case(path)
        for folder in FOLDERS
        for path in sorted(folder.glob(f"{prefix}*.safetensors"))
        if path.with_suffix(".json").is_file()
    ]
    if large is not None:
        found = [case for case in found if case.is_large == large]
    return [pytest.param(case, id=case.path.stem) for case in found]


def draw_weights(case):
    """Draw the tensors of the official layout (the vocoder's: without weight norm)."""
    about = case.about["weights"]
    rates = case.config.get("upsample_rates")
    drawn = {}
    for key, shape in case.about["state_dict"].items():
        if key.endswith(".filter"):
            drawn[key] = case["const.filter"].reshape(shape)
            continue
        z = _normal(about["seed"], key, shape)
        stage = re.fullmatch(r"ups\.(\d+)\.0\.weight", key)
        if stage and rates:
            z /= np.sqrt(shape[0] * shape[2] / rates[int(stage[1])])
        elif len(shape) >= 2:
            z /= np.sqrt(np.prod(shape[1:]))
        elif key.endswith("weight"):
            z = 1 + 0.1 * z
        elif key.endswith((".alpha", ".beta")):
            z *= 0.3
        else:
            z *= 0.05
        drawn[key] = _scaled(key, z, about["factors"])
    _check(drawn, about)
    return drawn


def draw_weights_with_norm(case):
    """Draw the vocoder's tensors in the layout with ``weight_g`` and ``weight_v``."""
    about, seed = case.about["weights"]["weight_norm_layout"], case.about["weights"]["seed"]
    factors, rates = about["factors_weight_norm"], case.config["upsample_rates"]
    plain = draw_weights(case)
    drawn = {}
    for key, like in plain.items():
        if not key.endswith(".weight"):
            drawn[key] = like
            continue
        shape = tuple(like.shape)
        direction, length = f"{key}_v", f"{key}_g"
        v = _normal(seed, direction, shape) / np.sqrt(np.prod(shape[1:]))
        g = 1 + 0.1 * _normal(seed, length, (shape[0],) + (1,) * (len(shape) - 1))
        if stage := re.fullmatch(r"ups\.(\d+)\.0\.weight", key):
            g *= np.sqrt(shape[1] * rates[int(stage[1])] / shape[0])
        drawn[direction] = _scaled(direction, v, {})
        drawn[length] = _scaled(length, g, factors)
    _check(drawn, about)
    return drawn


def assert_near(found, wanted, tolerance, what=""):
    """Compare by the rule of the golden files: ``max|a - b| <= tolerance * max|b|``."""
    assert found.shape == wanted.shape, what
    error = (found - wanted).abs().max().item()
    scale = wanted.abs().max().item()
    assert error <= tolerance * scale, f"{what}: {error:.3g} of {scale:.3g}"


def assert_gradients(wanted, parameters, inputs, *, relative=2e-4):
    """Compare L2 norms of ``.grad`` by official name with a ``gradients*`` entry of the json."""
    for name, norm in wanted["parameters"].items():
        assert _norm(parameters[name].grad) == pytest.approx(norm, rel=relative), name
    for name, norm in wanted.get("inputs", {}).items():
        assert _norm(inputs[name].grad) == pytest.approx(norm, rel=relative), name
    norms = [_norm(p.grad) for p in parameters.values() if p.grad is not None]
    assert np.linalg.norm(norms) == pytest.approx(wanted["all_parameters"], rel=relative)


class Recorder:
    """Keeps the outputs of named modules while it is entered."""

    def __init__(self, modules):
        self.modules, self.outputs, self._hooks = modules, {}, []

    def __enter__(self):
        for name, module in self.modules.items():
            self._hooks.append(module.register_forward_hook(self._keep(name)))
        return self.outputs

    def __exit__(self, *_):
        for hook in self._hooks:
            hook.remove()

    def _keep(self, name):
        def keep(module, given, output):
            value = output[0] if isinstance(output, tuple) else output
            self.outputs[name] = value.detach().clone()

        return keep


def _norm(gradient):
    """Return the L2 norm; over millions of small values float32 would be 2e-4 off."""
    return gradient.double().norm().item()


def _normal(seed, key, shape):
    return np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(tuple(shape))


def _scaled(key, z, factors):
    factor = next((f for suffix, f in factors.items() if key.endswith(suffix)), 1.0)
    return torch.from_numpy(np.asarray(z * factor, dtype=np.float32))


def _check(drawn, about):
    """Compare the drawn tensors with the digest in the json, before anything is computed."""
    names = sorted(name for name in drawn if not name.endswith(".filter"))
    assert (len(drawn), len(names)) == (about["num_tensors"], about["num_drawn"])
    for name, values in about["first_values"].items():
        first = drawn[name].flatten()[: len(values)]
        assert first.tolist() == pytest.approx(values, rel=1e-6), name
    digest = hashlib.sha256()
    for name in names:
        digest.update(drawn[name].numpy().astype("<f4").tobytes())
    assert digest.hexdigest() == about["sha256"]
