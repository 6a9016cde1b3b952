"""``rectiflow audio eval``: separate mixtures whose sources are known, and measure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow_cli.audio.options import Parser, make_pipeline, separation
from rectiflow_cli.errors import DONE, UsageError
from rectiflow_cli.options import answer, claimed_evaluation, pick_device, positive
from rectiflow_cli.progress import counter

if TYPE_CHECKING:
    import argparse

    from rectiflow_audio.evaluation import Example
    from rectiflow_audio.pipeline import SeparationPipeline
    from torch import Tensor


def _parser() -> Parser:
    parser = Parser("eval", main.__doc__)
    add = parser.add_argument
    add(
        "source",
        metavar="SHARDS|LIST",
        help="a prepared folder, of which mixtures are made, or a published list of mixtures",
    )
    add("-o", "--out", metavar="DIR", help="write metrics.csv and summary.json there")
    add("--num", type=positive, help="mixtures; each clip or row once if absent")
    add("--snr", type=float, default=0.0, help="decibel, where a list does not tell")
    add("--ideal", action="store_true", help="measure the best that a mask can do, too")
    prepared = parser.add_argument_group("of a prepared folder")
    add = prepared.add_argument
    add("--split", choices=("train", "valid", "test"), default="test", help="of the clips")
    add("--seconds", type=float, default=5.12, help="length of a mixture")
    add("--mixture-seed", type=int, default=0, help="fixes the mixtures")
    add(
        "--ambiguous",
        action="append",
        default=[],
        metavar="LABEL:A,B",
        help="labels that must not be mixed with LABEL since its query fits them; may be repeated",
    )
    listed = parser.add_argument_group("of a list")
    add = listed.add_argument
    add("--form", metavar="NAME", help="its form, such as audiocaps, esc50, music or dcase2024")
    add("--folder", metavar="DIR", help="where its sounds are")
    add("--numbered", action="store_true", help="the folder has the list's own mixture-INDEX.wav")
    add("--skip-missing", action="store_true", help="leave out rows whose sounds are not there")
    nets = parser.add_argument_group("measures that need a network of your own")
    add = nets.add_argument
    add("--clap-score", action="store_true", help="CLAPScore, by the model of --clap")
    add("--fad", metavar="VGGISH", help="Fréchet audio distance, by this file of VGGish weights")
    parser.add_separation()
    parser.add_overwrite()
    parser.add_json()
    return parser


def main(argv: list[str]) -> int:
    """Separate mixtures with known sources and measure the estimates.

    Beside them stand the mixture taken for the estimate, and the true target through the same
    autoencoder and way to sound: the floor and the ceiling.
    """
    args = _parser().parse_args(argv)
    ambiguous = _ambiguous(args.ambiguous)
    total, examples = _examples(args, ambiguous)
    pipe = make_pipeline(args)
    from rectiflow_audio.evaluation import evaluate

    systems = Systems(pipe, args.dtype, separation(args))
    with (
        claimed_evaluation(args.out, [args.source], overwrite=args.overwrite),
        counter("measuring", unit="mixture", quiet=args.json) as show,
    ):
        found = evaluate(
            systems.separate,
            examples,
            codec=systems.codec,
            ideal_mask=args.ideal,
            clap=_clap(args) if args.clap_score else None,
            embed=_vggish(args.fad) if args.fad else None,
            progress=lambda done: show(done, total),
        )
        written = found.save(args.out) if args.out else []
    document = {"source": args.source, "summary": found.summary, "files": written}
    lines = [found.table()]
    if written:
        lines.append(f"wrote {', '.join(str(path) for path in written)}")
    answer(document, "\n".join(lines), as_json=args.json)
    return DONE


@dataclass
class Systems:
    """What is measured: the pipeline's estimate, and what its codec alone would lose.

    Masking needs the mixture: the one that was separated last, since an example's estimate is
    asked for before the codec of its target.
    """

    pipe: SeparationPipeline
    dtype: str
    options: dict[str, Any]
    mixture: Tensor | None = field(default=None, init=False)

    def separate(self, mixture: Tensor, query: str) -> Tensor:
        """Return the estimate of one channel at 16 kHz."""
        import torch
        from rectiflow_audio.frontend import SAMPLE_RATE

        self.mixture = mixture
        dtype = getattr(torch, self.dtype)
        result = self.pipe(mixture, SAMPLE_RATE, query, dtype=dtype, **self.options)
        return torch.from_numpy(result.estimates[0].samples[0])

    def codec(self, target: Tensor) -> Tensor:
        """Return the true target after autoencoder and way to sound."""
        import torch
        from rectiflow_audio.flow import FRAMES_MULTIPLE
        from rectiflow_audio.frontend import LogMel
        from rectiflow_audio.waveform import Generated

        assert self.mixture is not None
        pipe = self.pipe
        default = pipe.request("a sound").waveform
        render = self.options["waveform"] or default
        waves = torch.stack([target, self.mixture]).to(pipe.device)
        with torch.no_grad():
            log_mel = LogMel().to(pipe.device)
            mels = log_mel(waves)[:, None]
            frames = mels.shape[2] // FRAMES_MULTIPLE * FRAMES_MULTIPLE
            decoded = pipe.vae.decode(pipe.vae.encode(mels[:, :, :frames]).mean)[:, 0]
            generator = torch.Generator(pipe.device).manual_seed(self.options["seed"])
            made = Generated(decoded[:1], decoded[1:], waves[1:], log_mel, pipe.vocoder, generator)
            return render(made)[0].cpu()


def _examples(
    args: argparse.Namespace, ambiguous: dict[str, list[str]]
) -> tuple[int, Iterable[Example]]:
    """Return how many mixtures there are, and the mixtures."""
    source = Path(args.source)
    if not source.exists():
        raise UsageError(f"there is no {source}; expected a prepared folder or a list of mixtures.")
    if source.is_dir():
        if args.form or args.folder:
            raise UsageError(
                f"{source} is a prepared folder, got --form or --folder, which go with a list; "
                "leave them out."
            )
        return _of_shards(args, source, ambiguous)
    if not args.form or not args.folder:
        raise UsageError(
            f"{source} is a list, got --form {args.form} and --folder {args.folder}; expected "
            "both: the form of its columns and where its sounds are."
        )
    return _of_list(args, source)


def _of_shards(
    args: argparse.Namespace, folder: Path, ambiguous: dict[str, list[str]]
) -> tuple[int, Iterable[Example]]:
    from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds
    from rectiflow_audio.evaluation import Example

    prepared = PreparedSounds(folder)
    clips = prepared.clips(args.split)
    rules = MixtureRules((args.snr, args.snr), ambiguous)
    dataset = MixtureDataset(
        clips, prepared.texts, args.seconds, rules=rules, loop=0.0, seed=args.mixture_seed
    )
    total = args.num or len(dataset)

    def made() -> Iterator[Example]:
        for i in range(total):
            row = i % len(dataset)
            item = dataset[(row, i // len(dataset))]
            label = clips.labels[row]
            yield Example(item["mixture"], item["target"], item["caption"], label, f"{i:05d}")

    return total, made()


def _of_list(args: argparse.Namespace, path: Path) -> tuple[int, Iterable[Example]]:
    from rectiflow_audio.data.lists import FORMS
    from rectiflow_audio.evaluation import read_examples

    from rectiflow_cli.domains import pick

    rows = FORMS[pick("list form", args.form, FORMS)].read(
        path, args.folder, prepared=args.numbered, skip_missing=args.skip_missing
    )
    rows = list(islice(rows, args.num))
    return len(rows), read_examples(rows, snr=args.snr)


def _ambiguous(words: list[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for word in words:
        label, colon, others = word.partition(":")
        if not colon or not label or not others:
            raise UsageError(
                f"--ambiguous is unclear, got {word!r}; expected LABEL:A,B, such as "
                "drum_loop:kick_drum,snare_drum."
            )
        found.setdefault(label, []).extend(others.split(","))
    return found


def _clap(args: argparse.Namespace) -> Any:
    from rectiflow_audio.metrics.clap import CLAP_NAME, Clap

    return Clap.load(args.clap or CLAP_NAME, device=pick_device(args.device))


def _vggish(path: str) -> Any:
    from rectiflow_audio.metrics import Vggish

    return Vggish.load(path)
