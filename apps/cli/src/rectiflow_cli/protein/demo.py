"""The protein card: backbones from noise, beside a structure that was not generated."""

from __future__ import annotations

import base64
import html
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from rectiflow.commands import pick_device, progress

from rectiflow_cli.demo.card import Card, Metric, Request, gathered, numbers, settings_list
from rectiflow_cli.demo.page import asset, data_block, picture

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from rectiflow_protein.io import Backbone

HERE = Path(__file__).parent
SHIPPED = "small_sheets"
STEPS, TEMPERATURE, RATE = 50, 1.0, 4.0  # what its card recommends, with --pairing --repulsion
SHORTEST, LONGEST = 60, 100  # residues, about what the shipped checkpoint was trained on
COMPACT = (2.2, 0.38)  # Å and exponent: Rg of globular chains (Skolnick et al., JMB 1997)

_EXAMPLE = "a natural domain of known structure (PDB entry 1PGA, coordinates CC0)"
_SCRIPTS = ("3Dmol-min.js", "3Dmol-min.js.LICENSE.txt")


METRICS = (
    Metric(
        "ca_ca_strict",
        "Valid CA–CA distances",
        "{:.1%}",
        "Share of neighbouring alpha carbons whose distance is within 0.1 Å of 3.80 Å, or that of "
        "a cis bond before proline. Natural chains: nearly all.",
    ),
    Metric(
        "close_contacts",
        "Clashes per 100",
        "{:.1f}",
        "Pairs of alpha carbons closer than 3 Å that are not neighbours, per 100 residues. "
        "Natural chains: none.",
    ),
    Metric(
        "helix",
        "Helix",
        "{:.0%}",
        "Share of residues that the hydrogen bonds of the backbone (DSSP) make part of a helix.",
    ),
    Metric("strand", "Strand", "{:.0%}", "The same for the strands of sheets."),
    Metric("coil", "Coil", "{:.0%}", "All other residues: loops and turns. Much coil is disorder."),
    Metric(
        "radius_of_gyration",
        "Rg (Å)",
        "{:.1f}",
        "Radius of gyration, the root mean square distance of the alpha carbons from their "
        f"centre. A compact chain of n residues has about {COMPACT[0]}\u202fn^{COMPACT[1]} Å.",
    ),
    Metric("seconds", "Seconds", "{:.1f}", "Time to generate the backbone on this machine."),
)


@dataclass(frozen=True)
class Structure:
    """One chain of the page.

    ``frames`` (f, n, 4, 3) leads from noise to the chain, or holds the chain alone; ``metrics``
    has the keys of the table.
    """

    key: str
    title: str
    label: str
    chain: Backbone
    frames: np.ndarray
    metrics: dict[str, float]

    @property
    def file(self) -> str:
        """Path relative to the page."""
        return f"structures/{self.key}.pdb"


def reads(path: Path) -> bool:
    """Say whether a file's name is that of a structure."""
    from rectiflow_protein.io import format_of

    return format_of(path) is not None


def card(request: Request) -> Card:
    """Sample backbones, measure them and a reference, and lay everything out."""
    reference = _reference(request.input)  # first: a file that cannot be read costs no wait
    samples, settings = _sample(request)
    structures = [*samples, reference]
    plots, plot_files = _plots(samples, reference)
    matrices, matrix_files = _matrices(structures, request.quiet)
    page = Template(asset("demo.html", HERE)).substitute(
        num=len(samples),
        lengths=_span([len(s.chain) for s in samples]),
        steps=request.steps or STEPS,
        weights=_weights(request.weights),
        reference_source="a file of yours" if request.input else _EXAMPLE,
        options="\n".join(
            f'<option value="{i}">{html.escape(s.label)}</option>' for i, s in enumerate(structures)
        ),
        numbers=numbers(
            "Structure",
            METRICS,
            (
                (f'<a href="{s.file}" download>{html.escape(s.label)}</a>', s.metrics)
                for s in structures
            ),
        ),
        breaks=_breaks(reference.chain),
        plots="\n".join(plots),
        matrices="\n".join(matrices),
        settings=settings_list(settings),
        again=html.escape(_again(request, samples)),
        data=data_block("protein-data", [_viewer_data(s) for s in structures]),
        script=asset("demo.js", HERE),
    )
    files = {f"assets/{name}": asset(name).encode() for name in _SCRIPTS}
    files |= {s.file: _pdb(s.chain) for s in structures}
    result = {
        "settings": settings,
        "structures": [
            {"file": s.file, "label": s.label, "length": len(s.chain), **s.metrics}
            for s in structures
        ],
    }
    return Card("Protein backbones", page, files | plot_files | matrix_files, result)


def _weights(name: str) -> str:
    """Say whose weights drew the backbones."""
    import rectiflow_protein

    if (Path(rectiflow_protein.__file__).parent / "pretrained" / name).is_dir():
        return (
            f"the checkpoint <strong>{html.escape(name)}</strong>, which this project trained and "
            "ships. It is not the ReQFlow that was released with the paper"
        )
    return f"the weights <strong>{html.escape(name)}</strong>"


def _sample(request: Request) -> tuple[list[Structure], dict[str, Any]]:
    from rectiflow_protein.flow import ExponentialSchedule, FrameAncestral
    from rectiflow_protein.io import Backbone
    from rectiflow_protein.pairing import Pairing
    from rectiflow_protein.pipeline import BackbonePipeline
    from rectiflow_protein.repulsion import Repulsion
    from rectiflow_protein.result import NO_CB

    device = pick_device(request.device)
    pipe = BackbonePipeline.from_pretrained(request.weights, device=device)
    lengths = np.linspace(SHORTEST, LONGEST, request.num).round().astype(int).tolist()
    steps = request.steps or STEPS
    structures: list[Structure] = []
    settings: dict[str, Any] = {}
    for i in progress(
        range(request.num), "protein backbones", total=request.num, quiet=request.quiet
    ):
        made = pipe(
            [lengths[i]],
            indices=[i],
            steps=steps,
            seed=request.seed,
            solver=FrameAncestral(TEMPERATURE, ExponentialSchedule(RATE)),
            constraints=[Pairing(), Repulsion()],  # what small networks are not exact enough for
            trajectory=True,
        )
        [sample] = made.samples
        assert sample.trajectory is not None
        frames = np.concatenate([sample.trajectory, sample.atoms[None]])[:, :, NO_CB]
        chain = Backbone.from_coords(frames[-1], name=sample.name)
        title = f"Sample {i + 1}"
        label = f"{title}, {lengths[i]} residues"
        metrics = _measure(chain) | {"seconds": round(made.seconds, 3)}
        structures.append(Structure(sample.name, title, label, chain, frames, metrics))
        settings |= made.settings
    return structures, settings


def _again(request: Request, samples: Sequence[Structure]) -> str:
    """Spell the command that makes the same structures."""
    lengths = ",".join(str(len(s.chain)) for s in samples)
    words = ["rectiflow", "protein", "sample", "--lengths", lengths, "--weights", request.weights]
    words += [
        "--steps",
        str(request.steps or STEPS),
        "--temperature",
        f"{TEMPERATURE:g}",
        "--rate",
        f"{RATE:g}",
        "--pairing",
        "--repulsion",
        "--seed",
        str(request.seed),
        "-o",
        "backbones",
    ]
    return shlex.join(words)


def _reference(path: Path | None) -> Structure:
    """Read the longest chain of a file, by default the natural one that ships."""
    from rectiflow_protein.examples import PROTEIN_G
    from rectiflow_protein.io import read_structure

    whole = read_structure(path or PROTEIN_G)
    chain = max(whole.chains().values(), key=len)
    several = len(whole.chains()) > 1
    name = "protein G, domain B1 (PDB 1PGA)" if path is None else whole.name
    label = f"Reference: {name}{f', chain {chain.chain_ids[0]}' if several else ''}"
    label += f", {len(chain)} residues"
    chain = replace(chain, chain_ids=np.full(len(chain), "A"))  # PDB has one column for it
    return Structure("reference", "Reference", label, chain, chain.coords[None], _measure(chain))


def _measure(chain: Backbone) -> dict[str, float]:
    from rectiflow_protein.metrics import backbone_metrics

    measured = backbone_metrics(
        torch.from_numpy(chain.coords), aatype=torch.from_numpy(chain.aatype)
    )
    return {m.key: round(float(measured[m.key]), 4) for m in METRICS if m.key in measured}


def _pdb(chain: Backbone) -> bytes:
    from rectiflow_protein.io import write_structure

    with tempfile.TemporaryDirectory() as folder:
        return write_structure(Path(folder) / "chain.pdb", chain).read_bytes()


def _viewer_data(structure: Structure) -> dict[str, Any]:
    """Coordinates as little-endian int16 in base64, and the secondary structure of each frame."""
    from rectiflow_protein.secondary_structure import dssp, letters

    x = structure.frames - structure.frames[:, :, 1].mean(1)[:, None, None]
    scale = float(np.abs(x).max()) / np.iinfo(np.int16).max
    codes = dssp(torch.from_numpy(np.ascontiguousarray(structure.frames)))
    return {
        "label": structure.label,
        "file": structure.file,
        "numbers": structure.chain.residue_index.tolist(),
        "scale": scale,
        "frames": len(x),
        "coords": base64.b64encode((x / scale).round().astype("<i2").tobytes()).decode(),
        "ss": [letters(row) for row in codes],
    }


def _span(lengths: Sequence[int]) -> str:
    low, high = min(lengths), max(lengths)
    return str(low) if low == high else f"{low} to {high}"


def _breaks(chain: Backbone) -> str:
    count = len(chain.breaks)
    if not count:
        return ""
    breaks = "a chain break" if count == 1 else f"{count} chain breaks"
    return f"<p>The reference has {breaks}, counted among the invalid distances.</p>"


def _plots(
    samples: Sequence[Structure], reference: Structure
) -> tuple[list[str], dict[str, bytes]]:
    from rectiflow_protein import plots

    made = [torch.from_numpy(s.chain.coords) for s in samples]
    real = [torch.from_numpy(reference.chain.coords)]
    return gathered(
        [
            picture(
                "ramachandran_samples",
                lambda: plots.ramachandran(made, title="Torsions of the samples"),
                alt="Scatter of phi against psi of the samples over the favoured regions",
                caption="Each dot is a residue. Shaded: where 98 % of natural residues lie, "
                "glycine left out.",
            ),
            picture(
                "ramachandran_reference",
                lambda: plots.ramachandran(real, title="Torsions of the reference"),
                alt="Scatter of phi against psi of the reference over the favoured regions",
                caption="The same for the reference; its glycines may lie elsewhere.",
            ),
            picture(
                "ca_ca_distances",
                lambda: _inked(plots.ca_ca_histogram(made, title="Neighbouring alpha carbons")),
                alt="Histogram of the distances of consecutive CA of the samples",
                caption="Distances along the samples' chains; the line is 3.80 Å (trans). The "
                "outer bars hold all that is shorter or longer.",
            ),
            picture(
                "radius_of_gyration",
                lambda: _gyration(samples, reference),
                alt="Radius of gyration against length, with the line of compact chains",
                caption="Below the line is dense, far above it is unfolded.",
            ),
        ]
    )


def _matrices(structures: Sequence[Structure], quiet: bool) -> tuple[list[str], dict[str, bytes]]:
    from rectiflow_protein import plots

    top = plots.largest_distance([torch.from_numpy(s.chain.coords)[:, 1] for s in structures])

    def draw(structure: Structure) -> tuple[str, dict[str, bytes]]:
        ca = torch.from_numpy(structure.chain.coords)[:, 1]
        return picture(
            f"distances_{structure.key}",
            lambda: plots.distance_matrix(ca, title=structure.title, top=top),
            alt=f"Distances between all alpha carbons of {structure.label}",
            caption=structure.label,
        )

    return gathered(map(draw, progress(structures, "pictures", quiet=quiet)))


def _inked(figure: Figure) -> Figure:
    """Give lines the colour of the text, which is light on dark paper."""
    import matplotlib

    for line in figure.axes[0].lines:
        line.set_color(matplotlib.rcParams["text.color"])
    return figure


def _gyration(samples: Sequence[Structure], reference: Structure) -> Figure:
    """Draw radius of gyration over length, and what compact chains have."""
    import matplotlib
    from rectiflow.figures import labelled

    figure, axes = labelled("Compactness", "residues", "radius of gyration (Å)")
    longest = max(len(s.chain) for s in (*samples, reference))
    n = np.linspace(20, max(longest, LONGEST) * 1.1, 100)
    ink = matplotlib.rcParams["text.color"]
    axes.plot(n, COMPACT[0] * n ** COMPACT[1], color=ink, lw=1, label="compact chains")
    for shown, label, marker in ((samples, "samples", "o"), ([reference], "reference", "D")):
        rg = [s.metrics["radius_of_gyration"] for s in shown]
        axes.scatter([len(s.chain) for s in shown], rg, label=label, marker=marker)
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False, loc="lower right")
    return figure
