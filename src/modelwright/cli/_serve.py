"""`mw serve`."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from modelwright.chat import Sandbox
from modelwright.errors import InputError, printable
from modelwright.serve import Address, Predicting, Served, serve


@dataclass(frozen=True)
class Serving:
    """The options of `mw serve`.

    Attributes:
        address: Where, and for whom.
        grace: Seconds that requests under way get when it is told to stop.
        cache: Where replies are kept, instead of the panels' own files.
        served: Of `Served`.
        task: Of models that predict: what their inputs are like.
        classes: Of models that predict, without a task: names of their classes.
        code: What runs code that panels' models write; None runs none.
    """

    address: Address
    grace: float
    cache: Path | None
    served: dict[str, Any]
    task: str | None = None
    classes: Sequence[str] = ()
    code: Sandbox | None = None


def run_serve(references: Sequence[str], options: Serving, *, quiet: bool) -> None:
    """Serve panels until told to stop."""
    from modelwright.chat import Panel, is_panel, panel
    from modelwright.evaluate import systems
    from modelwright.evaluate._systems import labelled

    if options.grace < 0:
        raise InputError(f"grace must be at least 0 seconds, got {options.grace:g}")

    def make() -> Served:
        panels: list[Panel] = []
        predicting: dict[str, Predicting] = {}
        for reference in references:
            label, path = labelled(reference)
            if is_panel(path) or (path.endswith((".yml", ".yaml")) and not Path(path).is_file()):
                panels.append(panel(path, label, options.code))
                continue
            [one] = systems([reference])
            predicting[one.label] = Predicting(one, options.task, options.classes)
        if options.cache is not None:
            panels = [replace(one, cache=options.cache) for one in panels]
        return Served(panels, predicting=predicting, **options.served)

    console = Console(stderr=True)

    def say(text: str, style: str = "dim") -> None:
        if not quiet:
            console.print(printable(text), style=style, highlight=False, markup=False, soft_wrap=True)

    def ready(url: str) -> None:
        say(f"panels at {url}/v1, recent requests at {url}/, figures at {url}/metrics; Ctrl-C stops", style="")

    logging.getLogger("modelwright.serve").addHandler(logging.StreamHandler())
    if options.address.warning:
        say(f"warning: {options.address.warning}", style="yellow")
    serve(make, options.address, grace=options.grace, ready=ready)
    say("stopped")
