"""From structure files to training batches."""

from __future__ import annotations

from rectiflow_protein.data.archive import Archive, read_archive
from rectiflow_protein.data.batching import Batches, LengthBatches, PaddedBatches, collate
from rectiflow_protein.data.clusters import join_clusters, kmer_clusters, read_clusters
from rectiflow_protein.data.crops import Crop, CropBatches
from rectiflow_protein.data.dataset import BackboneDataset, example, renumber
from rectiflow_protein.data.filters import (
    Filter,
    LengthFilter,
    MaximumFilter,
    RadiusOfGyrationFilter,
)
from rectiflow_protein.data.prepare import PUBLISHED_FILTERS, prepare
from rectiflow_protein.data.prepared import PreparedBackbones

__all__ = [
    "PUBLISHED_FILTERS",
    "Archive",
    "BackboneDataset",
    "Batches",
    "Crop",
    "CropBatches",
    "Filter",
    "LengthBatches",
    "LengthFilter",
    "MaximumFilter",
    "PaddedBatches",
    "PreparedBackbones",
    "RadiusOfGyrationFilter",
    "collate",
    "example",
    "join_clusters",
    "kmer_clusters",
    "prepare",
    "read_archive",
    "read_clusters",
    "renumber",
]
