"""Latency and throughput of a separation here; see ``benchmarks/audio_separation.py``."""

from __future__ import annotations

import json
import subprocess
import sys

from entry import ROOT, parse, write


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    found = args.out / "audio-separation.measured.json"
    words = [sys.executable, ROOT / "benchmarks" / "audio_separation.py", "--device", args.device]
    words += ["--limit", str(args.seconds / 2), "--out", found]
    if not args.device.startswith("cuda"):
        words += ["--small", "--frames", "64", "--steps", "1", "--rounds", "1"]
    subprocess.run(words, check=True, timeout=args.seconds, stdout=subprocess.DEVNULL)
    write(args, "audio-separation", json.loads(found.read_text(encoding="utf-8")))
    found.unlink()


if __name__ == "__main__":
    main()
