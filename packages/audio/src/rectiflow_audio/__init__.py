"""FlowSep: sound separation by text query in VAE latents."""
