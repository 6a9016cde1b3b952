"""Meshes, mosaics and made-up shapes as training data."""
