"""``rectiflow pde pairs``: what reflow trains on."""

from __future__ import annotations

from typing import Any

from rectiflow import commands
from rectiflow.commands import Candidates, Parser, add_sampler, positive
from rectiflow.costs import Load
from rectiflow.solvers import Euler

from rectiflow_cli.errors import UsageError
from rectiflow_cli.pde.flags import Pde


class Pairs(Pde, commands.Pairs):
    """Sample pairs of noise and latents with a trained network, told flows of a data set."""

    examples = ("SHARDS --weights runs/pde -o pairs", "SHARDS --weights runs/pde --real -o pairs")
    takes = "Prepared flows, whose numbers and first frames the network is told."
    plans = True

    def own_flags(self, parser: Parser) -> None:
        """Add how the pairs are sampled."""
        add = parser.group("sampling")
        add("--steps", type=positive, default=50, help="Of the solver.")
        add_sampler(add, "euler")
        add("--guidance", type=float, help="Goes into the pairs; the checkpoint's own if absent.")

    def candidates(self, args: Any, pipe: Any) -> Candidates:
        """Return what makes the pairs."""
        from rectiflow_pde.data.datamodule import flows_of, require
        from rectiflow_pde.data.rasters import RasteredFlows
        from rectiflow_pde.data.windows import FlowWindows
        from rectiflow_pde.reflow import diffusion_pair_sampler, pair_sampler

        settings = pipe.settings
        flows = flows_of(args.shards, "train")
        require(flows, args.shards)
        if settings.raster is None:
            if (
                args.real
                or args.guidance
                or args.solver != Euler()
                or args.grid
                or pipe.conditioner is None
            ):
                raise UsageError(
                    "pairs of the authors' diffusion are sampled by DDIM under a first frame; "
                    "leave --real, --guidance, --solver and --grid out."
                )
            windows = FlowWindows(flows, settings.scaling, settings.frames, seed=args.seed)
            made = diffusion_pair_sampler(pipe, windows, steps=args.steps, seed=args.seed)
            load = Load(args.batch, 1, args.steps, part="frame")
            ddim = {"steps": args.steps, "solver": "ddim"}
            return Candidates(made, args.num or None, told=ddim, load=load)
        told = settings.raster, settings.scaling, settings.frames
        examples = RasteredFlows(flows, *told, step=settings.frame_step, seed=args.seed)
        guidance = settings.guidance if args.guidance is None else args.guidance
        sample = pair_sampler(
            pipe,
            examples,
            steps=args.steps,
            seed=args.seed,
            solver=args.solver,
            grid=args.grid,
            guidance=guidance,
            real=args.real,
        )
        grid = args.grid and repr(args.grid)
        described = {
            "steps": args.steps,
            "solver": repr(args.solver),
            "grid": grid,
            "guidance": guidance,
        }
        num = args.num or (len(examples) if args.real else None)
        load = Load(args.batch, 1, args.steps * args.solver.nfe, part="frame")
        return Candidates(sample, num, told=described, load=load)


main = Pairs()
