"""Suites: families of models and tasks as data files, and the code that trains or loads them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from modelwright.errors import InputError, did_you_mean
from modelwright.evaluate._predictor import needs
from modelwright.recipe import Lines
from modelwright.recipe._yaml import load
from modelwright.suites._cache import Cache, key_of
from modelwright.suites._family import Family
from modelwright.suites._schema import SuiteFile, parse

BUDGETS = ("full", "smoke")


def _bundled() -> dict[str, Path]:
    folder = Path(str(resources.files("modelwright.suites"))) / "data"
    return {path.stem: path for path in sorted(folder.glob("*.yml"))}


#: The suites that come with the library, by name.
SUITES: tuple[str, ...] = tuple(_bundled())


@dataclass(frozen=True)
class Suite:
    """A family of models and tasks, as its file describes it.

    Attributes:
        file: What the file says.
        small: The same with what it says under `smoke`.
        path: Where the file lies.
    """

    file: SuiteFile
    small: SuiteFile
    path: Path

    @property
    def name(self) -> str:
        """What tables call it."""
        return self.file.name

    @property
    def title(self) -> str:
        """What it is, in a line."""
        return self.file.title

    @property
    def tasks(self) -> tuple[str, ...]:
        """The names of its tasks."""
        return tuple(self.file.task_names)

    def fingerprint(self, budget: str = "full") -> str:
        """A hash of all that its file says of models and tasks; titles, and where copies of them lie, do not count.

        Args:
            budget: `full` or `smoke`.
        """
        file = self.file if budget == "full" else self.small
        return key_of(file.model_dump(mode="json", exclude={"title", "about", "root"}))

    def family(
        self, seed: int = 0, *, cache: str | Path | None = None, device: str = "cpu", budget: str = "full"
    ) -> Family:
        """Its models and tasks for one seed: trained, or taken from the cache.

        Args:
            seed: Decides initial weights and the order of items; data and splits are the same for all.
            cache: Where trained models are kept; None for the user's cache folder.
            device: Where networks are trained.
            budget: `full`, or `smoke` for models that are trained in seconds and know little.

        Raises:
            InputError: The budget or device is none, or the data or models are not there.
            MissingExtraError: A package that it needs is not installed.
        """
        if budget not in BUDGETS:
            raise InputError(f"no budget is called '{budget}'", did_you_mean(budget, BUDGETS))
        if seed < 0:
            raise InputError(f"seed must be at least 0, got {seed}")
        check_device(device)
        file = self.file if budget == "full" else self.small
        return file.family(seed, Cache(cache), device)


def check_device(device: str) -> None:
    """Refuse a device that torch cannot use here.

    Raises:
        InputError: It is none, or there is no such device.
    """
    if device == "cpu":
        return
    torch = needs("torch", f"the device '{device}'", "torch")
    try:
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the second is what torch without CUDA raises
        raise InputError(f"the device '{device}' cannot be used: {str(error).splitlines()[0]}") from None


def suite(name_or_path: str | Path) -> Suite:
    """A suite by its name, or from a file of your own.

    Args:
        name_or_path: One of `SUITES`, or the path of a `.yml` file.

    Raises:
        InputError: There is no such suite, or its file is not valid.

    Example:
        >>> suite("digits").tasks
        ('rotate', 'mirror', 'invert', 'roll', 'shuffle', 'flip', 'transpose', 'checker')
    """
    text = str(name_or_path)
    path = _bundled().get(text) or Path(text).expanduser()
    if not path.is_file():
        if path.suffix in (".yml", ".yaml"):
            raise InputError(f"there is no suite file '{text}'")
        raise InputError(
            f"no suite is called '{text}'", did_you_mean(text, SUITES) + " Or give the path of a .yml file."
        )
    said, lines = _read(path)
    small = said.pop("smoke", {})
    if not isinstance(small, dict):
        raise InputError("smoke must be a mapping of what is smaller", where=lines.where(("smoke",)))
    return Suite(parse(said, lines), parse(_over(said, small), lines.below("smoke") if small else lines), path)


def _read(path: Path) -> tuple[dict[str, Any], Lines]:
    """What a file says, put over what the suite says that it extends; and where it says it."""
    try:
        documents = load(path.read_text(encoding="utf-8"), path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"cannot read the suite: {error}", where=str(path)) from error
    if len(documents) != 1 or not isinstance(documents[0][0], dict):
        raise InputError("a suite is one mapping with name, kind and tasks", where=str(path))
    said, lines = documents[0]
    below = said.pop("extends", None)
    if below is None:
        return said, lines
    others = {name: other for name, other in _bundled().items() if other != path}
    if below not in others:
        raise InputError(
            f"extends: no suite is called '{below}'", did_you_mean(str(below), others), lines.where(("extends",))
        )
    return _over(_read(others[below])[0], said), lines


def _over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Mappings joined key by key; anything else of the second replaces that of the first, and so does another network."""
    result = dict(below)
    for key, value in above.items():
        old = result.get(key)
        joined = isinstance(old, dict) and isinstance(value, dict) and "model_type" not in value
        result[key] = _over(old, value) if joined else value  # type: ignore[arg-type]
    return result
