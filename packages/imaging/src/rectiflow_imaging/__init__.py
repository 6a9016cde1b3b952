"""Images and volumes by rectified flow: drawn, reconstructed, restored, deformed and registered.

Research software, not a medical device.

References
----------
Zheng et al., "Deformation-Recovery Diffusion Model (DRDM)" (Medical Image Analysis 2026); Liu et
al., "Residual Denoising Diffusion Models" (CVPR 2024); Chung et al., "Solving 3D Inverse Problems
using Pre-trained 2D Diffusion Models" (CVPR 2023).
"""

from rectiflow_imaging.io import Volume, read_volume, write_volume
from rectiflow_imaging.networks import ImageUNet, RecoveryNetwork
from rectiflow_imaging.pipeline import DeformationPipeline, ImagePipeline
from rectiflow_imaging.registration import Registration, register
from rectiflow_imaging.restoration import RestorationPipeline
from rectiflow_imaging.result import ImageResult

__all__ = [
    "DeformationPipeline",
    "ImagePipeline",
    "ImageResult",
    "ImageUNet",
    "RecoveryNetwork",
    "Registration",
    "RestorationPipeline",
    "Volume",
    "read_volume",
    "register",
    "write_volume",
]
