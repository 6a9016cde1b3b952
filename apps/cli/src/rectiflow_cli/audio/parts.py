"""What the audio configs name by ``_target_``: trained parts to go on from, and stored pairs."""

from __future__ import annotations

from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.config_root import config_root
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from rectiflow_audio.data import Wordings
    from rectiflow_audio.networks import SeparationUNet, SpectrogramVae, UNetConfig
    from rectiflow_audio.networks.vocoder import BigVgan
    from rectiflow_audio.pipeline import SeparationPipeline

PARAPHRASES = "paraphrases"
"""Name of the list of wordings that comes with the configs."""


def pretrained_network(weights: str) -> SeparationUNet:
    """Load a flow to train further.

    Parameters
    ----------
    weights : str
        A shipped name, a folder, the authors' checkpoint, or ``owner/name``.
    """
    return _pipeline(weights).unet.train()


def network_after(start: str, sizes: UNetConfig) -> SeparationUNet:
    """Make a network that starts from another's weights wherever name and shape agree.

    Parameters
    ----------
    start : str
        As for :func:`pretrained_network`.
    sizes : UNetConfig
        Of the new network.
    """
    from rectiflow_audio.networks import SeparationUNet

    network = SeparationUNet(sizes)
    own, known = network.state_dict(), _pipeline(start).unet.state_dict()
    network.load_state_dict(
        {
            name: known[name] if name in known and known[name].shape == value.shape else value
            for name, value in own.items()
        }
    )
    return network


def pretrained_vae(weights: str) -> SpectrogramVae:
    """Load an autoencoder.

    Parameters
    ----------
    weights : str
        The export of an autoencoder's training, the authors' ``vae.ckpt``, or whatever
        :func:`pretrained_network` takes.
    """
    from rectiflow_audio.networks import SpectrogramVae

    if _holds(weights, SpectrogramVae):
        return SpectrogramVae.from_pretrained(weights)
    if Path(weights).is_file():
        from rectiflow_audio.weights import load_official_vae

        return load_official_vae(weights)
    return _pipeline(weights).vae


def pretrained_vocoder(weights: str | None) -> BigVgan | None:
    """Load a vocoder; None where there is none.

    Parameters
    ----------
    weights : str, optional
        The export of a vocoder's training, the authors' ``g_01000000``, or whatever
        :func:`pretrained_network` takes.
    """
    from rectiflow_audio.networks.vocoder import BigVgan

    if weights is None:
        return None
    if _holds(weights, BigVgan):
        return BigVgan.from_pretrained(weights)
    if Path(weights).is_file():
        from rectiflow_audio.weights import load_official_vocoder

        return load_official_vocoder(weights)
    return _pipeline(weights).vocoder


def weight_normed(vocoder: BigVgan) -> BigVgan:
    """Return a vocoder whose weights have a length and a direction, as the authors train it."""
    vocoder.apply_weight_norm()
    return vocoder


def without_weight_norm(vocoder: BigVgan) -> BigVgan:
    """Return a copy with plain weights; the vocoder itself stays as it is trained."""
    import torch
    from rectiflow_audio.networks.vocoder import BigVgan

    copied = BigVgan(vocoder.sizes)
    with torch.no_grad():
        for name, value in [*copied.named_parameters(), *copied.named_buffers()]:
            value.copy_(attrgetter(name)(vocoder))
    return copied


def wordings(path: str | None) -> Wordings | None:
    """Read further captions per label.

    Parameters
    ----------
    path : str, optional
        A CSV file with label and caption, or ``paraphrases`` for the list that comes with the
        configs. None for none.
    """
    if path is None:
        return None
    from rectiflow_audio.data import Wordings

    found = Path(path)
    if path == PARAPHRASES and not found.exists():
        found = config_root() / "audio" / "data" / f"{PARAPHRASES}.csv"
    if not found.is_file():
        raise UsageError(
            f"there is no {path}; expected a CSV file with label and caption, or {PARAPHRASES!r}."
        )
    return Wordings.read(found)


def _pipeline(weights: str) -> SeparationPipeline:
    from rectiflow_audio.pipeline import SeparationPipeline

    return SeparationPipeline.from_pretrained(weights)


def _holds(weights: str, kind: Any) -> bool:
    """Say whether a folder was written by ``save_pretrained`` of that class."""
    from rectiflow.storage.pretrained import read_config

    try:
        return read_config(weights)["class"] == kind.__name__
    except (FileNotFoundError, KeyError):
        return False
