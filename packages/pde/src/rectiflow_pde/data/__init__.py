"""Flows on disk: prepared shards, and what becomes of files and of a solver's output."""

from rectiflow_pde.data.captions import caption_of, published_reynolds
from rectiflow_pde.data.prepared import PreparedFlows, Statistics

__all__ = ["PreparedFlows", "Statistics", "caption_of", "published_reynolds"]
