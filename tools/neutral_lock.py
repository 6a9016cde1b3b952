"""Keep ``uv.lock`` free of package-index addresses: exact versions and hashes, from any index.

uv writes the address of the index it used into every line of its lock. The committed form names
none: versions, file names and hashes stay, and a bare ``uv sync`` resolves to the same versions
from whichever index the user has configured. It then writes that index's addresses into the
working file, and restores the neutral form as it ends (``shared/hatch_build.py``); after a mere
``uv lock`` the git filter ``neutral-lock`` removes them on ``git add``.

Run with ``--clean`` (stdin to stdout, the git filter), ``--write`` (rewrite the working file) or
``--check`` (the working file, neutralised, must equal what git holds).
"""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path
from urllib.parse import unquote

LOCK = Path(__file__).resolve().parents[1] / "uv.lock"
PLACEHOLDER = "https://index.invalid/simple"  # the reserved domain .invalid never resolves

_REGISTRY = re.compile(r'registry = "https?://[^"]*"')
_FILE = re.compile(r'\{ url = "https?://[^"]*/([^"/#]+)(?:#[^"]*)?", hash = ')
_MEMBERS = re.compile(r"(\[manifest\]\n)members = \[\n.*?\n\]\n", flags=re.DOTALL)


def neutral(text: str) -> str:
    """Return a lock's text without addresses; applying it twice changes nothing.

    The member list of ``[manifest]`` goes too: its absence is what makes uv fill the addresses
    in again, with the locked versions as preferences, instead of trying the placeholder.
    """
    text = _REGISTRY.sub(f'registry = "{PLACEHOLDER}"', text)
    text = _FILE.sub(lambda found: f'{{ filename = "{unquote(found[1])}", hash = ', text)
    return _MEMBERS.sub(r"\1", text)


def held_by_git(lock: Path) -> str | None:
    """Return the text in git's index (what a commit would store), or None without one."""
    show = subprocess.run(
        ["git", "show", f":./{lock.name}"], cwd=lock.parent, capture_output=True, check=False
    )
    return show.stdout.decode() if show.returncode == 0 else None


def check(lock: Path) -> str:
    """Return what is wrong with the lock, or an empty string."""
    working, stored = lock.read_text(encoding="utf-8"), held_by_git(lock)
    if stored is None:
        return "" if working == neutral(working) else f"{lock.name} is not neutral; run --write"
    if stored != neutral(stored):
        return f"git holds a {lock.name} with addresses; run --write, then git add {lock.name}"
    if stored != neutral(working):
        return f"{lock.name} differs from the one in git; run git add {lock.name} if that is meant"
    return ""


def write(lock: Path) -> None:
    """Rewrite the working file in neutral form, atomically."""
    text = lock.read_text(encoding="utf-8")
    if text != (clean := neutral(text)):
        partial = lock.with_suffix(".partial")
        partial.write_text(clean, encoding="utf-8")
        os.replace(partial, lock)


def main() -> int:
    """Run one of the three modes."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    mode = parser.add_mutually_exclusive_group(required=True)
    mode.add_argument("--clean", action="store_true", help="stdin to stdout (git filter)")
    mode.add_argument("--write", action="store_true", help="rewrite uv.lock in place")
    mode.add_argument("--check", action="store_true", help="compare uv.lock with git's")
    parser.add_argument("--lock", type=Path, default=LOCK, help="another lock file")
    args = parser.parse_args()
    if args.clean:
        sys.stdout.buffer.write(neutral(sys.stdin.buffer.read().decode()).encode())
        return 0
    if args.write:
        write(args.lock)
        return 0
    if problem := check(args.lock):
        print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
