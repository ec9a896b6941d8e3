"""Which studies there are: the library's own, those of installed packages, those of plugin files."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import EntryPoint
from pathlib import Path

from modelwright.api import installed, plugin_module
from modelwright.errors import InputError, did_you_mean
from modelwright.studies._study import Study

GROUP = "modelwright.studies"


def studies(plugins: Sequence[str | Path] = ()) -> dict[str, Study]:
    """Every known study by its id.

    Args:
        plugins: Python files; every `Study` at their top level is added.

    Raises:
        InputError: A plugin is missing, fails, holds no study, or reuses an id.
    """
    from modelwright.studies import STUDIES

    known = dict(STUDIES)
    found = [_installed(point) for point in installed(GROUP)]
    for plugin in plugins:
        mine = [value for value in vars(plugin_module(Path(plugin).expanduser())).values() if isinstance(value, Study)]
        mine = [study for study in mine if STUDIES.get(study.id) is not study]  # what it only imports
        if not mine:
            raise InputError(f"the plugin '{plugin}' defines no Study", "Write NAME = Study(...) at its top level.")
        found += mine
    for study in found:
        if known.setdefault(study.id, study) is not study:
            raise InputError(f"two studies are called '{study.id}'", "Rename the one in the plugin.")
    return dict(sorted(known.items()))


def _installed(point: EntryPoint) -> Study:
    whose = f"the entry point '{point.name} = {point.value}'" + (f" of {point.dist.name}" if point.dist else "")
    try:
        study = point.load()
    except Exception as error:  # whatever a foreign package raises
        raise InputError(
            f"{whose} cannot be loaded: {type(error).__name__}: {error}", "Mend or uninstall that package."
        ) from error
    if not isinstance(study, Study):
        raise InputError(f"{whose} is a {type(study).__name__}", "It must name a modelwright.studies.Study.")
    return study


def study(id: str, plugins: Sequence[str | Path] = ()) -> Study:
    """A study by its id, the name of its paper.

    Args:
        id: Such as `ties-merging`; `mw study list` has them all.
        plugins: Python files with further studies.

    Returns:
        A record whose `run(seeds=, budget=)` puts the claim to the test.

    Raises:
        InputError: There is none of that id.

    Example:
        >>> study("model-soups").paper
        'arXiv:2203.05482'
    """
    known = studies(plugins)
    if id not in known:
        raise InputError(f"there is no study '{id}'", did_you_mean(id, known))
    return known[id]
