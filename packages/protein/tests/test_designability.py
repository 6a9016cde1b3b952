"""Self-consistency with stand-ins for the outside models, and the adapters to the real ones."""

from __future__ import annotations

import sys
from dataclasses import replace

import numpy as np
import pytest
import torch
from rectiflow_protein.designability import (
    ESMFold,
    ProteinMPNN,
    SelfConsistency,
    self_consistency,
    summarise,
)
from rectiflow_protein.io import Backbone


def walk(n: int, seed: int) -> Backbone:
    steps = np.random.default_rng(seed).normal(size=(n, 3))
    ca = (3.8 * steps / np.linalg.norm(steps, axis=-1, keepdims=True)).cumsum(0)
    offsets = np.array([[-0.5, 1.3, 0], [0, 0, 0], [1.5, 0, 0], [2.1, 1.0, 0]])
    return Backbone.from_coords(ca[:, None] + offsets, name=f"walk{seed}")


class FakeDesigner:
    """Sequence k is all of letter k; remembers how it was asked."""

    def __init__(self):
        self.asked = []

    def design(self, backbone, num_sequences, *, temperature, seed):
        self.asked.append((backbone.name, num_sequences, temperature, seed))
        return ["ARNDCQEG"[k] * len(backbone) for k in range(num_sequences)]


class FakePredictor:
    """Folds letter k to the target, off by ``shifts[k]`` at its first residue, turned around."""

    def __init__(self, target: Backbone, shifts):
        self.target, self.shifts = target, shifts

    def predict(self, sequences):
        folds = []
        for sequence in sequences:
            ca = torch.from_numpy(self.target.coords[: len(sequence), 1]).clone()
            ca[0, 0] += self.shifts["ARNDCQEG".index(sequence[0])]
            folds.append(ca[:, [1, 2, 0]] + 30)
        return folds


def test_published_protocol_and_both_distances():
    backbone, designer = walk(60, 0), FakeDesigner()
    shifts = [50.0, 0.0, 4.0, 9.0, 9.0, 9.0, 9.0, 9.0]
    (result,) = self_consistency([backbone], designer, FakePredictor(backbone, shifts))
    assert designer.asked == [("walk0", 8, 0.1, 38)]
    assert (result.name, result.length, len(result.sequences)) == ("walk0", 60, 8)
    assert result.rmsd[1] == pytest.approx(0, abs=1e-3)
    assert result.tm[1] == pytest.approx(1, abs=1e-3)
    for mean, root in zip(result.mean_displacement, result.rmsd, strict=True):
        assert mean <= root + 1e-6
    assert result.is_designable
    assert result.is_designable_by_rmsd


def test_each_backbone_is_judged_alone():
    backbones = [walk(40, 1), walk(40, 2)]
    predictor = FakePredictor(backbones[0], [0.0] * 8)
    together = self_consistency(backbones, FakeDesigner(), predictor, num_sequences=2)
    alone = self_consistency(backbones[1:], FakeDesigner(), predictor, num_sequences=2)
    assert together[1] == alone[0]
    assert together[0].is_designable
    assert not together[1].is_designable


def test_answers_of_another_length_are_noticed():
    backbone = walk(40, 1)

    class Short(FakeDesigner):
        def design(self, *args, **options):
            return [s[:-1] for s in super().design(*args, **options)]

    with pytest.raises(ValueError, match=r"the designer answered with lengths \[39, 39\]"):
        self_consistency([backbone], Short(), FakePredictor(backbone, [0] * 8), num_sequences=2)
    predictor = FakePredictor(backbone[:30], [0] * 8)
    with pytest.raises(ValueError, match=r"the predictor answered with lengths \[30\].* of 40"):
        self_consistency([backbone], FakeDesigner(), predictor, num_sequences=1)
    with pytest.raises(ValueError, match="num_sequences must be at least 1, got 0"):
        self_consistency([backbone], FakeDesigner(), predictor, num_sequences=0)


def test_summary_averages_over_lengths_not_over_backbones():
    good = SelfConsistency("a", 100, ("A",), (1.0, 3.0), (1.5, 4.0), (0.9, 0.4))
    between = replace(good, mean_displacement=(1.9,), rmsd=(2.1,), tm=(0.7,))
    bad = replace(good, length=200, mean_displacement=(5.0,), rmsd=(6.0,), tm=(0.3,))
    told = summarise([good, good, good, between, bad])
    assert told["designable"] == pytest.approx((1 + 0) / 2)
    assert told["designable_by_rmsd"] == pytest.approx((3 / 4 + 0) / 2)
    assert told["sc_mean_displacement"] == pytest.approx(((3 * 1.0 + 1.9) / 4 + 5) / 2)
    assert told["sc_rmsd"] == pytest.approx(((3 * 1.5 + 2.1) / 4 + 6) / 2)
    assert told["sc_tm"] == pytest.approx(((3 * 0.9 + 0.7) / 4 + 0.3) / 2)
    with pytest.raises(ValueError, match="nothing to summarise"):
        summarise([])


FAKE_MPNN = """
import argparse, pathlib
parser = argparse.ArgumentParser()
for name in ("pdb_path", "pdb_path_chains", "out_folder", "num_seq_per_target", "sampling_temp",
             "seed", "batch_size"):
    parser.add_argument("--" + name)
parser.add_argument("--fail", action="store_true")
given = parser.parse_args()
if given.fail:
    raise SystemExit("out of luck")
text = pathlib.Path(given.pdb_path).read_text()
n = sum(line[12:16] == " CA " for line in text.splitlines())
assert (given.pdb_path_chains, given.sampling_temp, given.seed) == ("A", "0.1", "38")
out = pathlib.Path(given.out_folder) / "seqs"
out.mkdir()
entries = [">backbone, the input\\n" + "A" * n]
entries += [f">T={given.sampling_temp}, sample={k}\\n" + "MKVL"[k] * n
            for k in range(int(given.num_seq_per_target))]
(out / "backbone.fa").write_text("\\n".join(entries) + "\\n")
"""


@pytest.fixture
def checkout(tmp_path):
    (tmp_path / "protein_mpnn_run.py").write_text(FAKE_MPNN)
    return tmp_path


def test_proteinmpnn_is_run_and_its_first_entry_left_out(checkout):
    sequences = ProteinMPNN(checkout).design(walk(25, 3), 3, temperature=0.1, seed=38)
    assert sequences == ["M" * 25, "K" * 25, "V" * 25]


def test_designers_get_chain_a_from_1_whatever_the_backbone_is_called(checkout, tmp_path):
    from rectiflow_protein.designability import write_for_design
    from rectiflow_protein.io import read_structure

    odd = replace(
        walk(25, 3),
        chain_ids=np.full(25, "H-2"),
        residue_index=np.arange(12_001, 12_026, dtype=np.int32)[::-1].copy(),
        insertion_codes=np.full(25, "A"),
    )
    made = read_structure(write_for_design(tmp_path / "x.pdb", odd))
    assert (set(made.chain_ids), made.residue_index.tolist()) == ({"A"}, list(range(1, 26)))
    assert np.allclose(made.coords, odd.coords, atol=1e-3)
    sequences = ProteinMPNN(checkout).design(odd, 2, temperature=0.1, seed=38)
    assert sequences == ["M" * 25, "K" * 25]


def test_failures_of_proteinmpnn_are_passed_on(checkout, tmp_path):
    broken = ProteinMPNN(checkout, python=sys.executable, options=("--fail",))
    with pytest.raises(RuntimeError, match="exit code 1: out of luck"):
        broken.design(walk(25, 3), 3, temperature=0.1, seed=38)
    with pytest.raises(FileNotFoundError, match=r"protein_mpnn_run\.py; expected a checkout"):
        ProteinMPNN(tmp_path / "absent")


class FakeEsm:
    """Answers as ESMFold does: all iterations of the structure module, padded atom14."""

    def infer(self, sequences):
        longest = max(map(len, sequences))
        positions = torch.zeros(8, len(sequences), longest, 14, 3)
        positions[-1, :, :, 1] = torch.arange(longest)[:, None].float()
        return {"positions": positions}


@pytest.mark.parametrize("batch_size", [1, 2, 5])
def test_esmfold_takes_ca_of_the_last_iteration(batch_size):
    folds = ESMFold(FakeEsm(), batch_size).predict(["AR", "ARND", "ARN"])
    assert [fold.tolist() for fold in folds] == [[[k] * 3 for k in range(n)] for n in (2, 4, 3)]


@pytest.mark.slow
def test_esmfold_without_weights_says_what_to_do(tmp_path):
    pytest.importorskip("transformers")
    with pytest.raises(FileNotFoundError, match=r"not in the local cache.* hf download"):
        ESMFold.from_cache(str(tmp_path / "absent"))


@pytest.mark.slow
def test_a_tiny_esmfold_folds():
    """The real class with random weights, to prove that the adapter fits it."""
    transformers = pytest.importorskip("transformers")
    module = {"sequence_dim": 16, "pairwise_dim": 8, "ipa_dim": 4, "resnet_dim": 8}
    module |= {"num_heads_ipa": 2, "num_qk_points": 2, "num_v_points": 2, "num_blocks": 1}
    module |= {"num_transition_layers": 1, "num_resnet_blocks": 1}
    trunk = {"num_blocks": 1, "sequence_state_dim": 32, "pairwise_state_dim": 16}
    trunk |= {"sequence_head_width": 8, "pairwise_head_width": 8, "position_bins": 8}
    trunk |= {"chunk_size": None, "max_recycles": 1, "structure_module": module}
    special = ["<cls>", "<pad>", "<eos>", "<unk>"]
    config = transformers.EsmConfig(
        vocab_size=33,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
        max_position_embeddings=64,
        pad_token_id=1,
        mask_token_id=32,
        is_folding_model=True,
        vocab_list=[*special, *"LAGVSERTIDPKQNFYMHWCXBUZO.-", "<null_1>", "<mask>"],
        esmfold_config={"trunk": trunk, "fp16_esm": False},
    )
    folds = ESMFold(transformers.EsmForProteinFolding(config).eval(), 2).predict(["ACDEF", "ACD"])
    assert [tuple(fold.shape) for fold in folds] == [(5, 3), (3, 3)]
    assert all(fold.isfinite().all() for fold in folds)
