"""Networks of torch: built from configuration, trained to the same bits, loaded strictly."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from modelwright.errors import InputError, RunError
from modelwright.train import NETWORKS, CosineHead, LinearHead, build, head_of

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

from modelwright.train._build import start  # noqa: E402
from modelwright.train._pixels import standardised  # noqa: E402
from modelwright.train._trainer import (  # noqa: E402
    Schedule,
    arrays_of,
    batches,
    features,
    fit,
    load,
    reestimate_statistics,
    steady,
)

VIT = {
    "model_type": "modelwright-vit",
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
CNN = {"model_type": "modelwright-cnn", "hidden_size": 16, "num_hidden_layers": 3}
LLAMA = {
    "model_type": "llama", "vocab_size": 40, "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1,
    "num_attention_heads": 2, "num_key_value_heads": 2, "max_position_embeddings": 16, "tie_word_embeddings": True,
}  # fmt: skip
SHAPES = {"vit": VIT, "cnn": CNN, "llama": LLAMA}


def begun(config: dict[str, Any], seed: int = 0) -> Any:
    network = build(config)
    start(network, torch.Generator().manual_seed(seed))
    return network


def pixels(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_bytes_and_fractions_are_the_same_images(config: dict[str, Any]) -> None:
    network, shown = begun(config), pixels(3)
    found = features(network, shown)
    assert found.shape == (3, network.width)
    np.testing.assert_allclose(features(network, shown.astype(np.float32) / 255), found, atol=1e-5)


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_an_items_features_do_not_depend_on_its_batch(config: dict[str, Any]) -> None:
    network, shown = begun(config), pixels(5)
    np.testing.assert_allclose(features(network, shown, batch=2), features(network, shown), atol=1e-5)


def test_each_image_is_standardised_by_itself() -> None:
    shown = np.concatenate([pixels(2), np.full((1, 32, 32, 3), 77, np.uint8)])
    found = standardised(torch.as_tensor(shown)).numpy()
    wide = shown[:2].astype(np.float64) / 255
    wanted = (wide - wide.mean((1, 2, 3), keepdims=True)) / np.sqrt(wide.var((1, 2, 3), keepdims=True) + 1e-4)
    np.testing.assert_allclose(found[:2], wanted.transpose(0, 3, 1, 2), atol=1e-5)
    np.testing.assert_allclose(found[2], 0, atol=1e-5)


def test_patches_are_the_images() -> None:
    """The first layer of a transformer sees each patch whole: a convolution with the same weights agrees."""
    network, shown = begun(VIT), torch.as_tensor(pixels(2))
    images = standardised(shown)
    kernel = network.patch.weight.view(16, 3, 8, 8)
    wanted = torch.nn.functional.conv2d(images, kernel, network.patch.bias, stride=8).flatten(2).transpose(1, 2)
    seen = network.patch(torch.nn.functional.unfold(images, 8, stride=8).transpose(1, 2))
    torch.testing.assert_close(seen, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_initial_weights_come_from_the_generator_alone(config: dict[str, Any]) -> None:
    one = arrays_of(begun(config))
    torch.rand(3)  # the global generator has no part in it
    two, other = arrays_of(begun(config)), arrays_of(begun(config, seed=1))
    assert all(np.array_equal(one[name], two[name]) for name in one)
    changed = {name for name in one if one[name].ndim > 1 and not np.array_equal(one[name], other[name])}
    assert changed == {name for name in one if one[name].ndim > 1}


@pytest.mark.parametrize("config", [VIT, CNN], ids=["vit", "cnn"])
def test_training_gives_the_same_bits_and_lowers_the_loss(config: dict[str, Any]) -> None:
    shown = torch.as_tensor(pixels(12) // 2 + pixels(3, seed=1)[np.arange(12) % 3] // 2)
    labels = torch.arange(12) % 3

    def trained() -> tuple[dict[str, np.ndarray], list[float]]:
        network, losses = begun(config), []
        head = torch.nn.functional.one_hot(torch.arange(3), network.width).float()

        def loss(_step: int) -> Any:
            value = torch.nn.functional.cross_entropy(network(shown) @ head.T, labels)
            losses.append(value.item())
            return value

        with steady():
            fit(network, loss, Schedule(steps=25, rate=5e-3))
        assert not network.training
        return arrays_of(network), losses

    threads = torch.get_num_threads()
    (one, losses), (two, _) = trained(), trained()
    assert torch.get_num_threads() == threads
    assert all(np.array_equal(one[name], two[name]) for name in one)
    assert losses[-1] < 0.7 * losses[0]


@pytest.mark.parametrize(("statistics", "moved"), [("own", True), ("frozen", False)])
def test_running_statistics_are_kept_or_frozen(statistics: str, moved: bool) -> None:
    network, shown = begun(CNN), torch.as_tensor(pixels(4))
    before = arrays_of(network)
    fit(network, lambda _: network(shown).square().mean(), Schedule(2, 1e-3), statistics=statistics)
    after = arrays_of(network)
    changed = {name for name in before if not np.array_equal(before[name], after[name])}
    assert {name for name in changed if "running_" in name} == {n for n in before if "running_" in n and moved}
    assert {"layers.0.conv.weight", "layers.0.norm.weight"} <= changed


def test_a_loss_that_is_not_finite_is_refused() -> None:
    network = begun(CNN)
    with pytest.raises(RunError, match="probe: the loss is not finite at step 2 of 5"):
        fit(
            network,
            lambda step: next(network.parameters()).sum() * (float("nan") if step else 1),
            Schedule(5, 1e-3),
            what="probe",
        )


def test_the_rate_rises_then_falls_to_zero() -> None:
    schedule = Schedule(steps=100, rate=1.0, warmup=0.1)
    shares = [schedule.at(step) for step in range(101)]
    assert shares[0] == pytest.approx(0.1)
    assert shares[9] == 1.0
    assert shares[100] == pytest.approx(0.0)
    assert shares[10:] == sorted(shares[10:], reverse=True)


@pytest.mark.parametrize(
    ("name", "value"), [("steps", -1), ("rate", 0.0), ("batch", 0), ("warmup", 1.5), ("clip", 0.0)]
)
def test_schedules_out_of_range_are_refused(name: str, value: float) -> None:
    said: dict[str, Any] = {"steps": 1, "rate": 1e-3, name: value}
    with pytest.raises(InputError, match=f"{name} is out of its range, got {value}"):
        Schedule(**said)


def test_batches_show_every_item_once_an_epoch() -> None:
    found = batches(10, 4, np.random.default_rng(0))
    seen = np.concatenate([next(found) for _ in range(5)])
    assert sorted(seen[:10]) == sorted(seen[10:]) == list(range(10))


@pytest.mark.parametrize("config", SHAPES.values(), ids=SHAPES)
def test_weights_come_back(config: dict[str, Any]) -> None:
    arrays = arrays_of(begun(config))
    again = arrays_of(load(build(config), arrays))
    assert list(again) == list(arrays)
    assert all(np.array_equal(again[name], arrays[name]) for name in arrays)


def test_a_tied_head_is_stored_once_and_an_untied_one_is_kept() -> None:
    arrays = arrays_of(begun(LLAMA))
    assert "lm_head.weight" not in arrays
    own = {**arrays, "lm_head.weight": arrays["model.embed_tokens.weight"] + 1}
    network: Any = load(build(LLAMA), own)
    assert np.array_equal(network.lm_head.weight.detach().numpy(), own["lm_head.weight"])
    assert np.array_equal(network.model.embed_tokens.weight.detach().numpy(), own["model.embed_tokens.weight"])


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda a: a.pop("norm.bias"), "they have no tensor 'norm.bias'"),
        (lambda a: a.update(more=np.zeros(2)), "it has no tensor 'more'"),
        (lambda a: a.update({"norm.bias": np.zeros(3)}), r"'norm.bias' must have the shape \(16,\), got \(3,\)"),
    ],
)
def test_weights_that_do_not_fit_are_refused(change: Any, complaint: str) -> None:
    arrays: dict[str, Any] = arrays_of(begun(VIT))
    change(arrays)
    with pytest.raises(InputError, match=f"the weights do not fit the network: {complaint}"):
        load(build(VIT), arrays)


@pytest.mark.parametrize(
    ("config", "complaint"),
    [
        ({"model_type": "resnet"}, f"no network has the model_type 'resnet'. Valid: {', '.join(sorted(NETWORKS))}."),
        ({**VIT, "patch_size": 5}, "patch_size must divide image_size, got 5 and 32"),
        ({**VIT, "num_attention_heads": 3}, "num_attention_heads must divide hidden_size, got 3 and 16"),
        ({**CNN, "widht": 3}, "widht: Extra inputs are not permitted"),
        ({**CNN, "hidden_size": 10}, "hidden_size: Input should be a multiple of 4"),
    ],
)
def test_configurations_that_do_not_fit_are_refused(config: dict[str, Any], complaint: str) -> None:
    with pytest.raises(InputError) as caught:
        build(config)
    assert complaint in str(caught.value)


def test_statistics_taken_anew_are_those_of_the_inputs() -> None:
    network: Any = begun(CNN)
    shown = pixels(8)
    assert reestimate_statistics(network, [shown]) == 3
    first = network.layers[0]
    seen = first.conv(standardised(torch.as_tensor(shown)))
    torch.testing.assert_close(first.norm.running_mean, seen.mean(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(first.norm.running_var, seen.var(dim=(0, 2, 3)), atol=1e-5, rtol=1e-4)
    assert not network.training
    assert first.norm.momentum == 0.1
    assert reestimate_statistics(begun(VIT), [shown]) == 0


@pytest.mark.parametrize("classes", [2, 4])
def test_a_probe_is_logistic_regression(classes: int) -> None:
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(0)
    labels = np.arange(80) % classes
    wide = rng.normal(size=(80, 5)) + 2 * rng.normal(size=(classes, 5))[labels]
    head = LinearHead.probe(wide, labels, classes)
    scaled = (wide - wide.mean(axis=0)) / wide.std()
    wanted = LogisticRegression(max_iter=1000).fit(scaled, labels).predict_proba(scaled)
    powers = np.exp(head.logits(wide))
    np.testing.assert_allclose(powers / powers.sum(axis=1, keepdims=True), wanted, atol=1e-5)


def test_a_probe_needs_every_class() -> None:
    with pytest.raises(InputError, match="a head needs an item of every class, and class 1 has none"):
        LinearHead.probe(np.zeros((4, 2)), np.array([0, 0, 2, 2]), 3)


def test_heads_come_back_from_their_tensors() -> None:
    rng = np.random.default_rng(0)
    wide = rng.normal(size=(6, 4))
    cosine = CosineHead(np.eye(3, 4, dtype=np.float32), 16.0)
    linear = LinearHead(rng.normal(size=(3, 4)).astype(np.float32), np.ones(3, np.float32))
    for head in (cosine, linear):
        assert np.array_equal(head_of(head.tensors()).logits(wide), head.logits(wide))
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    np.testing.assert_allclose(cosine.logits(3 * wide), 16 * (wide / lengths)[:, :3])
