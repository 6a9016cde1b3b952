"""Reading meshes, fields, series and trajectories of others, and writing for ParaView."""
