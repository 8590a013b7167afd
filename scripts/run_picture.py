"""Draw what a run predicted: validation images with label and confidence, the least certain ones first.

Use: ``python scripts/run_picture.py runs/latest docs/demo.png``
"""

import argparse
import csv
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from clf.preprocess import decode

TILE, CAPTION, GAP = 96, 26, 8
COLOURS = {True: "#15803d", False: "#b91c1c"}


def draw(rows: list[dict[str, str]], *, columns: int) -> Image.Image:
    """Lay rows of a predictions file out as a grid; green captions are right, red ones wrong.

    Args:
        rows: With ``path``, ``true``, ``label`` and ``confidence``.
        columns: Tiles beside each other.
    """
    height = -(-len(rows) // columns) * (TILE + CAPTION + GAP) + GAP
    sheet = Image.new("RGB", (columns * (TILE + GAP) + GAP, height), "white")
    pen = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=15)
    for number, row in enumerate(rows):
        left = GAP + number % columns * (TILE + GAP)
        top = GAP + number // columns * (TILE + CAPTION + GAP)
        sheet.paste(decode(row["path"]).resize((TILE, TILE), Image.Resampling.LANCZOS), (left, top))
        caption = f"{row['label']}   {float(row['confidence']):.0%}"
        colour = COLOURS[row["label"] == row["true"]]
        pen.text((left + TILE / 2, top + TILE + CAPTION / 2), caption, fill=colour, font=font, anchor="mm")
    return sheet


def main() -> None:
    """Read the run's predictions and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("output", type=Path)
    parser.add_argument("--tiles", type=int, default=24)
    options = parser.parse_args()
    with (options.run / "predictions" / "val.csv").open(encoding="utf-8", newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: float(row["confidence"]))
    draw(rows[: options.tiles], columns=8).save(options.output)


if __name__ == "__main__":
    main()
