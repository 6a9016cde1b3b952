"""Commands of the trajectories domain. Each is imported when it runs."""

from rectiflow_cli.domains import Verb

VERBS = {
    "simulate": Verb(f"{__name__}.simulate", "Simulate charged particles, springs or gravity."),
    "forecast": Verb(f"{__name__}.forecast", "Forecast what follows the frames of files."),
    "sample": Verb(f"{__name__}.sample", "Make trajectories for prepared graphs."),
    "eval": Verb(f"{__name__}.eval", "Measure forecasts against what happened."),
    "pairs": Verb(f"{__name__}.pairs", "Sample pairs of noise and trajectory for reflow."),
    "tune": Verb(f"{__name__}.tune", "Search the times of few steps for a checkpoint."),
    "convert": Verb(f"{__name__}.convert", "Convert GeoTDM's checkpoints to ours and back."),
    "prepare": Verb(f"{__name__}.prepare", "Turn files of trajectories into shards of windows."),
}
