"""What the integration loop costs on this device; see ``benchmarks/core_overhead.py``."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys

from entry import ROOT, parse, write


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    if importlib.util.find_spec("torchdiffeq") is None:
        raise SystemExit("torchdiffeq is not installed; expected its wheel in the --wheels folder")
    found = args.out / "core-overhead.measured.json"
    script = ROOT / "benchmarks" / "core_overhead.py"
    words = [sys.executable, script, "--device", args.device, "--out", found]
    subprocess.run(words, check=True, timeout=args.seconds, stdout=subprocess.DEVNULL)
    write(args, "core-overhead", json.loads(found.read_text(encoding="utf-8")))
    found.unlink()


if __name__ == "__main__":
    main()
