"""Networks of TripoSG and Mosaic-SDF."""

from rectiflow_shape.networks.dit import TripoSGDiT
from rectiflow_shape.networks.mosaic import MosaicTransformer
from rectiflow_shape.networks.vae import Posterior, TripoSGVae

__all__ = ["MosaicTransformer", "Posterior", "TripoSGDiT", "TripoSGVae"]
