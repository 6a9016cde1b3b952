"""Distances of sets of sounds: Gaussians over their embeddings."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow_audio.frontend import LogMel

if TYPE_CHECKING:
    from jaxtyping import Float

Embedder = Callable[[Tensor], Tensor]
"""From a waveform ``(n,)`` at 16 kHz to its embeddings ``(k, d)``: one a window."""


@dataclass(frozen=True)
class Gaussian:
    """Mean and covariance of a set of embeddings, in float64.

    Attributes
    ----------
    mean : Tensor, shape (d,)
        Their mean.
    covariance : Tensor, shape (d, d)
        Unbiased: divided by one less than their number.
    """

    mean: Float[Tensor, " d"]
    covariance: Float[Tensor, "d d"]

    @classmethod
    def of(cls, embeddings: Float[Tensor, "n d"]) -> Gaussian:
        """Fit to at least two embeddings.

        Raises
        ------
        ValueError
            If there are fewer, or the shape is another.
        """
        if embeddings.ndim != 2 or len(embeddings) < 2:
            raise ValueError(
                "a covariance needs at least two embeddings, got shape "
                f"{tuple(embeddings.shape)}; expected (n, d) with n > 1. Measure more sounds."
            )
        x = embeddings.double()
        mean = x.mean(0)
        centred = x - mean
        return cls(mean, centred.T @ centred / (len(x) - 1))


def frechet_distance(a: Gaussian, b: Gaussian) -> float:
    r"""Return the squared Fréchet (2-Wasserstein) distance of two Gaussians.

    .. math:: |\mu_a - \mu_b|^2 + \mathrm{tr}\left( C_a + C_b - 2 (C_a C_b)^{1/2} \right)

    Computed from the eigenvalues of :math:`C_a^{1/2} C_b C_a^{1/2}`, which are those of
    :math:`C_a C_b`: also for singular covariances, of fewer sounds than channels, nothing becomes
    complex.

    Parameters
    ----------
    a, b : Gaussian
        Of the same width.

    Raises
    ------
    ValueError
        If the widths differ.

    References
    ----------
    Dowson and Landau, "The Fréchet distance between multivariate normal distributions" (1982).

    Examples
    --------
    >>> one = Gaussian(torch.zeros(1), torch.tensor([[4.0]]))
    >>> two = Gaussian(torch.ones(1), torch.tensor([[9.0]]))
    >>> round(frechet_distance(one, two), 6)  # 1² + (3 - 2)²
    2.0
    """
    if a.mean.shape != b.mean.shape:
        raise ValueError(
            f"the Gaussians must have one width, got {len(a.mean)} and {len(b.mean)}. Use the "
            "same embedding for both."
        )
    mean_a, mean_b, cov_a, cov_b = (
        x.double() for x in (a.mean, b.mean, a.covariance, b.covariance)
    )
    values, vectors = torch.linalg.eigh(cov_a)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    product = torch.linalg.eigvalsh(root @ cov_b @ root).clamp(min=0)
    shift = (mean_a - mean_b).square().sum()
    spread = cov_a.trace() + cov_b.trace() - 2 * product.sqrt().sum()
    return max(0.0, float(shift + spread))


def frechet_audio_distance(
    estimates: Iterable[Float[Tensor, " n"]],
    references: Iterable[Float[Tensor, " n"]],
    embed: Embedder,
) -> float:
    """Fréchet audio distance (FAD) of two sets of sounds.

    Parameters
    ----------
    estimates, references : iterable of Tensor, shape (n,)
        Waveforms at 16 kHz, of any lengths; the two sets need not be paired.
    embed : callable
        :class:`~rectiflow_audio.metrics.Vggish` for published figures;
        :func:`mel_statistics` needs no weights but compares with no published figure.

    Returns
    -------
    float
        0 is best. Biased upward for small sets: compare sets of one size only.

    Raises
    ------
    ValueError
        If a set has fewer than two embeddings.

    References
    ----------
    Kilgour et al., "Fréchet Audio Distance" (Interspeech 2019).
    """
    with torch.no_grad():
        sets = [
            Gaussian.of(torch.cat([embed(wave).cpu() for wave in waves] or [torch.empty(0, 1)]))
            for waves in (estimates, references)
        ]
    return frechet_distance(*sets)


def mel_statistics(wave: Float[Tensor, " n"], log_mel: LogMel | None = None) -> Tensor:
    """Embed a waveform without a network: mean and deviation of each mel band over a second.

    Parameters
    ----------
    wave : Tensor, shape (n,)
        At the front end's rate.
    log_mel : LogMel, optional
        The front end; the released one if absent.

    Returns
    -------
    Tensor, shape (k, 2 · n_mels)
        One row a second begun.
    """
    log_mel = log_mel or LogMel().to(wave.device)
    frames = log_mel.config.sample_rate // log_mel.config.hop
    seconds = log_mel(wave)[:-1].split(frames)
    return torch.stack([torch.cat([x.mean(0), x.std(0, correction=0)]) for x in seconds])
