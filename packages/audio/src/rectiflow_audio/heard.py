"""How far the wave that masking makes of a prediction is from the wanted one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from rectiflow_audio.masking import mel_ratio_mask

if TYPE_CHECKING:
    from jaxtyping import Float
    from torch import Tensor

    from rectiflow_audio.frontend import LogMel


@dataclass(frozen=True)
class HeardError:
    r"""Energy of the error of a separated wave, in logarithm, and the distance of its log-mel.

    .. math:: \ln\Bigl(\frac{\sum |m Y - S|^2}{\sum |Y|^2} + c\Bigr)
        + d \, \mathrm{LSD}(\mathrm{mel}(m Y), \mathrm{mel}(S))

    with the spectra ``Y`` of the mixture and ``S`` of the wanted sound and the mask ``m`` of the
    predicted log-mel. An error of compressed magnitudes has its least at their mean, whose power
    is far below the mean of powers, and it knows no phase: mixture bins that point away from the
    target are best not passed in full. The first term has its least at what is measured; it hardly
    knows the soft bins, which are most of what :func:`mel_log_spectral_distance
    <rectiflow_audio.metrics.mel_log_spectral_distance>` counts.

    Parameters
    ----------
    weight : float
        Of this loss beside the flow's.
    floor : float, default 0.01
        ``c``: what is 20 dB below the mixture is good enough; of silence that is wanted, too.
    spectral : float, default 0
        ``d``, of the log-spectral distance of mel bands, in powers of ten.
    """

    weight: float
    floor: float = 0.01
    spectral: float = 0.0

    def __post_init__(self) -> None:
        if not (self.weight > 0 and self.floor > 0 and self.spectral >= 0):
            raise ValueError(
                "weight and floor must be positive and spectral not negative, got "
                f"{self.weight}, {self.floor} and {self.spectral}; leave the loss out for none."
            )

    def __call__(
        self,
        log_mel: LogMel,
        estimate: Float[Tensor, "b frames mels"],
        target: Float[Tensor, "b n"],
        mixture: Float[Tensor, "b n"],
    ) -> Float[Tensor, " b"]:
        """Return the loss of each row, without the weight.

        Parameters
        ----------
        log_mel : LogMel
            The front end.
        estimate : Tensor, shape (b, frames, mels)
            Predicted log-mels; later frames of the waves do not count.
        target, mixture : Tensor, shape (b, n)
            Waves.
        """
        frames = estimate.shape[1]
        wanted, given = (log_mel.stft(wave)[..., :frames] for wave in (target, mixture))
        share = mel_ratio_mask(estimate, log_mel.compress(given.abs()), log_mel, exponent=1.0)
        error = (share * given - wanted).abs().square().sum((-2, -1))
        energy = given.abs().square().sum((-2, -1)).clamp_min(1e-8)
        lost = (error / energy + self.floor).log()
        if not self.spectral:
            return lost
        heard, meant = (log_mel.compress(s) for s in (share * given.abs(), wanted.abs()))
        apart = (2 / math.log(10) * (heard - meant)).square().mean(-1)
        # Equal frames of silence are common, and the root has no slope at 0.
        return lost + self.spectral * (apart + 1e-6).sqrt().mean(-1)
