"""What a suite's file may say. Each kind of suite has its own class, which also makes the family."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from modelwright.errors import InputError, Problem, did_you_mean

if TYPE_CHECKING:
    from modelwright.recipe import Lines
    from modelwright.suites._cache import Cache
    from modelwright.suites._family import Family

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][\w.-]*$")]
Count = Annotated[int, Field(ge=1)]
Rate = Annotated[float, Field(gt=0)]


class Said(BaseModel):
    """A part of a file; unknown keys are refused, and numbers in quotes are no numbers."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class SuiteFile(Said):
    """What all suites have."""

    name: Name
    title: str
    about: str = ""

    @property
    @abstractmethod
    def task_names(self) -> list[str]:
        """The names of the tasks, in the order of tables."""

    @abstractmethod
    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Train the family, or load it."""


class Sizes(Said):
    """Most items of each split of a task."""

    tune: Count
    validation: Count
    test: Count


class Tuning(Said):
    """How a network is trained: `Schedule`, with the items of a step."""

    steps: Annotated[int, Field(ge=0)]
    rate: Rate
    batch: Count = 64
    weight_decay: Annotated[float, Field(ge=0)] = 0.01


class EpochTuning(Said):
    """How a perceptron is trained."""

    epochs: Annotated[int, Field(ge=0)]
    rate: Rate


class DigitsFile(SuiteFile):
    """scikit-learn's digits in several views, on a perceptron; needs no torch and no data packs."""

    kind: Literal["digits"]
    tasks: list[str]
    hidden: list[Count]
    base: DigitsBase
    experts: EpochTuning
    images: Count | None = None

    @property
    def task_names(self) -> list[str]:
        """The views."""
        return self.tasks

    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Train the family, or load it."""
        from modelwright.suites._digits import digits_family

        return digits_family(self, seed, cache)


class DigitsBase(EpochTuning):
    """The base sees few images, in all views."""

    images: Count


class HeadShots(Said):
    """Heads are linear probes of the base, of so many items a class."""

    shots: Annotated[int, Field(ge=2)]


class ImageTuning(Tuning):
    """How a network for images is tuned; `frozen` statistics of batch normalisation stay those of the base."""

    statistics: Literal["own", "frozen"] = "own"


class ImagesBase(Tuning):
    """What the base is trained on: sets of labelled images, and telling by how much images are turned."""

    sets: Annotated[list[Name], Field(min_length=1)]
    turned: list[Name] = []


class ImagesFile(SuiteFile):
    """Sets of small images of the data packs, on one network; heads are outside the merge."""

    kind: Literal["images"]
    tasks: Annotated[dict[Name, Name], Field(min_length=2)]
    network: dict[str, Any]
    items: Sizes
    head: HeadShots
    base: ImagesBase
    experts: ImageTuning
    multitask: ImageTuning

    @property
    def task_names(self) -> list[str]:
        """The tasks."""
        return list(self.tasks)

    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Train the family, or load it."""
        from modelwright.suites._images import images_family

        return images_family(self, seed, cache, device)


class Corpus(Said):
    """Where a text comes from: a corpus of the packs, or a field (or several, joined) of a set with one object an item.

    Exactly one of the two is given.
    """

    text: Name | None = None
    rows: Name | None = None
    fields: list[str] = []
    most: Count | None = Field(None, description="Most characters that are taken, from the start.")


class TextFile(SuiteFile):
    """Corpora of the data packs, on one causal language model."""

    kind: Literal["text"]
    tasks: Annotated[dict[Name, Corpus], Field(min_length=2)]
    judged_by: Literal["bits_per_byte", "choice"]
    network: dict[str, Any]
    vocabulary: Annotated[int, Field(ge=300)]
    base: TextBase
    experts: Tuning
    multitask: Tuning
    items: Sizes
    passage: Annotated[int, Field(ge=32, description="Characters of a passage that is judged.")]

    @property
    def task_names(self) -> list[str]:
        """The tasks."""
        return list(self.tasks)

    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Train the family, or load it."""
        from modelwright.suites._text import text_family

        return text_family(self, seed, cache, device)


class TextBase(Tuning):
    """What the base and the tokenizer are trained on: corpora, all with the same share of the steps."""

    corpora: Annotated[list[Corpus], Field(min_length=1)]


HubId = Annotated[str, Field(pattern=r"^[\w.-]+/[\w.-]+$")]


class Held(Said):
    """Most items of the splits that are held out from published training data; None of `test` takes all."""

    tune: Count
    validation: Count
    test: Count | None = None


class HubTask(Said):
    """A data set of the Hub as parquet files; the names of its splits."""

    data: HubId
    config: Name | None = None
    train: Name = "train"
    test: Name = "test"


class ClipTask(HubTask):
    """Images with labels, and the prompts that tell CLIP what the labels mean."""

    prompts: Annotated[list[str], Field(min_length=1)]
    classes: Annotated[list[str], Field(min_length=2)]
    image: str = "image"
    label: str = "label"


class T5Task(HubTask):
    """Texts in several fields, the prompt they are put in, and the texts of the labels; numbers where there are none."""

    prompt: str
    labels: list[str] = []
    label: str = "label"


class PublishedFile(SuiteFile):
    """Models and data sets of the Hub.

    `root` is a folder that holds both under their ids, `owner/name`; without it they come from the Hub.
    """

    base: HubId
    experts: Annotated[dict[Name, HubId], Field(min_length=2)]
    items: Held
    root: str | None = None

    @model_validator(mode="after")
    def _every_task_has_an_expert(self) -> Self:
        if set(self.experts) != set(self.task_names):
            differ = sorted(set(self.experts) ^ set(self.task_names))
            raise ValueError(
                f"every task needs an expert of its name, and every expert a task; not so: {', '.join(differ)}"
            )
        return self


class ClipFile(PublishedFile):
    """CLIP's vision tower on tasks of image classification, with zero-shot heads."""

    kind: Literal["clip"]
    tasks: Annotated[dict[Name, ClipTask], Field(min_length=2)]

    @property
    def task_names(self) -> list[str]:
        """The tasks."""
        return list(self.tasks)

    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Load the family."""
        from modelwright.suites._clip import clip_family

        return clip_family(self, seed, cache, device)


class T5File(PublishedFile):
    """T5 on tasks that are all text to text."""

    kind: Literal["t5"]
    tasks: Annotated[dict[Name, T5Task], Field(min_length=2)]
    max_tokens: Count

    @property
    def task_names(self) -> list[str]:
        """The tasks."""
        return list(self.tasks)

    def family(self, seed: int, cache: Cache, device: str) -> Family:
        """Load the family."""
        from modelwright.suites._t5 import t5_family

        return t5_family(self, seed)


KINDS: Mapping[str, type[SuiteFile]] = {
    "digits": DigitsFile, "images": ImagesFile, "text": TextFile, "clip": ClipFile, "t5": T5File
}  # fmt: skip

for _kind in (DigitsFile, TextFile):
    _kind.model_rebuild()


def parse(said: Mapping[str, Any], lines: Lines) -> SuiteFile:
    """A suite's file, checked.

    Raises:
        InputError: Everything that is wrong with it.
    """
    kind = str(said.get("kind"))
    if kind not in KINDS:
        raise InputError(f"kind: no suite is of the kind '{kind}'", did_you_mean(kind, KINDS), lines.where(("kind",)))
    try:
        return KINDS[kind].model_validate(said)
    except ValidationError as error:
        raise InputError([_problem(e, lines, KINDS[kind]) for e in error.errors()]) from None


def _problem(error: Any, lines: Lines, kind: type[SuiteFile]) -> Problem:
    path = tuple(part for part in error["loc"] if part != "[key]")
    name = ".".join(map(str, path))
    if error["type"] == "extra_forbidden" and len(path) == 1:
        return Problem(f"no key is called '{name}'", did_you_mean(name, kind.model_fields), lines.where(path))
    return Problem(f"{name}: {error['msg']}", where=lines.where(path))
