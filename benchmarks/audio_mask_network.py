"""The discriminative baseline: a network of the flow's size that predicts a mask directly.

It has the flow's own UNet, asked once at t = 0 instead of step by step: in place of noisy latents
and mixture latents it sees the mixture's log-mel in patches of 4 x 4, and answers with a mask.

    python benchmarks/audio_mask_network.py --data PREPARED --out mask.safetensors

It is trained on the flow's own mixtures and wordings, each mixture asked for both of its sounds. A
run that was cut off goes on from ``mask.safetensors.checkpoint`` beside the output.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Mapping
from itertools import islice
from pathlib import Path
from statistics import fmean

import torch
from rectiflow.conditioning import TextEncoder
from rectiflow.randomness import counter_generator
from rectiflow.storage.files import whole_file, write_tensors
from rectiflow.storage.pretrained import load_strict, load_tensors
from rectiflow.training.stream import DrawnBatches, StepStream
from rectiflow_audio.data.augment import Augment
from rectiflow_audio.data.captions import Wordings
from rectiflow_audio.data.dataset import MixtureDataset
from rectiflow_audio.data.mixtures import MixtureRules
from rectiflow_audio.data.prepared import PreparedSounds
from rectiflow_audio.frontend import LogMel, normalise
from rectiflow_audio.masking import apply_mask, mel_ratio_mask
from rectiflow_audio.networks import SeparationUNet, UNetConfig
from safetensors import safe_open
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import default_collate

PATCH = 4
MEL_MEAN, MEL_STD = -5.0, 3.0
SIZES = UNetConfig(
    latent_channels=PATCH**2,
    out_channels=PATCH**2,
    channels=32,
    multipliers=(1, 2, 3),
    attention=(False, False, True),
    blocks=1,
    head_channels=16,
    context_channels=384,
    groups=16,
    has_sentence=True,
    bands=16,
)
"""Those of the small checkpoint, but for where it starts and that it tells a mask."""

PEAK_RATE = 3e-4
"""Learning rate; at 1e-3, which the flow takes, nothing was learned until it had fallen to this."""

AMBIGUOUS = {"drum_loop": ("kick_drum", "snare_drum", "hi_hat", "tabla")}


class MaskNetwork(nn.Module):
    """Predict the mask of the wanted sound on the mel bands of a mixture."""

    def __init__(self, sizes: UNetConfig = SIZES) -> None:
        super().__init__()
        self.unet = SeparationUNet(sizes)

    def forward(self, log_mel: Tensor, context: Tensor, context_mask: Tensor) -> Tensor:
        """Return the mask ``(b, frames, mels)`` in [0, 1]; frames in multiples of 32."""
        x = F.pixel_unshuffle((log_mel[:, None] - MEL_MEAN) / MEL_STD, PATCH)
        cond = {"mixture": x, "context": context, "context_mask": context_mask}
        logits = self.unet(x, torch.zeros(len(x), device=x.device), cond)
        return F.pixel_shuffle(logits.float(), PATCH)[:, 0].sigmoid()


COMPRESSION = 0.3
"""Exponent of the magnitudes whose error is taken, so that soft sounds count."""


class MaskObjective(nn.Module):
    """Squared error of the compressed magnitudes, as a share of the mixture's energy."""

    def __init__(self, network: MaskNetwork, log_mel: LogMel | None = None) -> None:
        super().__init__()
        self.network, self.log_mel = network, log_mel or LogMel()

    def forward(self, batch: Mapping[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """Return the mean loss over the batch; nothing is random."""
        target = self.log_mel(torch.cat([batch["target"], batch["other"]]))
        mixture = self.log_mel(batch["mixture"]).repeat(2, 1, 1)
        frames = mixture.shape[1] // 32 * 32
        target, mixture = target[:, :frames], mixture[:, :frames]
        context = torch.cat([batch["context"], batch["other_context"]])
        context_mask = torch.cat([batch["context_mask"], batch["other_mask"]])
        mask = self.network(mixture, context, context_mask)
        given, wanted = (COMPRESSION * mixture).exp(), (COMPRESSION * target).exp()
        found = mask.clamp_min(1e-8) ** COMPRESSION * given
        return {"loss": (found - wanted).square().mean() / given.square().mean()}


def mask_estimate(network: MaskNetwork, text: TextEncoder) -> Callable[[Tensor, str], Tensor]:
    """Return what separates a mixture by the network's mask."""
    log_mel = LogMel()

    @torch.no_grad()
    def separate(mixture: Tensor, query: str) -> Tensor:
        wave, level = normalise(mixture)
        mel = log_mel(wave)[None]
        frames = mel.shape[1] // 32 * 32
        context = text.encode([query])
        mask = network(mel[:, :frames], context.states, context.mask)
        mask = torch.cat([mask, mask[:, -1:].expand(-1, mel.shape[1] - frames, -1)], dim=1)
        share = mel_ratio_mask(mask.clamp_min(1e-8).log(), torch.zeros_like(mask), log_mel, 1.0)
        return level.restore(apply_mask(wave[None], share, log_mel)[0])

    return separate


def save_mask_network(network: MaskNetwork, step: int, path: Path) -> None:
    """Write the weights in half precision, with the number of training steps."""
    tensors = {name: value.half().contiguous() for name, value in network.state_dict().items()}
    write_tensors(path, tensors, {"format": "pt", "step": json.dumps(step)})


def load_mask_network(path: Path) -> tuple[MaskNetwork, int]:
    """Read what :func:`save_mask_network` wrote."""
    network = MaskNetwork()
    load_strict(network, load_tensors(path), path)
    with safe_open(path, framework="pt") as file:
        step = json.loads((file.metadata() or {})["step"])
    return network.eval(), step


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="prepared sounds")
    parser.add_argument("--wordings", default="paraphrases")
    parser.add_argument("--steps", type=int, default=3000)
    parser.add_argument("--batch", type=int, default=4, help="mixtures, two questions each")
    parser.add_argument("--bf16", action="store_true", help="where the processor computes in it")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    prepared = PreparedSounds(args.data)
    dataset = MixtureDataset(
        prepared.clips("train"),
        prepared.texts,
        2.555,
        rules=MixtureRules((-7.0, 7.0), AMBIGUOUS),
        wordings=Wordings.read(args.wordings),
        augment=Augment(speed=0.2, equaliser_db=8.0),
        loop=0.3,
        absent=0.06,
        alone=0.02,
        crowd=0.12,
        ask_both=True,
        balanced=True,
        seed=args.seed,
    )
    torch.manual_seed(args.seed)
    network = MaskNetwork()
    objective = MaskObjective(network)
    optimizer = torch.optim.AdamW(network.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99))
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: min(1, (step + 1) / 100, (1 - step / args.steps) / 0.7)
    )
    order = DrawnBatches(len(dataset), args.batch, seed=args.seed)
    checkpoint = args.out.with_name(f"{args.out.name}.checkpoint")
    parts = {"network": network, "optimizer": optimizer, "schedule": schedule}
    step, seconds = 0, 0.0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        step, seconds = state["step"], state["seconds"]
        for name, part in parts.items():
            part.load_state_dict(state[name])
    since, losses = time.process_time(), []
    if step < args.steps:
        for rows in islice(StepStream(order, step), args.steps - step):
            batch = default_collate([dataset[row] for row in rows])
            with torch.autocast("cpu", torch.bfloat16, enabled=args.bf16):
                loss = objective(batch, counter_generator("mask", args.seed, step))["loss"]
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            step += 1
            losses.append(loss.item())
            if step % 100 == 0:
                seconds, since = seconds + time.process_time() - since, time.process_time()
                print(step, f"{fmean(losses):.4f} {seconds:.0f} s", flush=True)
                losses.clear()
                state = {name: part.state_dict() for name, part in parts.items()}
                with whole_file(checkpoint) as part:
                    torch.save({**state, "step": step, "seconds": seconds}, part)
    save_mask_network(network, step, args.out)


if __name__ == "__main__":
    main()
