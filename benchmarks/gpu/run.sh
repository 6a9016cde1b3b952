#!/usr/bin/env bash
# Runs entries of the GPU queue on a bare CUDA machine: python3 with torch, numpy, scipy,
# safetensors, tqdm and lightning, neither network nor installation. See README.md for the entries.
set -euo pipefail

usage="usage: bash benchmarks/gpu/run.sh ENTRY... --out DIR [--data DIR] [--wheels DIR] [--device D]"
known=(parity core-overhead protein-network protein-small protein-reflow audio-parity audio-separation
  audio-small shape-parity shape-generation pde-networks training-sharded)
minutes=9

fail() {
  echo "run.sh: $1" >&2
  echo "$usage" >&2
  echo "entries: ${known[*]}" >&2
  exit 2
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
root=$(cd "$here/../.." && pwd)
python=${PYTHON:-python3}
entries=() out="" wheels="" options=()
while (($#)); do
  case $1 in
    --out | --wheels | --data | --device | --golden | --seconds)
      (($# > 1)) || fail "$1 needs a value"
      case $1 in
        --out) out=$2 ;;
        --wheels) wheels=$2 ;;
        --data | --golden) options+=("$1" "$(realpath "$2")") ;;
        *) options+=("$1" "$2") ;;
      esac
      shift 2
      ;;
    -*) fail "unknown option $1" ;;
    *)
      [[ " ${known[*]} " == *" $1 "* ]] || fail "unknown entry '$1'"
      entries+=("$1")
      shift
      ;;
  esac
done
((${#entries[@]})) || fail "no entry given"
[[ -n $out ]] || fail "no --out given"

mkdir -p "$out/site"
out=$(realpath "$out")
if [[ -n $wheels ]]; then
  "$python" -m pip install --quiet --no-index --no-deps --upgrade --target "$out/site" "$wheels"/*.whl
fi
# A source tree on the path has no metadata, which run folders read the version from.
for member in shared packages/protein packages/audio packages/shape packages/pde; do
  name=$(sed -n 's/^name = "\(.*\)"/\1/p' "$root/$member/pyproject.toml" | head -n 1)
  version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/$member/pyproject.toml" | head -n 1)
  info="$out/site/${name//-/_}-$version.dist-info"
  mkdir -p "$info"
  printf 'Metadata-Version: 2.1\nName: %s\nVersion: %s\n' "$name" "$version" >"$info/METADATA"
done
export PYTHONPATH="$root/shared/src:$root/packages/protein/src:$root/packages/audio/src:$root/packages/shape/src:$root/packages/pde/src:$out/site${PYTHONPATH:+:$PYTHONPATH}"

failed=()
for entry in "${entries[@]}"; do
  echo "== $entry"
  timeout --kill-after=15 "${minutes}m" \
    "$python" "$here/${entry//-/_}.py" --out "$out" "${options[@]}" || failed+=("$entry")
done
if ((${#failed[@]})); then
  echo "run.sh: failed: ${failed[*]}" >&2
  exit 1
fi
