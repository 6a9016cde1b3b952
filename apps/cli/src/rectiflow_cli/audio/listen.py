"""``rectiflow audio listen``: sounds out of a live recording, by words."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from rectiflow.commands import Parser, answer, positive
from rectiflow.commands.verb import PipelineVerb
from rectiflow.storage.folders import claim, claim_file

from rectiflow_cli.audio.flags import Audio, add_queries, add_separation, separation
from rectiflow_cli.errors import UsageError

if TYPE_CHECKING:
    from torch import Tensor

POLL = 0.02
"""Seconds between two looks at a file that grows."""

BYTES = {"s16le": 2, "f32le": 4}


class Listen(Audio, PipelineVerb):
    """Separate a live sound: PCM from stdin or from a file that grows, block by block.

    Reading, separating and writing go on at the same time with bounded queues. The real-time
    factor, seconds of work for a second of sound, must stay below 1 to keep up.
    """

    name = "listen"
    examples = (
        '--query "rain" --rate 44100 --block 0.5 -o rain.wav',
        'recording.pcm --follow 5 --query "speech" -o - --rate 16000 --encoding f32le',
    )

    def flags(self, parser: Parser) -> None:
        """Add the stream, what is wanted of it, and where it goes."""
        add = parser.group("sound")
        add("source", metavar="PCM", nargs="?", default="-", help="A file of PCM, or - for stdin.")
        add_queries(add)
        add("--rate", type=positive, default=16_000, help="Samples a second of the PCM.")
        add("--channels", type=positive, default=1, help="Interleaved in the PCM.")
        add("--encoding", choices=BYTES, default="s16le", help="Of its numbers.")
        add("--block", type=float, default=0.5, help="Seconds that are waited for at a time.")
        add(
            "--follow",
            type=float,
            default=0.0,
            metavar="SECONDS",
            help="Go on reading a file until it has not grown for so long.",
        )
        add = parser.group("output")
        add(
            "-o",
            "--out",
            required=True,
            metavar="OUT",
            help="A sound file for one query, a folder for several, or - for PCM to stdout.",
        )
        add_separation(parser)
        parser.add_network()
        parser.add_overwrite()
        parser.add_json()

    def run(self, args: Any) -> int:
        """Separate until the sound ends, and tell how well it kept up."""
        from rectiflow.stream import Pace, pipelined
        from rectiflow_audio.live import Listener

        if args.out == "-" and (len(args.queries) > 1 or args.json):
            raise UsageError("stdout takes one sound and nothing else, got -o - with more.")
        pipe = self.load(args)
        request = pipe.request(args.queries, **separation(args))
        listener = Listener(pipe, request, args.rate, args.channels, args.block)
        pace, work, heard = Pace(), [0.0], [0]

        def separate(block: Tensor) -> Tensor:
            began = time.perf_counter()
            found = listener.push(block)
            work[0] += time.perf_counter() - began
            heard[0] += block.shape[-1]
            return found

        with ExitStack() as stack:
            file = _opened(args.source, stack)
            sinks = self._sinks(args, stack)
            blocks = _blocks(file, args, listener.block)
            for found in pipelined(blocks, separate, pace=pace):
                _write(sinks, found)
            _write(sinks, listener.flush())
        seconds = heard[0] / args.rate
        document = {
            "seconds": seconds,
            "real_time_factor": work[0] / seconds if seconds else 0.0,
            "delay": listener.delay / args.rate,
            "latency": {
                "mean": sum(pace.latencies) / max(len(pace.latencies), 1),
                "longest": pace.latency,
            },
            "blocks": len(pace.latencies),
            "solver": repr(request.solver),
            "steps": request.steps,
        }
        text = (
            f"{seconds:.2f} s heard in {document['blocks']} blocks; real-time factor "
            f"{document['real_time_factor']:.3f}; each block was done "
            f"{document['latency']['mean']:.3f} s after its end on average, "
            f"{pace.latency:.3f} s at most"
        )
        if args.out == "-":
            sys.stderr.write(text + "\n")
        else:
            answer(document, text, as_json=args.json)
        return 0

    def _sinks(self, args: Any, stack: ExitStack) -> list[Any]:
        """Return what takes the blocks of each query."""
        from rectiflow_audio.io import FORMATS, AudioWriter
        from rectiflow_audio.result import file_names

        if args.out == "-":
            return [_Pcm(sys.stdout.buffer, args.encoding)]
        out = Path(args.out)
        if out.suffix.lower() in FORMATS:
            if len(args.queries) > 1:
                raise UsageError(
                    f"one file cannot hold {len(args.queries)} sounds, got -o {out}; expected a "
                    "folder."
                )
            stack.enter_context(claim_file(out, overwrite=args.overwrite))
            targets = [out]
        else:
            names = file_names(args.queries, ".wav", residual=False)
            stack.enter_context(claim(out, "live sounds", names, overwrite=args.overwrite))
            targets = [out / name for name in names]
        return [
            stack.enter_context(AudioWriter(target, args.rate, args.channels, subtype="PCM_16"))
            for target in targets
        ]


class _Pcm:
    """Writes blocks as PCM."""

    def __init__(self, file: BinaryIO, encoding: str) -> None:
        self.file, self.encoding = file, encoding

    def write(self, samples: Tensor) -> None:
        flat = samples.T.contiguous()
        if self.encoding == "s16le":
            numbers = (flat.clamp(-1, 1) * 32767).round().numpy().astype("<i2")
        else:
            numbers = flat.numpy().astype("<f4")
        self.file.write(numbers.tobytes())
        self.file.flush()


def _write(sinks: list[Any], found: Tensor) -> None:
    for sink, samples in zip(sinks, found, strict=True):
        if samples.shape[-1]:
            sink.write(samples)


def _opened(source: str, stack: ExitStack) -> BinaryIO:
    if source == "-":
        return sys.stdin.buffer
    path = Path(source)
    if not path.is_file():
        raise UsageError(f"there is no {path}; expected a file of PCM, or - for stdin.")
    return stack.enter_context(path.open("rb"))


def _blocks(file: BinaryIO, args: Any, samples: int) -> Iterator[Tensor]:
    """Yield blocks (channels, n) as they are recorded; the last may be short."""
    import numpy as np
    import torch

    frame = BYTES[args.encoding] * args.channels
    for raw in _chunks(file, samples * frame, args.follow):
        whole = raw[: len(raw) // frame * frame]
        if args.encoding == "s16le":
            numbers = np.frombuffer(whole, "<i2").astype(np.float32) / 32768
        else:
            numbers = np.nan_to_num(np.frombuffer(whole, "<f4").astype(np.float32))
        if len(numbers):
            yield torch.from_numpy(numbers.reshape(-1, args.channels).T.copy())


def _chunks(file: BinaryIO, size: int, follow: float) -> Iterator[bytes]:
    """Yield so many bytes at a time, waiting for a file that grows."""
    held, still = b"", time.monotonic()
    while True:
        more = file.read(size - len(held))
        if more:
            held, still = held + more, time.monotonic()
        if len(held) == size:
            yield held
            held = b""
        elif not more and time.monotonic() - still >= follow:
            if held:
                yield held
            return
        elif not more:
            time.sleep(POLL)


main = Listen()
