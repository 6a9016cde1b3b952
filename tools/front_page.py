"""Make the strip of pictures at the top of README: one a domain, from a folder of `rectiflow demo`.

rectiflow demo -o demo
python tools/front_page.py demo docs/assets/front.png
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image

HEIGHT, GAP = 240, 12
PICTURES = (  # what stands in the demo's folder; the first that matches
    "pictures/distances_length_*[0-9].png",
    "pictures/separation_0.png",
    "*/rebuilt_0.png",
    "flows/*.gif",
)


def scaled(path: Path) -> Image.Image:
    """Return a picture, or the last frame of an animation, at the height of the strip."""
    image: Image.Image = Image.open(path)
    image.seek(getattr(image, "n_frames", 1) - 1)
    image = image.convert("RGB")
    return image.resize((round(image.width * HEIGHT / image.height), HEIGHT), Image.Resampling.BOX)


def main() -> None:
    """Put the pictures side by side."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("demo", type=Path)
    parser.add_argument("out", type=Path)
    args = parser.parse_args()
    found = [sorted(args.demo.glob(pattern)) for pattern in PICTURES]
    missing = [p for p, paths in zip(PICTURES, found, strict=True) if not paths]
    if missing:
        parser.error(f"{args.demo} has no {', '.join(missing)}; expected a demo of all domains")
    parts = [scaled(paths[0]) for paths in found]
    width = sum(part.width for part in parts) + GAP * (len(parts) - 1)
    strip, left = Image.new("RGB", (width, HEIGHT), "white"), 0
    for part in parts:
        strip.paste(part, (left, 0))
        left += part.width + GAP
    strip.save(args.out, optimize=True)


if __name__ == "__main__":
    main()
