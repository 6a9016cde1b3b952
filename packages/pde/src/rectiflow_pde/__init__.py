"""Physics simulation by latent flow on meshes: Text2PDE."""
