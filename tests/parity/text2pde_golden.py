"""The golden files of physics: which there are, what is in them, and the rule of their weights.

Every ``text2pde_*``, ``gno_*``, ``pderefiner_*`` and ``airphynet_*`` pair in ``tests/golden``, and
in the folder named by ``RECTIFLOW_GOLDEN``, is checked by the same code; a case is chosen by the
prefix of its name.
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

    def given(self, name):
        """Return an input, which is stored or drawn."""
        shapes = self.about["drawn_inputs"]["shapes"]
        key = f"in/{name}"
        if name in shapes:
            return torch.from_numpy(self._draw(key, shapes[name]).astype(np.float32))
        return self.tensors.get(key)

    def cut(self, name, value):
        """Return the part of a whole output that is stored."""
        text = self.about["slices"].get(f"out/{name}")
        return value if text is None else eval(f"value{text}", {}, {"value": value})

    def assert_near(self, name, value):
        """Compare an output with the stored part, its norm and its largest value."""
        wanted, about = self.tensors[f"out/{name}"], self.about["outputs"].get(name)
        tolerance = float(re.search(r"<= ([\d.e-]+) \*", self.about["tolerance"]["outputs"])[1])
        value = value.detach()
        found = self.cut(name, value)
        assert found.shape == wanted.shape, name
        scale = wanted.abs().max().item()
        if about is not None:
            assert list(value.shape) == about["shape"], name
            scale = about["max_abs"]
            assert value.double().norm().item() == pytest.approx(about["l2"], rel=10 * tolerance)
        assert (found - wanted).abs().max().item() <= tolerance * scale, name

    def assert_gradients(self, outputs, parameters):
        """Compare the loss of the json and the norms of its gradients by official name."""
        wanted, terms = self.about["loss"], []
        for name, value in wanted["terms"].items():
            drawn = self._draw(f"loss/{name}", outputs[name].shape).astype(np.float32)
            terms.append((outputs[name] * torch.from_numpy(drawn)).mean())
            assert terms[-1].item() == pytest.approx(value, abs=2e-6 + 1e-3 * abs(value)), name
        sum(terms).backward()
        # The stored norms are of float32: one that is a thousandth of the largest is known less
        # well, and comes out otherwise on another processor (in float64 some are 7e-3 off).
        rounding = 2e-5 * max(wanted["grad_l2"].values())
        for name, norm in wanted["grad_l2"].items():
            found = parameters[name].grad.double().norm().item()
            assert found == pytest.approx(norm, rel=2e-3, abs=rounding), name

    def weights(self):
        """Draw the tensors of the official layout."""
        about = self.about["weights"]
        drawn = {key: self._weight(key, shape) for key, shape in about["shapes"].items()
                 if key not in about["kept_official"]}  # fmt: skip
        digest = hashlib.sha256()
        for key in sorted(drawn):
            digest.update(drawn[key].numpy().astype("<f4").tobytes())
        assert digest.hexdigest() == about["sha256"]
        return drawn

    def _weight(self, key, shape):
        z = self._draw(key, shape)
        fan_in = np.prod(shape[1:])
        for special in self.about["weights"]["special"]:
            if re.search(special["pattern_regex"], key):
                z = special["a"] * z
                if "fan_in" in special["form"]:
                    z /= np.sqrt(fan_in)
                elif "shape[0]" in special["form"]:
                    z /= np.sqrt(shape[0])
                return torch.from_numpy(z.astype(np.float32))
        if len(shape) >= 2:
            z = z / np.sqrt(fan_in)
        else:
            z = 1 + 0.1 * z if key.endswith("weight") else 0.05 * z
        return torch.from_numpy(z.astype(np.float32))

    def _draw(self, key, shape):
        seed = [self.about["seed"], zlib.crc32(key.encode())]
        return np.random.default_rng(seed).standard_normal(tuple(shape))


def cases(prefix):
    """Return the cases of a prefix such as ``text2pde_dit_`` as parameters of a test."""
    found = [
        Case(path)
        for folder in FOLDERS
        for path in sorted(folder.glob(f"{prefix}*.safetensors"))
        if path.with_suffix(".json").is_file()
    ]
    return [pytest.param(case, id=case.path.stem) for case in found]


def is_heavy(case):
    """Whether a backward pass, or a forward pass on a whole grid, takes long."""
    about = case.about["weights"]
    return case.config.get("latent_grid_size", 0) > 32 or about["num_params"] > 100_000_000


def load(module, case):
    """Give a network the drawn weights; buffers that the authors keep stay as they are made."""
    lacking, unexpected = module.load_state_dict(case.weights(), strict=False)
    assert set(lacking) <= {"latent_grid", "scale"}, lacking
    assert not unexpected
    return module.eval()
