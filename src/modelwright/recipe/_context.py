"""What resolving a recipe passes around: the slices that are merged, and what was found so far."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from modelwright.architectures import Layout
from modelwright.checkpoint import Checkpoint, Part
from modelwright.errors import InputError, Problem
from modelwright.methods import Method
from modelwright.recipe._plan import Fate, PlannedTensor, PlannedVocabulary
from modelwright.recipe._schema import Recipe, Settings
from modelwright.recipe._yaml import Lines, Path
from modelwright.vocabulary import Tokenizer

Opener = Callable[[str], Checkpoint]


@dataclass(frozen=True)
class Resized:
    """A stack that was rebuilt from slices: per slice the model and its range of layers."""

    stack: str
    count: int
    ranges: tuple[tuple[int, tuple[int, int]], ...]
    moved: tuple[int, ...]  # layers of another kind than the donor's at that place
    path: Path


@dataclass
class Source:
    """One model's part in a slice, with its own parameters."""

    model: int
    parameters: Settings
    layers: tuple[int, int] | None
    path: Path


@dataclass
class Slice:
    """What is merged together: all layers in `models:` mode, a range of them in `slices:` mode."""

    sources: list[Source]
    base: int | None
    levels: tuple[Settings, ...]  # slice, module, recipe
    path: Path


@dataclass
class Context:
    """What resolving a recipe has found so far."""

    recipe: Recipe
    method: Method
    lines: Lines
    models: list[Checkpoint] = field(default_factory=list[Checkpoint])
    places: list[Path] = field(default_factory=list[Path])  # per model: where the recipe names it first
    names: list[dict[str, str]] = field(
        default_factory=list[dict[str, str]]
    )  # per model: name in the merge -> own name
    layouts: list[Layout] = field(default_factory=list[Layout])
    labels: dict[str, int] = field(default_factory=dict[str, int])
    fates: dict[tuple[int, str], Fate] = field(default_factory=dict[tuple[int, str], Fate])
    tensors: list[PlannedTensor] = field(default_factory=list[PlannedTensor])
    created: list[str] = field(default_factory=list[str])
    resized: list[Resized] = field(default_factory=list[Resized])
    donor: int = 0
    parts: list[Part] = field(default_factory=list[Part])  # of the output: the donor's, and what others add
    untied: bool = False
    vocabulary: PlannedVocabulary | None = None
    tokenizer: Tokenizer | None = None  # the output's, where it is no model's as it is
    prints: list[str | None] = field(default_factory=list[str | None])  # of each model's tokenizer, once asked for
    told: Tokenizer | None = None  # the donor's, where the output has another model's
    problems: list[Problem] = field(default_factory=list[Problem])
    notes: dict[str, None] = field(default_factory=dict[str, None])
    #: (kind, model, other) -> tensors; said once each, not once a tensor.
    gathered: dict[tuple[str, int, int], list[str]] = field(default_factory=dict[tuple[str, int, int], list[str]])
    #: (what a parameter that is not given breaks, where) -> tensors.
    ungiven: dict[tuple[str, Path], list[str]] = field(default_factory=dict[tuple[str, Path], list[str]])

    def wrong(self, what: str, mend: str = "", path: Path = ()) -> None:
        """Add a problem."""
        problem = Problem(what, mend, self.lines.where(path))
        if problem not in self.problems:
            self.problems.append(problem)

    def gather(self, kind: str, model: int, other: int, name: str) -> None:
        """Add a tensor to a problem that many tensors share."""
        self.gathered.setdefault((kind, model, other), []).append(name)

    def note(self, text: str) -> None:
        """Add a note, once."""
        self.notes[text] = None

    def stop_if_wrong(self) -> None:
        """Raise everything found so far."""
        if self.problems:
            raise InputError(self.problems)
