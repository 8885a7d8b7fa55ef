"""Attacks of a server that reads rows: inversion, games, scores, and what no attacker can tell apart."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from fedpriv import InputError
from fedpriv.adversary import (
    Games,
    Inversion,
    auc_bound,
    class_counts,
    first_layer_inputs,
    judge,
    observe_rows,
    query_match,
    roc,
    support_match,
    which_task,
)
from fedpriv.adversary.chain import Chain, Layer
from fedpriv.adversary.games import similarity
from fedpriv.adversary.inversion import total_variation, variation_slope
from fedpriv.adversary.matching import full_batch
from fedpriv.adversary.outcome import threshold
from fedpriv.clients import MAML
from fedpriv.cohort import (
    Cohort,
    InnerLoop,
    Key,
    Learner,
    LoopEngine,
    Marks,
    Problem,
    adapt,
    broadcast,
    meta_gradient,
    task_gradients,
)
from fedpriv.cohort.fast.products import ProductEngine, Window
from fedpriv.cohort.fast.threads import one_torch_thread
from fedpriv.data import FewShot, few_shot, load

WAYS = 3


def network(kind: str, seed: int = 0) -> nn.Module:
    torch.manual_seed(seed)
    if kind == "mlp":
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, WAYS))
    if kind == "padded":
        return nn.Sequential(
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 3, 3, stride=2, padding=1), nn.Sigmoid(),
            nn.Conv2d(3, 5, 2), nn.Flatten(), nn.Linear(5, 6), nn.ReLU(), nn.Linear(6, WAYS), nn.Tanh()
        )  # fmt: skip
    if kind == "by autograd":  # its third derivative is not known here
        return nn.Sequential(nn.Conv2d(1, 3, 3, stride=3), nn.GELU(), nn.Flatten(), nn.Linear(12, WAYS))
    return nn.Sequential(
        nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 4, (3, 2), stride=2, bias=False),
        nn.ReLU(), nn.Flatten(), nn.Linear(8, WAYS)
    )  # fmt: skip


def sets(games: int, size: int, seed: int, dtype: torch.dtype = torch.float64) -> Any:
    made = torch.Generator().manual_seed(seed)
    labels = torch.arange(size).remainder(WAYS).expand(games, size).contiguous()
    return full_batch(torch.rand(games, size, 1, 8, 8, dtype=dtype, generator=made), labels)


# --- Proposition 3.1


def neuron(a: float, b: float) -> Problem:
    model = nn.Sequential(nn.Linear(1, 1), nn.ReLU()).double()
    with torch.no_grad():
        model[0].weight.fill_(a)
        model[0].bias.fill_(b)
    return Problem(model, "squared")


def batch_of(x: float, y: float) -> Any:
    from fedpriv.cohort import Batch

    inputs, targets = torch.tensor([[[x]]], dtype=torch.float64), torch.tensor([[[y]]], dtype=torch.float64)
    return Batch(inputs, targets, Marks(torch.ones(1, 1, dtype=torch.float64), full=True))


@given(
    first=st.tuples(st.floats(0.1, 2.0), st.floats(-1.0, 1.0)),
    second=st.tuples(st.floats(0.1, 2.0), st.floats(-1.0, 1.0)),
    query=st.tuples(st.floats(0.1, 2.0), st.floats(-1.0, 1.0)),
)
@settings(max_examples=40, deadline=None)
def test_two_different_tasks_can_send_the_same_gradient(
    first: tuple[float, float], second: tuple[float, float], query: tuple[float, float]
) -> None:
    """Proposition 3.1 for the appendix's neuron, with its Hessian mended.

    For J = (y - ReLU(a x + b))^2 / 2 and a x + b > 0 the Hessian is [[x^2, x], [x, 1]], symmetric and of rank 1; the
    printed one is neither. So I - rate * H is invertible unless rate = 1 / (x^2 + 1), and another support set M has
    g' = (I - rate * H_M)^-1 g. A neuron with a bias realises every g' whose second entry is not 0: the input is
    g'_1 / g'_2. That input must keep the neuron active; where it does not, this M proves nothing.
    """
    rate, problem = 0.1, neuron(1.0, 3.0)
    params = broadcast(problem.initial(), 1)
    inner = InnerLoop(rate)
    engine = LoopEngine()
    sent = meta_gradient(engine, problem, params, batch_of(*first), batch_of(*query), inner).gradient
    g = torch.cat([value.flatten() for value in sent.values()])
    x = second[0]
    hessian = torch.tensor([[x * x, x], [x, 1.0]], dtype=torch.float64)
    by_torch = torch.autograd.functional.hessian(
        lambda w: 0.5 * (second[1] - torch.relu(w[0] * x + w[1])) ** 2, torch.tensor([1.0, 3.0], dtype=torch.float64)
    )
    assert torch.allclose(hessian, by_torch)
    inside = torch.linalg.solve(torch.eye(2, dtype=torch.float64) - rate * hessian, g)
    there = adapt(engine, problem, params, batch_of(*second), inner)
    weight, bias = (float(value) for value in there.values())
    if abs(float(inside[1])) < 1e-3 or (x, second[1]) == first:
        return
    found_x = float(inside[0] / inside[1])
    active = weight * found_x + bias
    if active <= 1e-6:
        return
    other = (found_x, active - float(inside[1]))
    again = meta_gradient(engine, problem, params, batch_of(*second), batch_of(*other), inner).gradient
    assert torch.allclose(torch.cat([value.flatten() for value in again.values()]), g, rtol=1e-9, atol=1e-10)


def test_the_mended_hessian_is_singular_where_it_should_be() -> None:
    x = 1.5
    hessian = torch.tensor([[x * x, x], [x, 1.0]], dtype=torch.float64)
    assert torch.linalg.matrix_rank(hessian) == 1
    singular = torch.eye(2, dtype=torch.float64) - hessian / (x * x + 1)
    assert abs(float(torch.linalg.det(singular))) < 1e-12


# --- batched products


def plain_cosine(problem: Problem, seen: Any, support: Any, query: Any, inner: InnerLoop) -> torch.Tensor:
    """The cosine of one game after the other, by autograd on whole gradients."""
    params, found = problem.initial(), []
    for game in range(len(query.inputs)):
        here = {name: value.clone().requires_grad_() for name, value in params.items()}

        def loss(weights: Any, batch: Any, at: int = game) -> torch.Tensor:
            outputs = torch.func.functional_call(problem.model, weights, (batch.inputs[at],))
            if problem.loss == "squared":
                return 0.5 * (outputs - batch.targets[at]).square().sum(dim=1).mean()
            return nn.functional.cross_entropy(outputs, batch.targets[at])

        adapted: Any = here
        if support is not None:
            slopes = torch.autograd.grad(loss(here, support), list(here.values()), create_graph=True)
            adapted = {
                name: value - inner.learning_rate * slope
                for (name, value), slope in zip(here.items(), slopes, strict=True)
            }
        by = here if inner.order == "second" else adapted
        made = torch.autograd.grad(loss(adapted, query), [by[name] for name in seen], create_graph=True)
        flat = torch.cat([value.flatten() for value in made])
        found.append(nn.functional.cosine_similarity(flat, torch.cat([seen[n][game].flatten() for n in seen]), dim=0))
    return torch.stack(found)


@pytest.mark.parametrize("kind", ["mlp", "cnn", "padded", "by autograd"])
@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("which", ["query", "support"])
def test_games_side_by_side_are_games_alone(kind: str, which: str, order: Any) -> None:
    """Cosines and their derivatives by the inputs, by outer and by batched products, against plain autograd."""
    problem = Problem(network(kind).double())
    assert Chain.covers(problem) == (kind in {"cnn", "padded"})
    _compare_games(problem, which, order, sets(3, 4, 1), sets(3, 5, 2), ())


@pytest.mark.parametrize("which", ["query", "support"])
def test_games_with_unsent_arrays_and_squared_losses(which: str) -> None:
    """Convolutions again: of the last layer nothing is sent, and targets are numbers."""

    _compare_games(Problem(network("padded").double()), which, "second", sets(3, 4, 1), sets(3, 5, 2), ("7.weight",))
    problem = Problem(network("cnn").double(), "squared")
    support, query = sets(3, 4, 1), sets(3, 5, 2)
    targets = [nn.functional.one_hot(one.targets, WAYS).double() for one in (support, query)]
    support, query = (replace(one, targets=target) for one, target in zip((support, query), targets, strict=True))
    _compare_games(problem, which, "second", support, query, ())


def _compare_games(problem: Problem, which: str, order: Any, support: Any, query: Any, unsent: tuple[str, ...]) -> None:
    inner, billboard = InnerLoop(0.5, 1, order), problem.initial()
    seen = meta_gradient(LoopEngine(), problem, broadcast(billboard, 3), support, query, inner).gradient
    seen = {name: value for name, value in seen.items() if name not in unsent}
    chosen = query if which == "query" else support
    guess = chosen.inputs.flip(0).clone().requires_grad_()
    known = (ProductEngine(), problem, billboard, seen)
    guessed = replace(chosen, inputs=guess)
    if which == "query":
        ours = query_match(*known, query.targets)(guess)
        plain = plain_cosine(problem, seen, None, guessed, InnerLoop(0.5))
    else:
        ours = support_match(*known, support.targets, query, inner)(guess)
        plain = plain_cosine(problem, seen, guessed, query, inner)
    slopes = [torch.autograd.grad(value.sum(), [guess], retain_graph=True)[0] for value in (ours, plain)]
    assert torch.allclose(ours, plain, rtol=1e-9, atol=1e-11)
    assert torch.allclose(*slopes, rtol=1e-8, atol=1e-11)
    assert float(slopes[0].abs().max()) > 1e-7


@given(
    size=st.tuples(st.integers(1, 4), st.integers(1, 4)),
    stride=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    padding=st.tuples(st.integers(0, 2), st.integers(0, 2)),
    channels=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    bias=st.booleans(),
    listens=st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_layers_are_convolutions_both_ways(
    size: tuple[int, int],
    stride: tuple[int, int],
    padding: tuple[int, int],
    channels: tuple[int, int],
    bias: bool,
    listens: bool,
) -> None:
    """Patches times weights, and adjoints back to pixels by windows and by pasting, against torch's convolution."""
    torch.manual_seed(0)
    torch_layer = nn.Conv2d(*channels, size, stride, padding, bias=bias).double()
    images = torch.rand(2, 3, channels[0], 7, 6, dtype=torch.float64, requires_grad=True)
    expected = torch_layer(images.flatten(0, 1))
    adjoint = torch.rand_like(expected)
    (back,) = torch.autograd.grad(expected, [images], adjoint)

    layer = Layer(
        "0.weight", "0.bias" if bias else None, Window(size, stride, padding), (7, 6, channels[0]), channels[1]
    )
    vars(layer)["_listens"] = listens
    packed = Chain((layer,)).pack({f"0.{name}": value.unsqueeze(0) for name, value in torch_layer.named_parameters()})
    (weight,) = Chain((layer,)).unpack(packed)
    ours = layer.rows(images.detach().movedim(2, -1).contiguous(), 2, 1.0) @ weight
    assert torch.allclose(ours.flatten(0, 1), expected.permute(0, 2, 3, 1).reshape(-1, channels[1]), atol=1e-12)
    deltas = adjoint.permute(0, 2, 3, 1).reshape(2, -1, channels[1])
    found = layer.pixels(layer.adjoint_windows(deltas) @ layer.turned(weight))
    assert torch.allclose(found.view(2, 3, 7, 6, -1), back.movedim(2, -1), atol=1e-12)


def test_convolutional_games_alone_together_and_of_other_shapes() -> None:
    """One match for images of two sizes, one game beside many, a game of NaN, and float32 beside float64."""
    problem = Problem(nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, WAYS)).double())
    truth, guess = sets(3, 4, 1), sets(3, 4, 2).inputs
    small = full_batch(truth.inputs[..., :4, :4], truth.targets)
    seen, _ = task_gradients(LoopEngine(), problem, broadcast(problem.initial(), 3), small)

    def slopes(
        which: slice, images: torch.Tensor, of: Problem = problem, rows: Any = seen
    ) -> tuple[torch.Tensor, torch.Tensor]:
        rows = {name: value[which] for name, value in rows.items()}
        match = query_match(ProductEngine(), of, of.initial(), rows, truth.targets[which])
        match(images[which, ..., :3, :4])  # another shape that the model takes, before the one that counts
        images = images[which].requires_grad_()
        cosine = match(images)
        return cosine.detach(), torch.autograd.grad(cosine.sum(), [images])[0]

    images = guess[..., :4, :4].clone()
    together, alone = slopes(slice(None), images.clone()), slopes(slice(1, 2), images.clone())
    assert torch.allclose(together[0][1:2], alone[0], rtol=1e-12)
    assert torch.allclose(together[1][1:2], alone[1], rtol=1e-9, atol=1e-14)
    spoiled = images.clone()
    spoiled[0] = math.nan
    after = slopes(slice(None), spoiled)
    assert not bool(after[0][0].isfinite())
    assert torch.equal(after[1][1:], together[1][1:])
    half = Problem(nn.Sequential(nn.Conv2d(1, 3, 3, 2, 1), nn.ReLU(), nn.Flatten(), nn.Linear(12, WAYS)))
    half.model.load_state_dict(problem.model.state_dict())
    single = slopes(slice(None), images.float(), half, {name: value.float() for name, value in seen.items()})
    assert torch.allclose(single[1].double(), together[1], rtol=1e-3, atol=1e-4 * float(together[1].abs().max()))


def test_length_of_rows_does_not_matter_down_to_tiny_ones() -> None:
    """Every engine compares directions, also of rows that are clipped to next to nothing."""
    for kind in ("mlp", "padded", "by autograd"):
        problem, truth = Problem(network(kind).double()), sets(2, 3, 1)
        billboard, guess = problem.initial(), sets(2, 3, 2).inputs
        seen, _ = task_gradients(LoopEngine(), problem, broadcast(billboard, 2), truth)
        tiny = {name: value * 1e-200 for name, value in seen.items()}
        for engine in (ProductEngine(), LoopEngine()):
            found = [query_match(engine, problem, billboard, rows, truth.targets)(guess) for rows in (seen, tiny)]
            assert torch.allclose(*found, rtol=1e-9)


def test_padded_query_sets_are_compared_by_autograd() -> None:
    problem, support, query = Problem(network("padded").double()), sets(2, 3, 1), sets(2, 5, 2)
    mask = query.mask.clone()
    mask[1, 3:] = 0.0
    query, billboard = replace(query, marks=Marks(mask)), problem.initial()
    seen = meta_gradient(LoopEngine(), problem, broadcast(billboard, 2), support, query, InnerLoop(0.5)).gradient
    for engine in (ProductEngine(), LoopEngine()):
        match = support_match(engine, problem, billboard, seen, support.targets, query, InnerLoop(0.5))
        assert torch.allclose(match(support.inputs), torch.ones(2, dtype=torch.float64))


def test_games_that_do_not_fit_are_refused() -> None:
    problem, truth = Problem(network("cnn").double()), sets(2, 3, 1)
    seen, _ = task_gradients(LoopEngine(), problem, broadcast(problem.initial(), 2), truth)
    match = query_match(ProductEngine(), problem, problem.initial(), seen, truth.targets[:, :2])
    with pytest.raises(InputError, match="need a label each"):
        match(truth.inputs)
    wrong = {"5.wieght": seen["5.weight"]}
    with pytest.raises(InputError, match="wieght"):
        query_match(ProductEngine(), problem, problem.initial(), wrong, truth.targets)


def test_a_cosine_that_does_not_depend_on_the_guess_moves_nothing_but_the_variation() -> None:
    start = torch.rand(2, 1, 1, 4, 4)
    found, cosine = Inversion(iterations=2, total_variation=0.0).run(lambda images: torch.ones(len(images)), start)
    assert torch.equal(found, start)
    assert cosine.tolist() == [1.0, 1.0]


def test_patches_are_twice_differentiable() -> None:
    problem, engine = Problem(network("cnn").double()), ProductEngine()
    batch = sets(2, 2, 3)

    def score(inputs: torch.Tensor) -> torch.Tensor:
        params = {name: value.requires_grad_() for name, value in broadcast(problem.initial(), 2).items()}
        found, _ = task_gradients(engine, problem, params, full_batch(inputs, batch.targets), create_graph=True)
        return torch.stack([value.square().sum() for value in found.values()]).sum()

    assert torch.autograd.gradcheck(score, batch.inputs.clone().requires_grad_(), eps=1e-6, atol=1e-6, fast_mode=True)


# --- inversion ---


def test_inversion_finds_a_single_image_from_noise() -> None:
    """Geiping et al.: the gradient of one example gives it away."""
    problem = Problem(network("mlp"))
    truth = sets(2, 1, 4, torch.float32)
    billboard = problem.initial()
    seen, _ = task_gradients(ProductEngine(), problem, broadcast(billboard, 2), truth)
    start = torch.rand(truth.inputs.shape, generator=torch.Generator().manual_seed(5))
    attack = Inversion(iterations=150, total_variation=0.0)
    found, cosine = attack.run(query_match(ProductEngine(), problem, billboard, seen, truth.targets), start)
    assert float(cosine.min()) > 0.99
    before, after = ((value - truth.inputs).abs().mean().item() for value in (start, found))
    assert after < 0.25 * before
    scaled = {name: 1e-3 * value for name, value in seen.items()}
    again, _ = attack.run(query_match(ProductEngine(), problem, billboard, scaled, truth.targets), start)
    assert torch.allclose(again, found, atol=1e-3), "clipping hides nothing"


def test_games_do_not_touch_each_other() -> None:
    problem, billboard = Problem(network("mlp").double()), Problem(network("mlp").double()).initial()
    truth, start = sets(3, 2, 6), sets(3, 2, 7).inputs
    seen, _ = task_gradients(LoopEngine(), problem, broadcast(billboard, 3), truth)
    attack = Inversion(iterations=5)

    def run(which: slice) -> torch.Tensor:
        mine = {name: value[which] for name, value in seen.items()}
        match = query_match(LoopEngine(), problem, billboard, mine, truth.targets[which])
        return attack.run(match, start[which])[0]

    assert torch.equal(run(slice(None))[1:2], run(slice(1, 2)))


def test_useless_gradients_are_refused() -> None:
    problem = Problem(network("mlp").double())
    for value, words in ((math.nan, "1 of 2 recorded gradients hold NaN"), (0.0, "all zero")):
        seen = {name: torch.ones(2, *one.shape, dtype=torch.float64) for name, one in problem.initial().items()}
        for one in seen.values():
            one[1] = value
        with pytest.raises(InputError, match=words):
            query_match(LoopEngine(), problem, problem.initial(), seen, sets(2, 1, 1).targets)


def test_denormals_are_flushed_and_given_back() -> None:
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    before, threads = (tiny * 1.0).item(), torch.get_num_threads()
    with one_torch_thread():
        assert (tiny * 1.0).item() == 0.0
        assert torch.get_num_threads() == 1
    assert (tiny * 1.0).item() == before
    assert torch.get_num_threads() == threads


def test_total_variation_by_hand() -> None:
    image = torch.tensor([[0.0, 1.0], [0.0, 3.0]]).view(1, 1, 1, 2, 2)
    assert total_variation(image).item() == pytest.approx((1 + 3) / 2 + (0 + 2) / 2)


@pytest.mark.parametrize("shape", [(3, 5, 1, 28, 28), (2, 1, 3, 7, 5), (1, 1, 2, 2)])
def test_slope_of_the_variation_is_that_of_autograd(shape: tuple[int, ...]) -> None:
    images = torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(3)).requires_grad_()
    (plain,) = torch.autograd.grad(total_variation(images).sum(), [images])
    assert torch.allclose(variation_slope(images.detach()), plain, atol=1e-15)


def test_images_of_one_line_have_neighbours_beside_each_other_only() -> None:
    assert variation_slope(torch.tensor([0.0, 2.0, 1.0]).view(1, 1, 1, 3)).flatten().tolist() == [-0.5, 1.0, -0.5]
    assert variation_slope(torch.tensor([0.0, 2.0, 1.0]).view(1, 1, 3, 1)).flatten().tolist() == [-0.5, 1.0, -0.5]


# --- what needs no optimisation


def test_a_first_layer_gives_its_only_input_away() -> None:
    problem, truth = Problem(network("mlp").double()), sets(2, 1, 8)
    found, _ = task_gradients(LoopEngine(), problem, broadcast(problem.initial(), 2), truth)
    inputs, strength = first_layer_inputs(found["1.weight"], found["1.bias"])
    for game in range(2):
        best = int(strength[game].argmax())
        assert torch.allclose(inputs[game, best], truth.inputs[game].flatten(), rtol=1e-9)
    silent, _ = first_layer_inputs(torch.ones(1, 1, 2), torch.zeros(1, 1))
    assert torch.equal(silent, torch.zeros(1, 1, 2))


def test_labels_are_counted_in_the_last_bias() -> None:
    """Exact where predictions are the same for all inputs; always as many as there are examples."""
    problem = Problem(nn.Sequential(nn.Flatten(), nn.Linear(64, WAYS)).double())
    nn.init.zeros_(problem.model[1].weight)  # type: ignore[index]
    nn.init.zeros_(problem.model[1].bias)  # type: ignore[index]
    labels = torch.tensor([[0, 0, 2, 2, 2], [1, 1, 1, 1, 1]])
    batch = full_batch(torch.rand(2, 5, 1, 8, 8, dtype=torch.float64), labels)
    found, _ = task_gradients(LoopEngine(), problem, broadcast(problem.initial(), 2), batch)
    counts = class_counts(found["1.bias"], torch.full((WAYS,), 1 / WAYS, dtype=torch.float64), 5)
    assert counts.tolist() == [[2, 0, 3], [0, 5, 0]]
    noisy = class_counts(torch.randn(50, WAYS, dtype=torch.float64), torch.full((WAYS,), 1 / WAYS), 7)
    assert (noisy.sum(dim=1) == 7).all()
    assert (noisy >= 0).all()


# --- judging ---


def test_judging_by_hand() -> None:
    members, others = np.array([0.9, 0.8, 0.95, 0.7, 0.4]), np.array([0.1, 0.2, 0.3, 0.5, 0.6])
    out = judge(members, others, validation=2)
    assert 0.2 < out.threshold < 0.8
    assert out.threshold == threshold(members[:2], others[:2])
    assert out.games == 3
    # Of .95 .7 .4 against .3 .5 .6, seven of nine pairs are the right way round.
    assert out.auc.value == pytest.approx(7 / 9)
    assert out.tpr_at_low_fpr.value == pytest.approx(2 / 3)
    assert out.accuracy.low < out.accuracy.value < out.accuracy.high
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    members, others = rng.normal(1, 1, 60).round(1), rng.normal(0, 1, 60).round(1)  # with ties
    wanted = roc_auc_score(np.r_[np.ones(50), np.zeros(50)], np.r_[members[10:], others[10:]])
    assert judge(members, others, validation=10).auc.value == pytest.approx(wanted)
    false, true = roc(members, others)
    assert (false[0], true[0], false[-1], true[-1]) == (0, 0, 1, 1)
    with pytest.raises(InputError, match="leave 0 to judge by"):
        judge(members, others, validation=60)


def test_the_exact_interval_covers() -> None:
    """Clopper and Pearson cover at least 95%: of 400 draws below 0.9, at least 360 hold it (fails once in 1e5)."""
    from fedpriv.adversary.outcome import exact_rate

    rng = np.random.default_rng(1)
    held = sum(rate.low <= 0.9 <= rate.high for rate in (exact_rate(int(k), 50) for k in rng.binomial(50, 0.9, 400)))
    assert held >= 360


def test_the_bound_meets_an_ideal_attacker() -> None:
    """Two Gaussians 2 C apart with standard deviation z C: the best AUC is attained, never exceeded."""
    rng = np.random.default_rng(2)
    members, others = rng.normal(2 / 1.5, 1, 2000), rng.normal(0, 1, 2000)
    out = judge(members, others, validation=100)
    assert abs(out.auc.value - auc_bound(1.5)) < 0.04  # more than four standard errors
    assert auc_bound(0.0) == 1.0
    assert auc_bound(1e9) == pytest.approx(0.5)


def test_similarity_of_small_images() -> None:
    images = torch.rand(3, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    assert similarity(images, images, 1.0) == pytest.approx([1.0] * 3)
    assert (similarity(images, 1 - images, 1.0) < 0.5).all()


# --- games on what MAML sends


def rows_of_digits(**changes: Any) -> Any:
    tasks, _ = few_shot(load("digits"), FewShot(ways=WAYS, examples=6, tasks=24, held_out=1, held_out_classes=0))
    problem = Problem(network("mlp"))
    client = MAML(**{"learning_rate": 1.0, "queries": 1, "permute_labels": True, **changes})
    cohort, key, billboard = Cohort(tasks, np.arange(24)), Key(3, 2), problem.initial()
    _, rows = client.train(Learner(problem), billboard, {}, cohort, key)
    return problem, client, billboard, rows, cohort, key


@pytest.mark.parametrize("order", ["second", "first"])
@pytest.mark.parametrize("which", ["last", "first"])
def test_the_server_knows_which_arrays_start_from_zero(order: Any, which: str) -> None:
    """The truth explains what was sent to the last bit but rounding; another image does not."""
    own = ("3.weight", "3.bias") if which == "last" else ("1.bias",)
    problem, client, billboard, rows, cohort, key = rows_of_digits(from_zero=own, order=order)
    seen, _ = observe_rows(problem, client, billboard, rows, cohort, key)
    assert set(seen.gradient) == set(billboard) - set(own)
    match = support_match(
        LoopEngine(), problem, seen.billboard, seen.gradient, seen.support.targets, seen.query, seen.inner
    )
    assert match(seen.support.inputs).detach() == pytest.approx([1.0] * len(seen), abs=1e-5)
    if order == "second" or which == "last":  # the first order sees support images through the adapted model alone
        assert float(match(seen.support.inputs.flip(0)).detach().mean()) < 0.99


def test_games_on_digits() -> None:
    """16 games a side. By chance, an AUC of 0.8 comes less than once in 500 (normal approximation of Mann-Whitney)."""
    parts = rows_of_digits()
    seen, left_out = observe_rows(*parts)
    assert (len(seen), left_out) == (24, 0)
    games = Games(games=16, validation=8, iterations=40)
    played = games.play(seen, "query", parts[4])
    assert played.outcomes["inversion"]["paper"].auc.value > 0.8
    assert played.outcomes["score"]["controlled"].auc.value > 0.8
    again = games.play(seen, "query", parts[4])
    assert again.outcomes == played.outcomes
    counted = games.model_copy(update={"labels": "counted", "iterations": 2}).play(seen, "query", parts[4])
    assert counted.outcomes["inversion"]["paper"].games == 16
    named = which_task(seen, parts[4], tasks=24)
    assert named.tasks == 24
    assert named.right_task.value > 0.25, "12 guesses among 24: three right by chance once in 80"
    support = games.model_copy(update={"iterations": 2}).play(seen, "support", parts[4])
    assert support.shown["members"].shape == support.shown["from noise"].shape == (6, 3, 8, 8)


class Plain(torch.nn.Module):
    """A network that only ``functional_call`` computes, which swaps parameters in and out of the one object."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = torch.nn.Linear(64, 16), torch.nn.Linear(16, WAYS)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(torch.tanh(self.first(images.flatten(1))))


def test_games_on_several_cores_are_those_on_one(monkeypatch: Any) -> None:
    """Not a bit differs, nor does the progress that is told."""
    problem, client, _, _, cohort, key = rows_of_digits()
    problem = Problem(Plain())
    billboard = problem.initial()
    _, rows = client.train(Learner(problem), billboard, {}, cohort, key)
    seen, _ = observe_rows(problem, client, billboard, rows, cohort, key)
    games = Games(games=16, validation=8, iterations=5, together=2)
    played, steps = [], []
    for cores in (1, 8):
        monkeypatch.setattr("fedpriv.adversary.cores.usable_cores", lambda cores=cores: cores)
        told: list[tuple[int, int]] = []
        played.append(games.play(seen, "query", cohort, progress=lambda *step, told=told: told.append(step)))
        steps.append(told)
    for attack, sides in played[0].scores.items():
        for side, scores in sides.items():
            np.testing.assert_array_equal(scores, played[1].scores[attack][side])
    assert steps[0] == steps[1] == [(done, 36) for done in range(37)]


def test_controlled_others_share_the_class_and_are_in_no_episode() -> None:
    from fedpriv.adversary.observed_rows import non_members

    parts = rows_of_digits()
    seen, _ = observe_rows(*parts)
    slots = torch.zeros(len(seen), dtype=torch.int64)
    found = non_members(seen, parts[4], seen.query, slots, np.random.default_rng(0))
    tasks = parts[4].tasks
    for row, position in enumerate(seen.positions.tolist()):
        own = np.concatenate([part.inputs[part.rows(position)] for part in (tasks.train, tasks.test)])
        label = np.concatenate([part.targets[part.rows(position)] for part in (tasks.train, tasks.test)])
        truth = seen.query.inputs[row, 0].numpy()
        kind = label[(own == truth).all(axis=(1, 2, 3))][0]
        used = torch.cat([seen.support.inputs[row], seen.query.inputs[row]]).numpy()
        assert len(found.alike[row]) == 4  # six images of a class, one in each set
        for image in found.alike[row]:
            assert label[(own == image).all(axis=(1, 2, 3))][0] == kind
            assert not (used == image).all(axis=(1, 2, 3)).any()
        assert not (own == found.anywhere[row]).all(axis=(1, 2, 3)).any()


def test_rows_that_cannot_be_attacked() -> None:
    problem, client, billboard, rows, cohort, key = rows_of_digits()
    rows["1.weight"][5] = math.nan
    with pytest.raises(InputError, match=r"1 of 24 recorded rows hold NaN.*task-00005"):
        observe_rows(problem, client, billboard, rows, cohort, key)
    for value in rows.values():
        value[:20] = 0.0
    seen, left_out = observe_rows(problem, client, billboard, rows, cohort, key)
    assert (len(seen), left_out) == (4, 20)
    with pytest.raises(InputError, match="need 24 rows, and 4 were seen"):
        Games(games=16, validation=8).play(seen, "query", cohort)
    with pytest.raises(InputError, match=r"all 24 recorded rows are zero: .*, so there is nothing to attack"):
        observe_rows(problem, client, billboard, {name: value * 0 for name, value in rows.items()}, cohort, key)


def test_every_image_in_an_episode_leaves_no_controlled_game() -> None:
    tasks, _ = few_shot(load("digits"), FewShot(ways=WAYS, examples=6, tasks=24, held_out=1, held_out_classes=0))
    problem, client = Problem(network("mlp")), MAML(queries=1)
    from dataclasses import replace

    from fedpriv.cohort import Ragged

    two = [tasks.train.inputs[tasks.train.rows(k)] for k in range(24)]
    labels = [tasks.train.targets[tasks.train.rows(k)] for k in range(24)]
    pairs = [np.concatenate([np.flatnonzero(one == c)[:2] for c in range(WAYS)]) for one in labels]
    small = Ragged.from_lists(
        [x[p] for x, p in zip(two, pairs, strict=True)], [y[p] for y, p in zip(labels, pairs, strict=True)]
    )
    empty = Ragged.from_lists([x[:0] for x in two], [y[:0] for y in labels])
    cohort = Cohort(replace(tasks, train=small, test=empty), np.arange(24))
    _, rows = client.train(Learner(problem), problem.initial(), {}, cohort, Key(0, 1))
    seen, _ = observe_rows(problem, client, problem.initial(), rows, cohort, Key(0, 1))
    with pytest.raises(InputError, match=r"'.*/task-\d+' has none left of a class; lower client\.queries"):
        Games(games=16, validation=8).play(seen, "query", cohort)
