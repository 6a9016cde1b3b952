"""Rotations of three-dimensional space as unit quaternions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rectiflow.spaces.base import Space
from rectiflow.states import State, expand_time

if TYPE_CHECKING:
    from jaxtyping import Float

_SMALL = 1e-6  # sin(x)/x and x/atan(x) are 1 to float64 rounding below the square root of this

_SERIES = (
    1e-2  # below it three terms of the series of dexp are exact to 1e-10, without cancellation
)


def quat_multiply(p: Float[Tensor, "*b 4"], q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Hamilton product ``p ⊗ q``, scalar first; ``R(p ⊗ q) = R(p) R(q)``."""
    pw, pv = p[..., :1], p[..., 1:]
    qw, qv = q[..., :1], q[..., 1:]
    pv, qv = torch.broadcast_tensors(pv, qv)
    w = pw * qw - (pv * qv).sum(-1, keepdim=True)
    v = pw * qv + qw * pv + torch.linalg.cross(pv, qv)
    return torch.cat([w, v], dim=-1)


def quat_conjugate(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 4"]:
    """Inverse of a unit quaternion."""
    return torch.cat([q[..., :1], -q[..., 1:]], dim=-1)


def quat_to_rotmat(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3 3"]:
    """Rotation matrix of a unit quaternion; columns are the images of the axes."""
    w, x, y, z = q.unbind(-1)
    ww, xx, yy, zz = w * w, x * x, y * y, z * z
    xy, xz, yz = 2 * x * y, 2 * x * z, 2 * y * z
    wx, wy, wz = 2 * w * x, 2 * w * y, 2 * w * z
    rows = [ww + xx - yy - zz, xy - wz, xz + wy]
    rows += [xy + wz, ww - xx + yy - zz, yz - wx]
    rows += [xz - wy, yz + wx, ww - xx - yy + zz]
    return torch.stack(rows, dim=-1).unflatten(-1, (3, 3))


def rotmat_to_quat(r: Float[Tensor, "*b 3 3"]) -> Float[Tensor, "*b 4"]:
    """Return the unit quaternion of a rotation matrix, with ``w >= 0``.

    Divides by the largest of the four components, which is at least 1/2, so that no rotation is
    ill-conditioned.
    """
    m = r.flatten(-2)
    m00, m01, m02, m10, m11, m12, m20, m21, m22 = m.unbind(-1)
    # Row k holds 4 q_k (w, x, y, z): pick the row with the largest diagonal entry 4 q_k².
    rows = torch.stack(
        [
            torch.stack([1 + m00 + m11 + m22, m21 - m12, m02 - m20, m10 - m01], -1),
            torch.stack([m21 - m12, 1 + m00 - m11 - m22, m10 + m01, m02 + m20], -1),
            torch.stack([m02 - m20, m10 + m01, 1 - m00 + m11 - m22, m21 + m12], -1),
            torch.stack([m10 - m01, m02 + m20, m21 + m12, 1 - m00 - m11 + m22], -1),
        ],
        dim=-2,
    )
    best = torch.diagonal(rows, dim1=-2, dim2=-1).argmax(-1)
    q = torch.take_along_dim(rows, best[..., None, None], dim=-2).squeeze(-2)
    q = q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)
    return torch.where(q[..., :1] < 0, -q, q)


def quat_to_rotvec(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b 3"]:
    """Rotation vector (axis times angle, radians, angle in ``[0, pi]``) of a unit quaternion.

    Both signs of ``q`` give the same vector. ``2 atan2(|v|, w) / |v|`` keeps all digits at every
    angle, where ``acos(w)`` loses half of them near zero; the gradient at the identity is finite.
    """
    w, v = q[..., :1], q[..., 1:]
    sign = torch.where(w < 0, -1.0, 1.0).to(q.dtype)
    w, v = w * sign, v * sign
    squared = (v * v).sum(-1, keepdim=True)
    small = squared < _SMALL
    norm = torch.sqrt(torch.where(small, torch.ones_like(squared), squared))
    large_scale = 2 * torch.atan2(norm, w) / norm
    w_safe = torch.where(small, w, torch.ones_like(w))
    ratio = squared / (w_safe * w_safe)
    small_scale = 2 / w_safe * (1 - ratio / 3 + ratio * ratio / 5)
    return v * torch.where(small, small_scale, large_scale)


def rotvec_to_quat(v: Float[Tensor, "*b 3"]) -> Float[Tensor, "*b 4"]:
    """Return the unit quaternion of a rotation vector of any length; smooth at zero."""
    half2 = (v * v).sum(-1, keepdim=True) / 4
    small = half2 < _SMALL
    half = torch.sqrt(torch.where(small, torch.ones_like(half2), half2))
    sinc = torch.where(small, 1 - half2 / 6 + half2 * half2 / 120, torch.sin(half) / half)
    cos = torch.where(small, 1 - half2 / 2 + half2 * half2 / 24, torch.cos(half))
    return torch.cat([cos, sinc * v / 2], dim=-1)


def _unit(q: Tensor) -> Tensor:
    return q / torch.linalg.vector_norm(q, dim=-1, keepdim=True)


@dataclass(frozen=True)
class Rotations(Space):
    """SO(3) as unit quaternions ``(w, x, y, z)``, tangent vectors as body-frame rotation vectors.

    ``q`` and ``-q`` are one rotation. Geodesics take the short way and keep the hemisphere of
    their start, so the sign of a moving state never flips; at a dot product of exactly zero (angle
    pi) the sign of the end point decides, which is the convention of ReQFlow.

    References
    ----------
    Yue et al., "ReQFlow: Rectified Quaternion Flow" (ICML 2025), exponential-form SLERP.
    """

    point_ndim = 1

    def log(self, x: State, y: State) -> Tensor:
        """Return the body-frame rotation vector ``log(x⁻¹ y)``, of norm in ``[0, pi]``."""
        assert isinstance(x, Tensor) and isinstance(y, Tensor)
        return quat_to_rotvec(quat_multiply(quat_conjugate(_unit(x)), _unit(y)))

    def move(self, x: State, v: State, h: float | Tensor) -> Tensor:
        """Return ``x ⊗ exp(h v / 2)``; along a geodesic it is the exponential form of SLERP."""
        assert isinstance(x, Tensor) and isinstance(v, Tensor)
        return _unit(quat_multiply(x, rotvec_to_quat(expand_time(h, v) * v)))

    def dexp(self, w: State, v: State) -> Tensor:
        """Return ``v - (1 - cos θ)/θ² w × v + (θ - sin θ)/θ³ w × (w × v)`` with ``θ = |w|``."""
        assert isinstance(w, Tensor) and isinstance(v, Tensor)
        squared = (w * w).sum(-1, keepdim=True)
        small = squared < _SERIES
        s = torch.where(small, torch.ones_like(squared), squared)
        angle = s.sqrt()
        first = torch.where(
            small, 1 / 2 - squared / 24 + squared**2 / 720, 2 * (angle / 2).sin().square() / s
        )
        second = torch.where(
            small, 1 / 6 - squared / 120 + squared**2 / 5040, (angle - angle.sin()) / (s * angle)
        )
        across = torch.linalg.cross(w, v)
        return v - first * across + second * torch.linalg.cross(w, across)

    def prior(
        self,
        shape: Sequence[int],
        *,
        generator: torch.Generator | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> Tensor:
        """Draw uniform rotations: normalised Gaussian quaternions, shape ``(*shape, 4)``."""
        q = torch.randn(*shape, 4, generator=generator, device=device, dtype=dtype)
        return _unit(q)


def rotation_angle(q: Float[Tensor, "*b 4"]) -> Float[Tensor, "*b"]:
    """Angle of a rotation in radians, in ``[0, pi]``."""
    angle = 2 * torch.atan2(torch.linalg.vector_norm(q[..., 1:], dim=-1), q[..., 0].abs())
    return angle.clamp(max=math.pi)
