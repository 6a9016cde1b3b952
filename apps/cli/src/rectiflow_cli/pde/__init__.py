"""``rectiflow pde``: the commands of physics simulation."""

from rectiflow_cli.domains import Verb

VERBS = {
    "simulate": Verb("rectiflow_cli.pde.simulate", "Simulate flows from words or a first frame."),
    "eval": Verb("rectiflow_cli.pde.eval", "Measure simulations against solved flows."),
    "pairs": Verb("rectiflow_cli.pde.pairs", "Sample pairs of noise and latents, for reflow."),
    "convert": Verb("rectiflow_cli.pde.convert", "Convert the authors' checkpoints."),
}
