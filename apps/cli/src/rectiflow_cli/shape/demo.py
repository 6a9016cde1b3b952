"""The shape card: generated meshes, and a real one rebuilt with its error."""

from __future__ import annotations

import html
import shlex
import tempfile
from io import BytesIO
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import torch
from rectiflow.commands import counter, pick_device

from rectiflow_cli.demo.card import Card, Metric, Request, numbers, settings_list
from rectiflow_cli.demo.page import asset

if TYPE_CHECKING:
    from rectiflow_shape.geometry import Mesh

HERE = Path(__file__).parent
LITTLE = """<p class="note"><strong>These weights had little training.</strong> What
<code>small</code> makes has the form of its class; thin parts come in pieces.</p>"""
PIXELS, DEPTH = 320, 6
TURNS = (30.0, 150.0)
"""Degrees around each shape from which it is shown."""

COLOUR = (150, 175, 205, 255)
"""Of a shape that is turned."""

METRICS = (
    Metric("faces", "Faces", "{:.0f}", "Triangles."),
    Metric("components", "Parts", "{:.0f}", "Pieces that do not touch; one is wanted."),
    Metric(
        "passed",
        "Closed",
        "{:.0f}",
        "1 if every edge has two faces, no vertex touches another sheet, and all faces look out.",
    ),
    Metric("chamfer_l1", "Distance", "{:.4f}", "Mean distance to the input, which is 1.9 long."),
    Metric("f_score", "F-score", "{:.2f}", "Share of both surfaces within 0.02 of the other."),
    Metric("iou", "IoU", "{:.2f}", "Volume that both share over the volume of either."),
)


def reads(path: Path) -> bool:
    """Say whether a file's name is that of a mesh."""
    from rectiflow_shape.io import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def card(request: Request) -> Card:
    """Generate shapes, rebuild a real one, and lay everything out."""
    from rectiflow_shape import Asked, FitSettings, ShapePipeline
    from rectiflow_shape.examples import CHAIR
    from rectiflow_shape.geometry import certificate, normalise
    from rectiflow_shape.io import read_mesh
    from rectiflow_shape.reconstruction import by_mosaic, compare, mosaic_of

    source = request.input or CHAIR
    real, _ = normalise(read_mesh(source)[0])  # first: a file that cannot be read costs no wait
    pipe = ShapePipeline.from_pretrained(request.weights, device=pick_device(request.device))
    kinds = pipe.settings.classes
    asked = [Asked(i, kinds[i % len(kinds)] if kinds else None) for i in range(request.num)]
    with counter("generating shapes", unit="shape", quiet=request.quiet) as show:
        made = pipe(asked, depth=DEPTH, steps=request.steps, seed=request.seed, progress=show)
    generator = torch.Generator().manual_seed(request.seed)
    fitted = mosaic_of(real, FitSettings(grids=128, resolution=7, steps=30), generator)
    rebuilt = by_mosaic(fitted, DEPTH).mesh
    errors = compare(rebuilt, real, generator)

    figures: list[Any] = []
    files: dict[str, Any] = {}
    rows: list[Any] = []
    told = [(s.mesh, s.told.get("category", s.name), s.told["certificate"]) for s in made.samples]
    shown = [(mesh, f"{number + 1}: {kind}") for number, (mesh, kind, _) in enumerate(told)]
    for (mesh, label), (_, _, judged) in zip(shown, told, strict=True):
        figure, own = _figure(mesh, label)
        figures.append(figure)
        files |= own
        rows.append((html.escape(label), judged))
    pair = []
    for mesh, label in ((real, "input"), (rebuilt, "rebuilt")):
        figure, own = _figure(mesh, label)
        pair.append(figure)
        files |= own
    rows.append(("rebuilt", certificate(rebuilt).document() | errors))
    settings = {**made.settings, "seconds": round(made.seconds, 2)}
    page = Template(asset("demo.html", HERE)).substitute(
        note=LITTLE if request.weights == "small" else "",
        num=len(made.samples),
        steps=settings["steps"],
        shapes="\n".join(figures),
        source="A file of yours" if request.input else "A chair by Quaternius (CC0 1.0)",
        pair="\n".join(pair),
        grids=len(fitted.mosaic),
        numbers=numbers("Shape", METRICS, rows),
        settings=settings_list(settings),
        again=html.escape(_again(request, settings)),
    )
    result: dict[str, Any] = {
        "settings": settings,
        "shapes": [{"file": _file(label), "label": label} for _, label in shown],
        "reconstruction": {"file": _file("rebuilt"), "errors": errors},
    }
    return Card("Shapes", page, files, result)


def _figure(mesh: Mesh, label: str) -> tuple[str, dict[str, bytes]]:
    """Return two views of a mesh with links to its file and a page to turn it, and the files."""
    from PIL import Image
    from rectiflow_shape.io import write_mesh
    from rectiflow_shape.render import Camera, render

    stem, files, views = _file(label).removesuffix(".glb"), {}, []
    for turn, azimuth in enumerate(TURNS):
        content = BytesIO()
        picture = render(mesh, Camera(azimuth=azimuth, elevation=20.0), size=PIXELS).colour
        Image.fromarray(picture.numpy()).save(content, format="PNG")
        files[f"{stem}_{turn}.png"] = content.getvalue()
        views.append(
            f'<img src="{stem}_{turn}.png" alt="{html.escape(label)}, view {turn + 1}" '
            f'width="{PIXELS}" height="{PIXELS}" loading="lazy">'
        )
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "shape.glb"
        write_mesh(path, mesh)
        files[_file(label)] = path.read_bytes()
    files[f"{stem}.html"] = _viewer(mesh).encode()
    links = (
        f'<a href="{_file(label)}" download>{html.escape(label)}</a>, '
        f'<a href="{stem}.html" target="_blank">turn it</a>'
    )
    figure = f'<figure class="picture">{"".join(views)}<figcaption>{links}</figcaption></figure>'
    return figure, files


def _viewer(mesh: Mesh) -> str:
    """Return a page on which a mesh can be turned; it needs no network."""
    import trimesh
    from trimesh.viewer.notebook import scene_to_html

    shown = trimesh.Trimesh(mesh.vertices, mesh.faces, process=False)
    shown.visual = trimesh.visual.ColorVisuals(shown, face_colors=COLOUR)
    page: str = scene_to_html(trimesh.Scene(shown))
    return page


def _file(label: str) -> str:
    return f"shapes/{label.replace(': ', '_').replace(' ', '_')}.glb"


def _again(request: Request, settings: dict[str, Any]) -> str:
    """Spell the command that makes like shapes."""
    words = ["rectiflow", "shape", "sample", "--weights", request.weights]
    words += ["--num", str(request.num), "--seed", str(request.seed)]
    return shlex.join([*words, "--steps", str(settings["steps"]), "-o", "shapes"])
