"""``rectiflow audio eval``: separate mixtures whose sources are known, and measure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rectiflow import commands
from rectiflow.commands import Measured, Parser, pick_device, positive
from rectiflow.storage.splits import SPLITS

from rectiflow_cli.audio.flags import Audio, add_separation, separation
from rectiflow_cli.domains import pick
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    import argparse

    from rectiflow_audio.evaluation import Example
    from rectiflow_audio.pipeline import SeparationPipeline
    from torch import Tensor


class Eval(Audio, commands.Evaluate):
    """Measure separated sounds against their references, or with --weights a model on mixtures.

    Beside a model stand the mixture taken for the estimate, and the true target through the same
    autoencoder and way to sound: the floor and the ceiling.
    """

    examples = (
        "separated/dog.wav --reference dog.wav --mixture mixture.wav",
        "shards --weights small --num 100 -o measured",
    )

    def own_flags(self, parser: Parser) -> None:
        """Add files, or mixtures for a model, and measures."""
        add = parser.group("files")
        add(
            "paths",
            metavar="FILE|SHARDS|LIST",
            nargs="+",
            help="Separated sounds; with --weights a prepared folder, of which mixtures are made, "
            "or a published list of mixtures.",
        )
        add(
            "--reference",
            action="append",
            default=[],
            metavar="FILE",
            help="The true sound of each file, in their order; may be repeated.",
        )
        add("--mixture", metavar="FILE", help="What the files were separated from.")
        add = parser.group("mixtures for a model")
        add("--num", type=positive, help="How many; each clip or row once if absent.")
        add("--snr", type=float, default=0.0, help="In decibel, where a list does not tell.")
        add("--ideal", action="store_true", help="Measure the best that a mask can do, too.")
        add = parser.group("mixtures of a prepared folder")
        add("--split", choices=SPLITS, default="test", help="Of the clips.")
        add("--seconds", type=float, default=5.12, help="The length of a mixture.")
        add("--mixture-seed", type=int, default=0, help="Fixes the mixtures.")
        add(
            "--ambiguous",
            action="append",
            default=[],
            metavar="LABEL:A,B",
            help="Labels that must not be mixed with LABEL since its query fits them; may be "
            "repeated.",
        )
        add = parser.group("mixtures of a list")
        add("--form", metavar="NAME", help="Its form: audiocaps, esc50, music, dcase2024, ...")
        add("--folder", metavar="DIR", help="Where its sounds are.")
        add("--numbered", action="store_true", help="The folder has the list's mixture-INDEX.wav.")
        add("--skip-missing", action="store_true", help="Leave out rows whose sounds are absent.")
        add = parser.group("measures that need a network of your own")
        add("--clap-score", action="store_true", help="CLAPScore, by the model of --clap.")
        add("--fad", metavar="VGGISH", help="Fréchet audio distance, by VGGish weights.")
        add_separation(parser)

    def measure(self, args: Any, progress: Any) -> Measured:
        """Measure files against references, or a model."""
        from rectiflow_audio.evaluation import summarise

        if args.weights is not None:
            if len(args.paths) > 1 or args.reference or args.mixture:
                raise UsageError(
                    f"--weights takes one prepared folder or list, got {' '.join(args.paths)}"
                    f"{' with --reference or --mixture' if args.reference or args.mixture else ''}"
                    "; leave --weights out to measure files."
                )
            [args.source] = args.paths
        total, _ = _examples(args)
        numbers = {f"{i:05d}": i for i in range(total)}
        found, failures = self.each(args, partial(self._measuring, args), numbers, progress)
        told = {"source": args.paths if args.weights is None else args.source}
        return Measured(summarise(list(found.values()), failures), told)

    def _measuring(self, args: Any) -> Callable[[int], Any]:
        """Load what separates and what measures, and return what measures an example."""
        from rectiflow_audio.evaluation import Measure

        nets: dict[str, Any] = {
            "clap": _clap(args) if args.clap_score else None,
            "embed": _vggish(args.fad) if args.fad else None,
        }
        _, example = _examples(args)
        if args.weights is None:
            _, estimates = _of_files(args)
            measure = Measure(lambda mixture, query: estimates[query], **nets)
        else:
            systems = Systems(self.load(args), separation(args))
            measure = Measure(systems.separate, systems.codec, args.ideal, **nets)
        return lambda number: measure(example(number), number + 1)

    def tell(self, found: Any) -> str:
        """Return a table of means."""
        return found.table()


@dataclass
class Systems:
    """What is measured: the pipeline's estimate, and what its codec alone would lose.

    Masking needs the mixture: the one that was separated last, since an example's estimate is
    asked for before the codec of its target.
    """

    pipe: SeparationPipeline
    options: dict[str, Any]
    mixture: Tensor | None = field(default=None, init=False)

    def separate(self, mixture: Tensor, query: str) -> Tensor:
        """Return the estimate of one channel at 16 kHz."""
        import torch
        from rectiflow_audio.frontend import SAMPLE_RATE

        self.mixture = mixture
        result = self.pipe(mixture, SAMPLE_RATE, query, **self.options)
        return torch.from_numpy(result.estimates[0].samples[0])

    def codec(self, target: Tensor) -> Tensor:
        """Return the true target after autoencoder and way to sound."""
        import torch
        from rectiflow_audio.flow import whole_frames
        from rectiflow_audio.frontend import LogMel
        from rectiflow_audio.waveform import Generated

        assert self.mixture is not None
        pipe = self.pipe
        render = self.options["waveform"] or pipe.request("a sound").waveform
        waves = torch.stack([target, self.mixture]).to(pipe.device)
        with torch.no_grad():
            log_mel = LogMel().to(pipe.device)
            mels = whole_frames(log_mel(waves)[:, None])
            decoded = pipe.vae.decode(pipe.vae.encode(mels).mean)[:, 0]
            generator = torch.Generator(pipe.device).manual_seed(self.options["seed"])
            made = Generated(decoded[:1], decoded[1:], waves[1:], log_mel, pipe.vocoder, generator)
            return render(made)[0].cpu()


def _of_files(args: argparse.Namespace) -> tuple[list[Example], dict[str, Tensor]]:
    """Return files with their references, and each estimate by its query, the file's name."""
    import torch
    from rectiflow_audio.evaluation import Example, read_sound

    if not args.reference or len(args.reference) != len(args.paths) or not args.mixture:
        raise UsageError(
            f"files are measured against references, got {len(args.paths)} file(s), "
            f"{len(args.reference)} --reference and {'a' if args.mixture else 'no'} --mixture; "
            "expected one reference for each file, and the mixture. Add --weights to measure a "
            "model on a prepared folder or a list."
        )
    mixture = read_sound(args.mixture)
    examples, estimates = [], {}
    for path, reference in zip(args.paths, args.reference, strict=True):
        sounds = [read_sound(each) for each in (path, reference)]
        if any(len(sound) != len(mixture) for sound in sounds):
            raise UsageError(
                f"{path}, {reference} and {args.mixture} differ in length, got "
                f"{[len(s) for s in (*sounds, mixture)]} samples at 16 kHz; expected the same."
            )
        estimates[path] = sounds[0]
        examples.append(Example(torch.clone(mixture), sounds[1], path, name=Path(path).stem))
    return examples, estimates


Examples = tuple[int, "Callable[[int], Example]"]
"""How many mixtures there are, and what gives each by its number."""


def _examples(args: argparse.Namespace) -> Examples:
    """Lay out the mixtures that the flags name."""
    if args.weights is None:
        own, _ = _of_files(args)
        return len(own), own.__getitem__
    source = Path(args.source)
    if not source.exists():
        raise UsageError(f"there is no {source}; expected a prepared folder or a list of mixtures.")
    if source.is_dir():
        if args.form or args.folder:
            raise UsageError(
                f"{source} is a prepared folder, got --form or --folder, which go with a list; "
                "leave them out."
            )
        return _of_shards(args, source, _ambiguous(args.ambiguous))
    if not args.form or not args.folder:
        raise UsageError(
            f"{source} is a list, got --form {args.form} and --folder {args.folder}; expected "
            "both: the form of its columns and where its sounds are."
        )
    return _of_list(args, source)


def _of_shards(args: argparse.Namespace, folder: Path, ambiguous: dict[str, list[str]]) -> Examples:
    from rectiflow_audio.data import MixtureDataset, MixtureRules, PreparedSounds
    from rectiflow_audio.evaluation import Example

    prepared = PreparedSounds(folder)
    clips = prepared.clips(args.split)
    rules = MixtureRules((args.snr, args.snr), ambiguous)
    dataset = MixtureDataset(
        clips, prepared.texts, args.seconds, rules=rules, loop=0.0, seed=args.mixture_seed
    )
    total = args.num or len(dataset)

    def example(i: int) -> Example:
        row = i % len(dataset)
        item = dataset[(row, i // len(dataset))]
        label = clips.labels[row]
        return Example(item["mixture"], item["target"], item["caption"], label, f"{i:05d}")

    return total, example


def _of_list(args: argparse.Namespace, path: Path) -> Examples:
    from rectiflow_audio.data.lists import FORMS
    from rectiflow_audio.evaluation import read_examples

    rows = FORMS[pick("list form", args.form, FORMS)].read(
        path, args.folder, prepared=args.numbered, skip_missing=args.skip_missing
    )
    rows = list(islice(rows, args.num))
    return len(rows), lambda i: next(read_examples([rows[i]], snr=args.snr))


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


main = Eval()
