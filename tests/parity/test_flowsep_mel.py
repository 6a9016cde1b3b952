"""The log-mel front end against the authors' own: every ``flowsep_mel_*`` golden file."""

from __future__ import annotations

import json

import pytest
import torch
import torch.nn.functional as F
from rectiflow_audio.frontend import LogMel, MelConfig, normalise
from safetensors.torch import load_file


def config_of(official: dict) -> MelConfig:
    """Translate the authors' names."""
    assert official["win_length"] == official["filter_length"]
    return MelConfig(
        sample_rate=official["sampling_rate"],
        n_fft=official["filter_length"],
        hop=official["hop_length"],
        n_mels=official["n_mel_channels"],
        fmin=float(official["mel_fmin"]),
        fmax=float(official["mel_fmax"]),
    )


def test_front_end(golden):
    paths = golden.matching("flowsep_mel_")
    assert paths
    for path in paths:
        check(load_file(path), json.loads(path.with_suffix(".json").read_text()))


def check(tensors: dict[str, torch.Tensor], facts: dict) -> None:
    """Compare everything a file holds."""
    log_mel = LogMel(config_of(facts["config"]))
    wave = tensors["in.waveform_normalised"]
    magnitude = log_mel.magnitude(wave)
    samples = facts["padded_frames"] * log_mel.config.hop
    padded = log_mel(F.pad(wave, (0, samples - len(wave))))[: facts["padded_frames"]]
    head = tensors["out.log_mel_padded_head"]
    got = {
        "in.waveform_normalised": normalise(tensors["in.waveform_raw"])[0],
        "out.log_mel": log_mel(wave),
        "out.log_mel_loud": log_mel(4 * wave),
        "out.magnitude_first8": magnitude[:, :8],
        "out.energy": magnitude.norm(dim=0),
        "out.log_mel_padded_head": padded[: len(head)],
    }
    tolerance = facts["tolerance"]
    for name, value in got.items():
        expected = tensors[name]
        assert value.shape == expected.shape, name
        scale = 1.0 if "log_mel" in name else float(expected.abs().max())
        limit = tolerance.get(name, tolerance["default"]) * scale
        assert float((value - expected).abs().max()) <= limit, name
    tail = padded[len(head) :]
    assert len(tail)
    assert float((tail - facts["padded_tail_value"]).abs().max()) <= 1e-6
    rows, columns = tensors["const.mel_basis_index"].long().T
    filters = torch.zeros_like(log_mel.filters)
    filters[rows, columns] = tensors["const.mel_basis_value"]
    torch.testing.assert_close(log_mel.filters, filters, atol=1e-7, rtol=0)


def test_a_batch_gives_what_its_rows_give(golden):
    wave = load_file(golden("flowsep_mel_small.safetensors"))["in.waveform_normalised"]
    mel = LogMel()(torch.stack([wave, 0.5 * wave]))
    assert float((mel[0] - LogMel()(wave)).abs().max()) < 1e-4
    with pytest.raises(AssertionError):
        torch.testing.assert_close(mel[0], mel[1])
