"""MOS: do adapters of later stages forget less when they are pulled together, and can they be chosen without a router?"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from modelwright.adapters import pulled
from modelwright.studies._digits import VIEWS, digits
from modelwright.studies._evidence import Measured, Part
from modelwright.studies._study import Figure, Findings, Plot, Setting, Study, Table
from modelwright.suites._views import CLASSES, SIDE, views

if TYPE_CHECKING:
    import torch

WIDTH, BLOCKS, BOTTLENECK, ADAPTER_SCALE = 64, 3, 16, 0.1
STAGES = 5
#: As the paper's code has them for CIFAR-100.
EPOCHS, RATE, BATCH, DECAY, HEAD_RATE = 20, 0.03, 48, 5e-4, 0.1
ORTHOGONAL, TEMPERATURE, MOMENTUM = 0.1, 0.8, 0.1
ALIGN_EPOCHS, ALIGN_RATE, DRAWN = 30, 0.005, 5 * BATCH
ROUNDS = 4


@dataclass(frozen=True)
class Options:
    """What of MOS is switched on.

    Attributes:
        momentum: How far adapters are pulled towards the earlier ones after each step.
        align: Whether the head is trained on draws from all classes' features after each stage.
    """

    momentum: float = MOMENTUM
    align: bool = True


VARIANTS: dict[str, Options] = {
    "MOS": Options(),
    "MOS without merging": Options(momentum=0.0),
    "MOS without alignment": Options(align=False),
}


def experiment(setting: Setting) -> Findings:
    """Digits, two classes a stage, on a frozen network that has learnt to tell views apart."""
    measured = Measured()
    for seed in setting.each_seed():
        _seed(measured, seed, setting.smoke)
    systems = ("fine-tuning", "prototypes", *VARIANTS, "MOS, head alone", "MOS without refinement")
    return Findings(
        parts=_parts(measured),
        figures={
            **{
                n: Figure(
                    f"accuracy on all ten classes after the last stage: {n}",
                    measured.interval(lambda mean, n=n: mean(n)),
                )
                for n in systems
            },
            **{
                f"stage, {n}": Figure(
                    f"share of test images whose stage is found: {n}",
                    measured.interval(lambda mean, n=n: mean(("stage", n))),
                )
                for n in ("first choice", "refined")
            },
        },
        tables=(
            Table(
                "All ten classes after the last stage",
                ("system", "accuracy"),
                tuple((n, measured.interval(lambda mean, n=n: mean(n))) for n in systems),
            ),
            Table(
                "Which stage's adapter is chosen",
                ("choice", "share that is right"),
                tuple(
                    (n, measured.interval(lambda mean, n=n: mean(("stage", n)))) for n in ("first choice", "refined")
                ),
            ),
        ),
        plots=(
            Plot(
                "What is left of the classes that were learnt first",
                "stage after which is measured",
                "accuracy on the classes seen so far",
                {
                    n: [
                        (stage + 1.0, measured.interval(lambda mean, n=n, s=stage: mean(("after", n, s))))
                        for stage in range(STAGES)
                    ]
                    for n in ("fine-tuning", "MOS", "MOS without merging")
                },
            ),
        ),
        notes=(
            "A residual network of three blocks of width 64 that was trained to tell eight views of the training images apart, without "
            "their labels, and is frozen then; the paper has a vision transformer trained on ImageNet-21k.",
            "Adapters are merged once after each step, as the paper says; its code also merges in every forward pass, in evaluation too.",
            "Learning rates, epochs, weights of the losses and the momentum are those that the paper's code has for CIFAR-100. Nothing is "
            "tuned.",
            "Fine-tuning goes on with one adapter and trains the head on all classes seen so far with the images of the stage alone.",
        ),
    )


def _parts(measured: Measured) -> tuple[Part, ...]:
    def gain(first: Any, second: Any) -> Any:
        return measured.interval(lambda mean: mean(first) - mean(second))

    return (
        Part("over fine-tuning", "MOS is better than fine-tuning one adapter", gain("MOS", "fine-tuning"), ">", 0.0),
        Part("over prototypes", "MOS is better than prototypes alone", gain("MOS", "prototypes"), ">", 0.0),
        Part("merging", "Pulling adapters together helps", gain("MOS", "MOS without merging"), ">", 0.0),
        Part("refinement", "Refining the choice finds the right stage more often", gain(("stage", "refined"), ("stage", "first choice")), ">", 0.0),
        Part("alignment", "Aligning the head helps", gain("MOS", "MOS without alignment"), ">", 0.0, decides=False),
    )  # fmt: skip


MOS = Study(
    id="mos",
    title="MOS",
    paper="arXiv:2412.09441",
    claim="Adapters of later stages that are pulled together, chosen by a refined guess, learn classes in stages better than prototypes.",
    experiment=experiment,
    needs=("sklearn", "torch"),
)


# --- the experiment -------------------------------------------------------------------------------------------------------


def _seed(measured: Measured, seed: int, smoke: bool) -> None:
    import torch

    torch.manual_seed(seed)
    parts = digits(seed, 400 if smoke else None)
    rng = np.random.default_rng((seed, 60))
    inputs = {name: torch.from_numpy(np.asarray(items.inputs).reshape(len(items), -1)) for name, items in parts.items()}
    labels = {name: np.asarray(items.targets) for name, items in parts.items()}
    order = rng.permutation(CLASSES)  # which classes come when
    stage_of = np.argsort(order) // (CLASSES // STAGES)
    place = torch.from_numpy(np.argsort(order))  # classes are numbered as they arrive
    backbone = _backbone(np.asarray(parts["tune"].inputs), seed, 3 if smoke else 30)
    train = _Data(inputs["tune"], place[labels["tune"]], torch.from_numpy(stage_of[labels["tune"]]))
    test = _Data(inputs["test"], place[labels["test"]], torch.from_numpy(stage_of[labels["test"]]))
    epochs = 2 if smoke else EPOCHS
    for name, options in VARIANTS.items():
        learner = Learner(backbone, options, epochs)
        for stage in range(STAGES):
            learner.learn(train.of(stage))
            if name in ("MOS", "MOS without merging"):
                answers = learner.answer(test.inputs)
                measured.add(seed, ("after", name, stage), _seen(answers.labels, test, stage))
        answers = learner.answer(test.inputs)
        measured.add(seed, name, _right(answers.labels, test.labels))
        if name == "MOS":
            measured.add(seed, "prototypes", _right(answers.prototypes.argmax(dim=1), test.labels))
            measured.add(seed, "MOS, head alone", _right(answers.head.argmax(dim=1), test.labels))
            measured.add(
                seed, "MOS without refinement", _right(learner.answer(test.inputs, rounds=1).labels, test.labels)
            )
            measured.add(seed, ("stage", "first choice"), _right(answers.first, test.stages))
            measured.add(seed, ("stage", "refined"), _right(answers.stage, test.stages))
    tuned, found = Learner(backbone, Options(momentum=0.0, align=False), epochs), test.labels
    for stage in range(STAGES):
        tuned.learn(train.of(stage), masked=False)
        found = tuned.head_of(tuned.features(test.inputs, stage)).argmax(dim=1)
        measured.add(seed, ("after", "fine-tuning", stage), _seen(found, test, stage))
    measured.add(seed, "fine-tuning", _right(found, test.labels))


def _right(found: torch.Tensor, wanted: torch.Tensor) -> Any:
    return (found == wanted).numpy().astype(np.float64)


def _seen(found: torch.Tensor, test: _Data, stage: int) -> float:
    """Accuracy on the classes that have arrived; a figure of the seed, because the items differ from stage to stage."""
    return float(_right(found, test.labels)[(test.stages <= stage).numpy()].mean())


@dataclass(frozen=True)
class _Data:
    inputs: torch.Tensor
    labels: torch.Tensor
    stages: torch.Tensor

    def of(self, stage: int) -> _Data:
        mine = self.stages == stage
        return _Data(self.inputs[mine], self.labels[mine], self.stages[mine])


def _backbone(images: Any, seed: int, epochs: int) -> dict[str, torch.Tensor]:
    """A residual network that tells in which of eight views an image is shown."""
    import torch

    shown = views(np.random.default_rng((seed, 1)))
    inputs = torch.from_numpy(
        np.concatenate([np.ascontiguousarray(shown[v](images)).reshape(len(images), -1) for v in VIEWS])
    )
    labels = torch.arange(len(VIEWS)).repeat_interleave(len(images))
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> torch.Tensor:
        return (torch.randn(*shape, generator=generator) * (2 / shape[-1]) ** 0.5).requires_grad_()

    weights: dict[str, torch.Tensor] = {"in": normal(WIDTH, SIDE * SIDE)}
    for i in range(BLOCKS):
        weights |= {f"{i}.one": normal(2 * WIDTH, WIDTH), f"{i}.two": normal(WIDTH, 2 * WIDTH)}
    head = normal(len(VIEWS), WIDTH)
    optimiser = torch.optim.Adam([*weights.values(), head], lr=1e-3)
    for _ in range(epochs):
        for batch in torch.randperm(len(labels), generator=generator).split(128):
            loss = torch.nn.functional.cross_entropy(network(weights, None, inputs[batch]) @ head.T, labels[batch])
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
    return {name: value.detach() for name, value in weights.items()}


def network(
    weights: Mapping[str, torch.Tensor], adapter: Mapping[str, torch.Tensor] | None, inputs: torch.Tensor
) -> torch.Tensor:
    """Features of shape (n, 64): three residual blocks, each with an adapter beside its layers, and a norm at the end."""
    from torch.nn.functional import gelu, layer_norm, relu

    x = inputs @ weights["in"].T
    for i in range(BLOCKS):
        added = gelu(layer_norm(x, (WIDTH,)) @ weights[f"{i}.one"].T) @ weights[f"{i}.two"].T
        if adapter is not None:
            inner = relu(x @ adapter[f"{i}.down"].T + adapter[f"{i}.down_bias"])
            added = added + ADAPTER_SCALE * (inner @ adapter[f"{i}.up"].T + adapter[f"{i}.up_bias"])
        x = x + added
    return layer_norm(x, (WIDTH,))


def fresh_adapter(seed: int = 0) -> dict[str, torch.Tensor]:
    """One that changes nothing yet: what goes up is zero."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    bound = WIDTH**-0.5
    made: dict[str, torch.Tensor] = {}
    for i in range(BLOCKS):
        made[f"{i}.down"] = (torch.rand(BOTTLENECK, WIDTH, generator=generator) * 2 - 1) * bound
        made[f"{i}.down_bias"] = torch.zeros(BOTTLENECK)
        made[f"{i}.up"] = torch.zeros(WIDTH, BOTTLENECK)
        made[f"{i}.up_bias"] = torch.zeros(WIDTH)
    return made


@dataclass(frozen=True)
class Answers:
    """What a learner says to n inputs.

    Attributes:
        labels: Classes, by head and prototypes together.
        head: Probabilities of the head, shape (n, classes).
        prototypes: Those of the prototypes.
        first: The stage that prototypes point to.
        stage: The stage whose adapter the head's last answer is by.
    """

    labels: torch.Tensor
    head: torch.Tensor
    prototypes: torch.Tensor
    first: torch.Tensor
    stage: torch.Tensor


@dataclass
class Learner:
    """Learns classes in stages, as MOS does.

    Attributes:
        backbone: The frozen network.
        options: What is switched on.
        epochs: Of each stage.
        stored: One adapter for each stage, never changed again.
        head: Weights and biases for the classes seen so far.
        means: Of the features of each class, when it arrived.
        covariances: Of the same.
        prototypes: Mean features of each class by the first adapter.
        stage_of: Which stage each class came in.
    """

    backbone: Mapping[str, torch.Tensor]
    options: Options
    epochs: int
    stored: list[dict[str, torch.Tensor]] = field(default_factory=list)
    head: list[torch.Tensor] = field(default_factory=list)
    means: list[torch.Tensor] = field(default_factory=list)
    covariances: list[torch.Tensor] = field(default_factory=list)
    prototypes: list[torch.Tensor] = field(default_factory=list)
    stage_of: list[int] = field(default_factory=list)

    def learn(self, data: _Data, masked: bool = True) -> None:
        """One stage: its classes are those of `data`, and follow on those seen before."""
        import torch

        stage, old = len(self.stored), len(self.means)
        new = len(data.labels.unique())
        generator = torch.Generator().manual_seed(stage)
        adapter = {
            n: v.clone().requires_grad_() for n, v in (self.stored[-1] if self.stored else fresh_adapter()).items()
        }
        self._grow(new, generator)
        self._train(adapter, data, old if masked else 0, generator)
        self.stored.append({name: value.detach().clone() for name, value in adapter.items()})
        for label in range(old, old + new):
            mine = data.inputs[data.labels == label]
            features = self.features(mine, stage)
            self.means.append(features.mean(dim=0))
            self.covariances.append(torch.cov(features.T) + 1e-4 * torch.eye(WIDTH))
            self.prototypes.append(self.features(mine, 0).mean(dim=0))
            self.stage_of.append(stage)
        if self.options.align and stage:
            self._align(generator)

    def _grow(self, new: int, generator: torch.Generator) -> None:
        import torch

        bound = WIDTH**-0.5
        rows = (torch.rand(new, WIDTH, generator=generator) * 2 - 1) * bound
        known = self.head or [torch.zeros(0, WIDTH), torch.zeros(0)]
        self.head = [
            torch.cat([known[0].detach(), rows]).requires_grad_(),
            torch.cat([known[1].detach(), torch.zeros(new)]).requires_grad_(),
        ]

    def _train(self, adapter: dict[str, torch.Tensor], data: _Data, old: int, generator: torch.Generator) -> None:
        import torch
        from torch.nn.functional import cross_entropy

        groups = [{"params": list(adapter.values()), "lr": RATE}, {"params": self.head, "lr": RATE * HEAD_RATE}]
        optimiser = torch.optim.SGD(groups, momentum=0.9, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.epochs)
        for _ in range(self.epochs):
            for batch in torch.randperm(len(data.labels), generator=generator).split(BATCH):
                features = network(self.backbone, adapter, data.inputs[batch])
                logits = self.head_of(features)
                logits = torch.cat([torch.full_like(logits[:, :old], -torch.inf), logits[:, old:]], dim=1)
                loss = cross_entropy(logits, data.labels[batch]) + ORTHOGONAL * self._apart(features)
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                self._pull(adapter)
            schedule.step()

    def _apart(self, features: torch.Tensor) -> torch.Tensor:
        """Every row, and every mean of an earlier class, should be most like itself."""
        import torch
        from torch.nn.functional import cross_entropy

        rows = torch.cat([torch.stack(self.means), features]) if self.means else features
        return cross_entropy(rows @ rows.T / TEMPERATURE, torch.arange(len(rows)))

    def _pull(self, adapter: dict[str, torch.Tensor]) -> None:
        import torch

        if self.stored and self.options.momentum:
            with torch.no_grad():
                for name, value in adapter.items():
                    value.copy_(pulled(value, [each[name] for each in self.stored], self.options.momentum))

    def _align(self, generator: torch.Generator) -> None:
        """Train the head on draws from the Gaussians of all classes."""
        import torch
        from torch.nn.functional import cross_entropy

        roots = [torch.linalg.cholesky(covariance) for covariance in self.covariances]
        optimiser = torch.optim.SGD(self.head, lr=ALIGN_RATE, momentum=0.9, weight_decay=DECAY)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, ALIGN_EPOCHS)
        labels = torch.arange(len(roots)).repeat_interleave(DRAWN)
        for _ in range(ALIGN_EPOCHS):
            drawn = [
                m + torch.randn(DRAWN, WIDTH, generator=generator) @ r.T for m, r in zip(self.means, roots, strict=True)
            ]
            features, order = torch.cat(drawn), torch.randperm(len(labels), generator=generator)
            for batch in order.split(DRAWN):
                loss = cross_entropy(self.head_of(features[batch]), labels[batch])
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
            schedule.step()

    def head_of(self, features: torch.Tensor) -> torch.Tensor:
        """Logits of the classes seen so far."""
        return features @ self.head[0].T + self.head[1]

    def features(self, inputs: torch.Tensor, stage: int) -> torch.Tensor:
        """Features by a stage's adapter."""
        import torch

        with torch.no_grad():
            return network(self.backbone, self.stored[stage], inputs)

    def answer(self, inputs: torch.Tensor, rounds: int = ROUNDS) -> Answers:
        """Prototypes point to a stage; its adapter and the head point to another, until they agree, or for some rounds."""
        import torch
        from torch.nn.functional import cosine_similarity

        stages = torch.tensor(self.stage_of)
        near = cosine_similarity(self.features(inputs, 0)[:, None], torch.stack(self.prototypes)[None], dim=2)
        first = chosen = used = stages[near.argmax(dim=1)]
        logits = near
        for _ in range(rounds):
            used, logits = chosen, self._logits(inputs, chosen)
            chosen = stages[logits.argmax(dim=1)]
            if torch.equal(used, chosen):
                break
        head, prototypes = logits.softmax(dim=1), (len(self.stored) * near).softmax(dim=1)
        return Answers((head + prototypes).argmax(dim=1), head, prototypes, first, used)

    def _logits(self, inputs: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """Of each input by its own stage's adapter."""
        import torch

        logits = torch.empty(len(inputs), len(self.stage_of))
        for stage in chosen.unique().tolist():
            mine = chosen == stage
            with torch.no_grad():
                logits[mine] = self.head_of(self.features(inputs[mine], stage))
        return logits
