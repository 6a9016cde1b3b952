"""Keys of the authors' configuration that users bring along, and what to tell them."""

from __future__ import annotations

from collections.abc import Iterable

from rectiflow_cli.errors import UsageError

DEAD = (
    "batch_ot",
    "sample_temp",
    "rog",
    "do_sde",
    "timestep_int",
    "max_num_res",
    "relpos_k",
    "single_bias_transition_n",
)
"""Keys that no line of the authors' code reads; so are those that begin with ``vpsde``."""

OURS = {
    "experiment.optimizer": "optimizer.lr, optimizer.weight_decay",
    "experiment.trainer": "trainer.max_steps, trainer.accumulate, trainer=gpu4",
    "experiment.num_devices": "trainer.devices",
    "experiment.seed": "seed",
    "experiment.warm_start": "network=pretrained weights=CHECKPOINT",
    "experiment.training": "training.objective.loss.*",
    "data.dataset": "data.min_length and data.max_length; other filters are flags of prepare",
    "data.sampler": "data.module.batching.*",
    "data.loader": "data.module.num_workers",
    "model": "network.sizes.*",
    "interpolant.sampling": "validation.steps, and sample --steps",
    "interpolant.rots": "training.objective.flow.*, and sample --rotation, --rate",
    "interpolant": "training.objective.*, and flags of sample",
    "inference": "a flag of sample",
}
"""Groups of the authors' configuration, and what they are here; the longest match counts."""


def reject_official_keys(words: Iterable[str]) -> None:
    """Refuse overrides that belong to the authors' code, saying what to do instead.

    Parameters
    ----------
    words : iterable of str
        Overrides as typed.

    Raises
    ------
    UsageError
        For the first such key.
    """
    for word in words:
        key, equals, _ = word.partition("=")
        key = key.lstrip("+~")
        if not equals or key.startswith("-"):
            continue
        name = key.rpartition(".")[2]
        if name in DEAD or name.startswith("vpsde"):
            raise UsageError(
                f"{key!r} does nothing: the authors' configuration has it, but no line of their "
                "code reads it. Leave it out."
            )
        group = next((k for k in OURS if key.startswith(f"{k}.") or key == k), None)
        if group is not None:
            raise UsageError(f"{key!r} is a key of the authors' code; here: {OURS[group]}.")
