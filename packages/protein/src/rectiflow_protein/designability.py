"""Can a backbone be made? Design sequences for it, fold them, and compare.

Sequence design and folding are outside models behind two small interfaces; adapters are here for
ProteinMPNN (a checkout of it that the user has) and for ESMFold (weights that the user has).
"""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor

from rectiflow_protein.io import Backbone, read_fasta, write_structure
from rectiflow_protein.metrics import sc_mean_displacement, sc_rmsd, tm_score

if TYPE_CHECKING:
    from jaxtyping import Float

log = logging.getLogger(__name__)

DESIGNABLE = 2.0
"""Å; a backbone whose best sequence folds back to within this is designable (published)."""


class SequenceDesigner(Protocol):
    """Proposes sequences for a backbone."""

    def design(
        self, backbone: Backbone, num_sequences: int, *, temperature: float, seed: int
    ) -> list[str]:
        """Return ``num_sequences`` one-letter sequences, each as long as the backbone."""


class StructurePredictor(Protocol):
    """Folds sequences."""

    def predict(self, sequences: Sequence[str]) -> list[Float[Tensor, "n 3"]]:
        """Return the CA positions of each sequence in ångström."""


@dataclass(frozen=True)
class SelfConsistency:
    """Agreement of a backbone with the folds of the sequences designed for it.

    Attributes
    ----------
    name : str
        The backbone.
    length : int
        Its residues.
    sequences : tuple of str
        Designed sequences.
    mean_displacement, rmsd : tuple of float
        Distance of each fold from the backbone over CA, ångström: the published scRMSD, which is a
        mean displacement, and the root mean square.
    tm : tuple of float
        TM-score of each fold, normalised by the backbone.
    """

    name: str
    length: int
    sequences: tuple[str, ...]
    mean_displacement: tuple[float, ...]
    rmsd: tuple[float, ...]
    tm: tuple[float, ...]

    @property
    def is_designable(self) -> bool:
        """Whether the smallest mean displacement is below 2 Å, as published."""
        return min(self.mean_displacement) < DESIGNABLE

    @property
    def is_designable_by_rmsd(self) -> bool:
        """Whether the smallest root mean square distance is below 2 Å, which is stricter."""
        return min(self.rmsd) < DESIGNABLE


def self_consistency(
    backbones: Iterable[Backbone],
    designer: SequenceDesigner,
    predictor: StructurePredictor,
    *,
    num_sequences: int = 8,
    temperature: float = 0.1,
    seed: int = 38,
) -> list[SelfConsistency]:
    """Design sequences for each backbone, fold them and measure how well they come back.

    The defaults are the published protocol. Each backbone is designed with the same seed, so its
    result does not depend on the others.

    Parameters
    ----------
    backbones : iterable of Backbone
        One chain each.
    designer : SequenceDesigner
        For example :class:`ProteinMPNN`.
    predictor : StructurePredictor
        For example :class:`ESMFold`.
    num_sequences : int, default 8
        Sequences per backbone.
    temperature : float, default 0.1
        Of the designer.
    seed : int, default 38
        Of the designer.

    Raises
    ------
    ValueError
        If a designer or predictor answers with something of another length.
    """
    if num_sequences < 1:
        raise ValueError(f"num_sequences must be at least 1, got {num_sequences}; 8 is published.")
    results = []
    for backbone in backbones:
        sequences = designer.design(backbone, num_sequences, temperature=temperature, seed=seed)
        lengths = [len(sequence) for sequence in sequences]
        _require(backbone, "designer", lengths, num_sequences)
        folds = predictor.predict(sequences)
        _require(backbone, "predictor", [len(fold) for fold in folds], num_sequences)
        results.append(_compare(backbone, sequences, folds))
        log.info("%s: best displacement %.2f Å", backbone.name, min(results[-1].mean_displacement))
    return results


def summarise(results: Sequence[SelfConsistency]) -> dict[str, float]:
    """Summarise as the published tables do: means per length, averaged over lengths.

    Returns
    -------
    dict
        ``designable`` and ``designable_by_rmsd`` (fractions), ``sc_mean_displacement`` and
        ``sc_rmsd`` (ångström, of the best sequence of each backbone), ``sc_tm`` (likewise).
    """
    if not results:
        raise ValueError("nothing to summarise, got no result; expected at least one backbone.")
    by_length: dict[int, list[SelfConsistency]] = defaultdict(list)
    for result in results:
        by_length[result.length].append(result)
    columns = {
        "designable": [_mean(r.is_designable for r in group) for group in by_length.values()],
        "designable_by_rmsd": [
            _mean(r.is_designable_by_rmsd for r in group) for group in by_length.values()
        ],
        "sc_mean_displacement": [
            _mean(min(r.mean_displacement) for r in group) for group in by_length.values()
        ],
        "sc_rmsd": [_mean(min(r.rmsd) for r in group) for group in by_length.values()],
        "sc_tm": [_mean(max(r.tm) for r in group) for group in by_length.values()],
    }
    return {name: _mean(values) for name, values in columns.items()}


def _mean(values: Iterable[float]) -> float:
    numbers = [float(value) for value in values]
    return sum(numbers) / len(numbers)


def _require(backbone: Backbone, who: str, lengths: list[int], count: int) -> None:
    """Raise ValueError unless there are ``count`` answers as long as the backbone."""
    if lengths != [len(backbone)] * count:
        raise ValueError(
            f"the {who} answered with lengths {lengths} for {backbone.name}; expected {count} of "
            f"{len(backbone)} residues. Does it know the whole chain?"
        )


def _compare(
    backbone: Backbone, sequences: Sequence[str], folds: Sequence[Tensor]
) -> SelfConsistency:
    ca = torch.from_numpy(backbone.coords[:, 1])
    moved = [fold.detach().cpu().to(ca.dtype) for fold in folds]
    return SelfConsistency(
        name=backbone.name,
        length=len(backbone),
        sequences=tuple(sequences),
        mean_displacement=tuple(float(sc_mean_displacement(fold, ca)) for fold in moved),
        rmsd=tuple(float(sc_rmsd(fold, ca)) for fold in moved),
        tm=tuple(tm_score(fold, ca) for fold in moved),
    )


def write_for_design(path: Path, backbone: Backbone) -> Path:
    """Write a backbone as designers want it: chain A, residues 1 to n, whatever it was called.

    Designers cut chains at jumps of the numbering, know one letter per chain, and answer for the
    chains that they find.
    """
    plain = Backbone.from_coords(backbone.coords, sequence=backbone.sequence, name=backbone.name)
    return write_structure(path, plain)


@dataclass(frozen=True)
class ProteinMPNN:
    """Sequence design by a ProteinMPNN checkout that the user has.

    Runs ``protein_mpnn_run.py`` of the checkout with its vanilla ``v_48_020`` weights, batch size
    1. The first entry of its output is the input sequence and is left out, as published.

    Parameters
    ----------
    checkout : Path
        Folder that holds ``protein_mpnn_run.py``.
    python : str
        Interpreter to run it with; this one by default.
    options : tuple of str
        Further arguments, such as ``("--use_soluble_model",)``.
    """

    checkout: Path
    python: str = sys.executable
    options: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self._script.is_file():
            raise FileNotFoundError(
                f"there is no {self._script}; expected a checkout of ProteinMPNN. Clone it and "
                "pass its folder."
            )

    @property
    def _script(self) -> Path:
        return Path(self.checkout) / "protein_mpnn_run.py"

    def design(
        self, backbone: Backbone, num_sequences: int, *, temperature: float, seed: int
    ) -> list[str]:
        """Return ``num_sequences`` sequences for ``backbone``, taken as one chain."""
        with tempfile.TemporaryDirectory() as scratch:
            pdb = write_for_design(Path(scratch) / "backbone.pdb", backbone)
            arguments = {
                "--pdb_path": pdb,
                "--pdb_path_chains": "A",
                "--out_folder": scratch,
                "--num_seq_per_target": num_sequences,
                "--sampling_temp": temperature,
                "--seed": seed,
                "--batch_size": 1,
            }
            words = [str(word) for pair in arguments.items() for word in pair]
            self._run([self.python, str(self._script), *words, *self.options])
            entries = read_fasta(Path(scratch) / "seqs" / "backbone.fa")
        return [sequence for _, sequence in entries[1:]]

    def _run(self, command: list[str]) -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(
                f"ProteinMPNN failed with exit code {done.returncode}: {done.stderr[-500:].strip()}"
                f". Run it by hand to see more: {' '.join(command)}"
            )


class ESMFold:
    """Folding by ESMFold through transformers.

    Parameters
    ----------
    model : transformers.EsmForProteinFolding
        In evaluation mode. See :meth:`from_cache`.
    batch_size : int, default 1
        Sequences folded at once.
    """

    def __init__(self, model: Any, batch_size: int = 1) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {batch_size}.")
        self.model, self.batch_size = model, batch_size

    @classmethod
    def from_cache(
        cls,
        name: str = "facebook/esmfold_v1",
        *,
        device: torch.device | str = "cpu",
        batch_size: int = 1,
    ) -> ESMFold:
        """Load weights from the user's hub cache or from a folder; nothing is downloaded.

        Parameters
        ----------
        name : str
            Name on the hub, or a folder that ``save_pretrained`` wrote.
        device : torch.device or str
            Where to fold.
        batch_size : int
            As in the class.

        Raises
        ------
        FileNotFoundError
            If the weights are not there.
        """
        from transformers import EsmForProteinFolding

        try:
            model = EsmForProteinFolding.from_pretrained(name, local_files_only=True)
        except OSError as error:
            raise FileNotFoundError(
                f"the weights of ESMFold are not in the local cache, got {name!r}; expected a "
                f"cached model or a folder. Download them once with: hf download {name}"
            ) from error
        return cls(model.eval().to(device), batch_size)

    @torch.no_grad()
    def predict(self, sequences: Sequence[str]) -> list[Float[Tensor, "n 3"]]:
        """Return the CA positions of each sequence in ångström, on the CPU."""
        folds = []
        for start in range(0, len(sequences), self.batch_size):
            batch = list(sequences[start : start + self.batch_size])
            # The last iteration of the structure module; atom14 slot 1 is CA.
            ca = self.model.infer(batch)["positions"][-1, :, :, 1].float().cpu()
            folds += [ca[i, : len(sequence)] for i, sequence in enumerate(batch)]
        return folds
