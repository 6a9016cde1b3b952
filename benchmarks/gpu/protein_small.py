"""Train the small backbone network on this device, as far as the time goes.

Called again with the same output folder it continues. The averaged weights lie in
``protein-small/export``, in the form that ``from_pretrained`` reads.
"""

from __future__ import annotations

import torch
from backbone_runs import (
    PADDED_TO,
    PAIRS_PER_STEP,
    chains,
    data_quality,
    export,
    held_out_batches,
    quality,
    train,
)
from entry import parse, write
from rectiflow.training import FlowData, read_metrics
from rectiflow_protein.data import PaddedBatches, collate
from rectiflow_protein.networks import ReQFlowConfig, ReQFlowNetwork

SIZES = ReQFlowConfig(
    c_s=128,
    c_z=32,
    c_pos_emb=64,
    c_timestep_emb=64,
    feat_dim=16,
    c_hidden=16,
    heads=4,
    qk_points=4,
    v_points=8,
    blocks=4,
)
MAX_STEPS = 30_000


def padded(items: list) -> dict:
    return collate(items, multiple=PADDED_TO)


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    dataset, held_out, lengths, clusters = chains(args.data)
    batches = PaddedBatches(lengths, clusters, max_num_res_squared=PAIRS_PER_STEP)

    torch.manual_seed(0)
    network = ReQFlowNetwork(SIZES)
    data = FlowData(dataset, batches, held_out_batches(held_out) or None, collate_fn=padded)
    run = args.out / "protein-small"
    steps = train(
        network, data, run / "run", args, lr=1e-3, max_steps=MAX_STEPS, ema=0.9995
    )  # fmt: skip
    averaged = export(network, run / "run", run / "export", steps=steps, chains=len(dataset))
    logged = read_metrics(run / "run" / "metrics.csv")
    last = {name: float(value) for row in logged for name, value in row.items() if value}
    write(
        args,
        "protein-small",
        {
            "steps": steps,
            "complete": steps >= MAX_STEPS,
            "chains": len(dataset),
            "last_metrics": last,
            "quality_50_steps": quality(averaged, 50, args),
            "quality_natural": data_quality(held_out),
        },
    )
    print(f"{steps} of {MAX_STEPS} steps")


if __name__ == "__main__":
    main()
