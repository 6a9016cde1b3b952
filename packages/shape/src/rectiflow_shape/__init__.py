"""3D shapes by rectified flow: Mosaic-SDF and TripoSG."""
