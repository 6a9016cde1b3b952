"""Images and volumes by rectified flow: deformed (DRDM), restored, reconstructed.

Research software, not a medical device.

References
----------
Zheng et al., "Deformation-Recovery Diffusion Model (DRDM)" (Medical Image Analysis 2026); Liu et
al., "Residual Denoising Diffusion Models" (CVPR 2024); Chung et al., "Solving 3D Inverse Problems
using Pre-trained 2D Diffusion Models" (CVPR 2023).
"""

from rectiflow_imaging.networks import RecoveryNetwork

__all__ = ["RecoveryNetwork"]
