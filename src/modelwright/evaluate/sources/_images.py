"""Folders of images: class/image, or split/class/image."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modelwright.errors import InputError, MissingExtraError, Problem, listing
from modelwright.evaluate.sources._table import OWN_NAMES, Data, Table

SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".pgm", ".ppm"})
#: Modes of Pillow whose values are taken as they are: grey, and red, green, blue.
_MODES = ("L", "RGB")


def image_folder(path: Path) -> Data:
    """Files by class, and by split where the folders are called so. Ids are the files' paths; nothing is decoded yet.

    Raises:
        InputError: There are no images, or something else lies among them.
    """
    top = _folders(path)
    splits = {folder.name: folder for folder in top} if top and {f.name for f in top} <= OWN_NAMES else {"": path}
    if "" not in splits:
        _no_files(path)
    for folder in splits.values():
        _no_files(folder)
    files = {name: _files(folder) for name, folder in splits.items()}
    classes = tuple(sorted({label for found in files.values() for label, _ in found}))
    if not classes:
        raise InputError(
            "there are no images", "A folder of images has one folder a class, with image files.", str(path)
        )
    parts = {name: _table(found, path, name) for name, found in files.items()}
    return Data(parts, classes)


def _folders(path: Path) -> list[Path]:
    return sorted(p for p in path.iterdir() if p.is_dir() and not p.name.startswith("."))


def _no_files(folder: Path) -> None:
    odd = sorted(p.name for p in folder.iterdir() if not p.is_dir() and not p.name.startswith("."))
    if odd:
        mend = "A folder of images has one folder a class; or say columns of a .csv or .jsonl file."
        raise InputError(f"files lie beside the classes' folders: {listing(odd, 3)}", mend, str(folder))


def _files(folder: Path) -> list[tuple[str, Path]]:
    found: list[tuple[str, Path]] = []
    for label in _folders(folder):
        files = sorted(p for p in label.rglob("*") if p.is_file() and not p.name.startswith("."))
        odd = [p.relative_to(folder).as_posix() for p in files if p.suffix.lower() not in SUFFIXES]
        if odd:
            raise InputError(f"not images: {listing(odd, 3)}", "Move them elsewhere; nothing is left out.", str(folder))
        if not files:
            raise InputError(f"the class '{label.name}' has no images", "Delete the folder.", str(folder))
        found += [(label.name, file) for file in files]
    return found


def _table(found: list[tuple[str, Path]], root: Path, split: str) -> Table:
    if not found:
        raise InputError(f"the split '{split}' has no images", where=str(root))
    files = [file for _, file in found]
    columns = {
        "inputs": files,
        "target": [label for label, _ in found],
        "id": [file.relative_to(root).as_posix() for file in files],
    }
    return Table(columns, str(root), lambda i: columns["id"][i], decode=decoded)


def decoded(files: Sequence[Path]) -> list[np.ndarray]:
    """Images as uint8 arrays (h, w) or (h, w, 3).

    Raises:
        InputError: Some cannot be read, or have another kind of pixels; all are named.
    """
    image = _pillow()
    problems: list[Problem] = []
    arrays: list[np.ndarray] = []
    for file in files:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("error")  # a decompression bomb is a warning first
                with image.open(file) as opened:
                    arrays.append(_pixels(opened))
        except InputError as error:
            problems += [Problem(p.what, p.mend, str(file)) for p in error.problems]
        except (OSError, SyntaxError, ValueError, Warning, image.DecompressionBombError) as error:
            problems.append(Problem(f"cannot read the image: {error}", where=str(file)))
    if problems:
        more = [Problem(f"and {len(problems) - 3:,} images more")] if len(problems) > 3 else []
        raise InputError([*problems[:3], *more])
    return arrays


def _pixels(image: Any) -> np.ndarray:
    if getattr(image, "n_frames", 1) > 1:
        raise InputError(f"an image must be one picture, got {image.n_frames} frames")
    if image.mode not in _MODES:
        raise InputError(
            f"pixels must be grey or RGB of 8 bits (modes {' and '.join(_MODES)}), got mode {image.mode}",
            "Convert the files; how to drop transparency or palettes is not for us to choose.",
        )
    return np.asarray(image)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise MissingExtraError("reading images", "pillow", "eval") from error
    return Image


def as_colour(image: np.ndarray, colour: str) -> np.ndarray:
    """An image (h, w) or (h, w, 3) of uint8 as grey (h, w), by ITU-R 601 as Pillow has it, or as (h, w, 3)."""
    pillow = _pillow()
    return np.asarray(pillow.fromarray(image).convert("L" if colour == "grey" else "RGB"))


def resized(image: np.ndarray, size: Sequence[int]) -> np.ndarray:
    """An image of uint8 in another size (height, width), bilinear with antialiasing."""
    pillow = _pillow()
    return np.asarray(pillow.fromarray(image).resize((size[1], size[0]), pillow.Resampling.BILINEAR))
