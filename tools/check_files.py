"""Check the files of the repository, or those named, for what must not be committed.

Prints one line per finding and exits with 1 if there is any. Runs on the standard library alone.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))
from neutral_lock import neutral

ROOT = Path(__file__).resolve().parents[1]
MAX_BYTES = 16 * 2**20
MAX_LINES = 600  # of a module
LONG_LINES, REASON = 400, "Longer than 400 lines because"  # which its docstring goes on to tell

# A committed file may name these hosts and no others: papers, code, licences, reserved names.
HOSTS = {
    *("arxiv.org", "doi.org", "openreview.net", "zenodo.org"),
    *("github.com", "huggingface.co", "orcid.org"),
    *("apache.org", "keepachangelog.com", "semver.org", "w3.org", "json-schema.org"),
    *("rcsb.org", "wwpdb.org", "ebi.ac.uk"),
    *("index.invalid", "example.com", "example.org", "localhost", "127.0.0.1"),
}
_HOST = re.compile(r"https?://([\w.-]+)|\b((?:[\w-]+\.)+(?:org|com))\b")
_RULES = [  # (pattern, only in files of this suffix, what is wrong); no pattern matches itself
    (re.compile(r"(?:^|[^\w.~])/(?:work|root|home|Users)/\w"), None, "a path of one machine"),
    (re.compile(r"\b(?:TO[D]O|FIX[M]E|XX[X])\b|Not[I]mplementedError"), ".py", "left unfinished"),
    (
        re.compile(r"weights_only\s*=\s*[F]alse|pickle\.[l]oad\(|allow_pickle\s*=\s*[T]rue"),
        ".py",
        "loads code, not only data",
    ),
    (re.compile(r"^(?:<{7}|>{7}) "), None, "a merge conflict"),
]


def repository_files() -> list[Path]:
    """Return what git tracks or would add; without git, everything that is not hidden."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode == 0:
        paths = [ROOT / name for name in listing.stdout.split("\0") if name]
    else:
        built = {"site", "dist", "build", "demo", "runs", "outputs", "__pycache__"}
        paths = [
            path
            for path in ROOT.rglob("*")
            if not any(p.startswith(".") or p in built for p in path.relative_to(ROOT).parts)
        ]
    return [path for path in paths if path.is_file()]


def _allowed(host: str) -> bool:
    return any(host == known or host.endswith(f".{known}") for known in HOSTS)


def findings(path: Path) -> Iterator[str]:
    """Yield what is wrong with one file, each as ``[line: ]problem``."""
    size = path.stat().st_size
    if size > MAX_BYTES:
        yield f"{size / 2**20:.1f} MiB; at most {MAX_BYTES // 2**20} MiB may be committed"
    data = path.read_bytes()
    if not data or b"\0" in data[:8192]:
        return
    try:
        text = data.decode()
    except UnicodeDecodeError:
        return
    if path.name == "uv.lock":
        text = neutral(text)  # the working file names the user's index; git stores it without
    if not text.endswith("\n") and "golden" not in path.parts:
        yield "no newline at the end"
    lines = text.splitlines()
    if path.suffix == ".py" and len(lines) > MAX_LINES:
        yield f"{len(lines)} lines; a module has at most {MAX_LINES}"
    is_long = path.suffix == ".py" and "src" in path.parts and len(lines) > LONG_LINES
    if is_long and REASON not in " ".join(lines[:15]):
        yield f"{len(lines)} lines; its docstring must say: {REASON} ..."
    for number, line in enumerate(lines, start=1):
        for found in _HOST.finditer(line):
            if not _allowed(host := (found[1] or found[2]).lower().rstrip(".")):
                yield f"{number}: host {host!r} is not on the list in tools/check_files.py"
        for pattern, suffix, problem in _RULES:
            if suffix in (None, path.suffix) and pattern.search(line):
                yield f"{number}: {problem}"


def main(names: list[str]) -> int:
    """Check the named files, or all."""
    bad = 0
    for path in [Path(name).resolve() for name in names] or repository_files():
        for finding in findings(path):
            print(f"{path.relative_to(ROOT)}: {finding}")
            bad = 1
    return bad


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
