"""The imaging card: a body from few views, its sinogram and what each method makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rectiflow.commands import pick_device

from rectiflow_cli.demo.card import Card, Metric, Request, numbers, settings_list
from rectiflow_cli.demo.page import picture

VIEWS, SIDE = 8, 32
TITLES = {
    "truth": "truth",
    "fbp": "filtered back-projection",
    "tv": "total variation",
    "prior": "prior of slices",
    "stack": "prior, variation between slices",
}
METRICS = (
    Metric("psnr", "PSNR (dB)", "{:.1f}", "Peak signal-to-noise ratio; more is better."),
    Metric("ssim", "SSIM", "{:.3f}", "Structural similarity, 1 at best."),
    Metric("variation", "Between slices", "{:.4f}", "Mean difference of neighbouring slices."),
)
PAGE = """\
<p class="lead">A body that is made up is scanned from {views} angles. What each method makes of the
readings stands beside the truth. Research software, not a medical device.</p>
<div class="pictures wide">
{figures}
</div>
{numbers}
{settings}"""


def reads(path: Path) -> bool:
    """Say whether a file's name is that of an image that this domain alone reads."""
    return path.name.lower().endswith((".nii", ".nii.gz", ".dcm"))


def card(request: Request) -> Card:
    """Scan a phantom, or the image that is given, and reconstruct it by every method."""
    import torch
    from rectiflow_imaging.io import Volume, read_volume
    from rectiflow_imaging.phantoms import ellipsoids
    from rectiflow_imaging.pipeline import ImagePipeline
    from rectiflow_imaging.reconstruction import methods

    if request.input is not None:
        body = read_volume(request.input)
    else:
        generator = torch.Generator().manual_seed(10_000 + request.seed)
        body = Volume(ellipsoids((SIDE // 2, SIDE, SIDE), generator).values.numpy())
    known = methods(request.steps or 40)
    told: Any = {"views": VIEWS, "seed": request.seed}
    device = pick_device(request.device)
    pipe = ImagePipeline.from_pretrained(request.weights, device=device)
    made = pipe.reconstruct(body, known, **told)
    figure, files = picture(
        "reconstructions",
        lambda: _draw(made),
        alt="Sinogram and middle slice of the truth and of each reconstruction, with PSNR",
        caption="The middle slice, and the readings that it was made of.",
    )
    settings = {**made.settings, "seconds": round(made.seconds, 2)}
    page = PAGE.format(
        views=VIEWS,
        figures=figure,
        numbers=numbers(
            "Method", METRICS, ((TITLES[name], row) for name, row in made.measured.items())
        ),
        settings=settings_list(settings),
    )
    return Card("Images from few views", page, files, {"settings": settings, **made.measured})


def _draw(made: Any) -> Any:
    import torch
    from rectiflow.figures import new_figure
    from rectiflow_imaging.operators import ParallelBeam, view_angles

    slices = {name: volume.values[len(volume.values) // 2] for name, volume in made.volumes.items()}
    truth = slices["truth"]
    beam = ParallelBeam(len(truth), view_angles(made.settings["views"]))
    shown = {"readings": beam(torch.from_numpy(truth.copy())[None, None])[0, 0].numpy(), **slices}
    figure = new_figure(7.5, 5.6)
    for i, (name, values) in enumerate(shown.items()):
        axes = figure.add_subplot(2, 3, i + 1)
        limits = {} if name == "readings" else {"vmin": truth.min(), "vmax": truth.max()}
        axes.imshow(values, cmap="gray", aspect="auto", **limits)
        row = made.measured.get(name)
        score = f"\n{row['psnr']:.1f} dB" if row else ""
        axes.set_title(f"{TITLES.get(name, name)}{score}", fontsize=9)
        axes.set(xticks=[], yticks=[])
    return figure
