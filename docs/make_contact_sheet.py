"""Draw ``docs/images/synthetic_contact_sheet.png``: synthetic films with their scores as captions.

Run it as ``python docs/make_contact_sheet.py``.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from rust_optuna.data.synthetic.cohort import CORTICES_OF_VIEW, SyntheticFilm, draw_cohort
from rust_optuna.data.synthetic.film import HEIGHT, WIDTH, draw_film

COLUMNS, ROWS, CAPTION = 8, 3, 26


def caption(film: SyntheticFilm) -> str:
    """Return the film's view and subscores, a dash for an unreadable cortex."""
    names = CORTICES_OF_VIEW[film.view]
    return f"{film.view}\n" + "  ".join(f"{name} {film.readable.get(name, '-')}" for name in names)


def main() -> None:
    """Draw the sheet."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--contrast", type=float, default=1.0)
    parser.add_argument("--scale", type=float, default=0.7, help="size of a film on the sheet")
    parser.add_argument("--output", type=Path, default=Path(__file__).parent / "images" / "synthetic_contact_sheet.png")
    options = parser.parse_args()
    width, height = int(WIDTH * options.scale), int(HEIGHT * options.scale)
    sheet = Image.new("L", (COLUMNS * width, ROWS * (height + CAPTION)), 255)
    films = draw_cohort(COLUMNS * ROWS, options.seed)[: COLUMNS * ROWS]
    for place, film in enumerate(films):
        levels = draw_film(film, seed=options.seed, place=place, contrast=options.contrast)
        corner = (place % COLUMNS * width, place // COLUMNS * (height + CAPTION))
        sheet.paste(Image.fromarray(levels).resize((width - 2, height), Image.Resampling.LANCZOS), corner)
        ImageDraw.Draw(sheet).multiline_text(
            (corner[0] + 2, corner[1] + height),
            caption(film),
            fill=0,
            spacing=1,
            font=ImageFont.load_default_imagefont(),
        )
    options.output.parent.mkdir(parents=True, exist_ok=True)
    # 64 grey levels keep the file small; the films themselves have 256.
    sheet.quantize(64).save(options.output, optimize=True)


if __name__ == "__main__":
    main()
