"""Speed and memory of the ReQFlow network here; see ``benchmarks/protein_network.py``.

The lengths are measured after the compiled network, for which no compilation starts after half of
the time.
"""

from __future__ import annotations

import json
import subprocess
import sys

from entry import ROOT, parse, write


def main() -> None:
    args = parse(__doc__.splitlines()[0])
    found = args.out / "protein-network.measured.json"
    words = [sys.executable, ROOT / "benchmarks" / "protein_network.py", "--device", args.device]
    words += ["--budget", "5", "--limit", str(args.seconds / 2), "--out", found]
    subprocess.run(words, check=True, timeout=args.seconds, stdout=subprocess.DEVNULL)
    write(args, "protein-network", json.loads(found.read_text(encoding="utf-8")))
    found.unlink()


if __name__ == "__main__":
    main()
