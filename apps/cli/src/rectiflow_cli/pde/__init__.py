"""Commands of the physics domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "solve": Verb(f"{__name__}.solve", "Solve flows with a reference solver, into shards."),
    "prepare": Verb(f"{__name__}.prepare", "Turn flows of other solvers into shards."),
    "simulate": Verb(f"{__name__}.simulate", "Simulate flows from words or a first frame."),
    "rollout": Verb(f"{__name__}.rollout", "Step a Kuramoto-Sivashinsky state on."),
    "forecast": Verb(f"{__name__}.forecast", "Forecast concentrations at stations."),
    "assimilate": Verb(f"{__name__}.assimilate", "Estimate flows from sensors' readings."),
    "eval": Verb(f"{__name__}.eval", "Measure simulations against solved flows."),
    "pairs": Verb(f"{__name__}.pairs", "Sample pairs of noise and latents, for reflow."),
    "convert": Verb(f"{__name__}.convert", "Convert the authors' checkpoints."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
}
