"""Trajectories by rectified flow: GeoTDM.

References
----------
Han et al., "Geometric Trajectory Diffusion Models" (NeurIPS 2024, arXiv 2410.13027).
"""
