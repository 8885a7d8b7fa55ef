"""Low-rank plus sparse models: the mathematics against brute force, autograd and known truths."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fedpriv import InputError
from fedpriv.data import LowRankSparseDesign, synthetic_tasks
from fedpriv.lrs import baselines
from fedpriv.lrs.alternate import alternate, moment_start
from fedpriv.lrs.least_squares import least_squares
from fedpriv.lrs.packing import packed_size, unpack
from fedpriv.lrs.sparse import PersonalPart, Thresholding, pursue, threshold
from fedpriv.lrs.statistics import clip_to, curvature, gradient, moments, normal_equations, normal_product
from fedpriv.lrs.subspace import conjugate_gradients, leading, orthonormal, sine, solve_factors

Made = tuple[Any, torch.Tensor, torch.Tensor, torch.Tensor]


def made(**design: Any) -> Made:
    """Return the truth and the training examples of a design as [t, m, d], [t, m] and [t]."""
    chosen = LowRankSparseDesign(**design)
    train = chosen.make().train
    inputs = torch.from_numpy(train.inputs).view(chosen.tasks, chosen.samples, chosen.dimension)
    targets = torch.from_numpy(train.targets).view(chosen.tasks, chosen.samples)
    return chosen.truth(), inputs, targets, torch.full((chosen.tasks,), float(chosen.samples), dtype=torch.float64)


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def error(truth: Any, factors: np.ndarray, own: PersonalPart) -> float:
    return float(np.abs(own.theta(torch.from_numpy(factors)).numpy() - truth.theta).max())


# --- packing and statistics ------------------------------------------------------------------------------------------


@given(side=st.integers(1, 7), seed=st.integers(0, 10**6))
@settings(max_examples=25, deadline=None)
def test_packing_keeps_norm_and_matrix(side: int, seed: int) -> None:
    inputs, targets = random(1, 5, side, seed=seed), random(1, 5, seed=seed + 1)
    packed = moments(inputs, targets, torch.tensor([5.0]))[0]
    whole = np.einsum("n,ni,nj->ij", targets[0] ** 2, inputs[0], inputs[0]) / 5
    np.testing.assert_allclose(unpack(packed.numpy()), whole, atol=1e-12)
    assert len(packed) == packed_size(side)
    assert float(packed.norm()) == pytest.approx(np.linalg.norm(whole))


def test_noise_on_the_packed_vector_is_symmetric_and_smaller_off_the_diagonal() -> None:
    """Columns of the map from the vector to the matrix: 1 on the diagonal, 1 / sqrt 2 twice off it."""
    for place, unit in enumerate(np.eye(packed_size(4))):
        matrix = unpack(unit)
        np.testing.assert_array_equal(matrix, matrix.T)
        assert np.linalg.norm(matrix) == pytest.approx(1.0), place
        assert np.count_nonzero(matrix) in (1, 2)


def test_the_normal_equations_stack_columns() -> None:
    """The trap of the published code: with rows stacked, A and V do not fit for r > 1."""
    rng = np.random.default_rng(0)
    tasks, samples, dimension, rank = 9, 6, 4, 3
    inputs, weights = random(tasks, samples, dimension), random(tasks, rank, seed=1)
    sparse, targets = random(tasks, dimension, seed=2), torch.from_numpy(rng.normal(size=(tasks, samples)))
    counts = torch.full((tasks,), 6.0, dtype=torch.float64)
    matrix, vector = normal_equations(inputs, targets, sparse, weights, counts)
    found = solve_factors(unpack(matrix.mean(dim=0).numpy()), vector.mean(dim=0).numpy())
    # One row per example: <x, U w> is linear in U with the coefficients x_i w_a.
    rows = np.einsum("cni,ca->cnia", inputs, weights).reshape(tasks * samples, -1)
    rest = (targets - torch.einsum("cni,ci->cn", inputs, sparse)).numpy().ravel()
    expected = np.linalg.lstsq(rows, rest, rcond=None)[0].reshape(dimension, rank)
    np.testing.assert_allclose(found, expected, atol=1e-9)


def test_conjugate_gradients_solve_the_same_equations_without_forming_them() -> None:
    truth, inputs, targets, counts = made(tasks=12, dimension=6, samples=8, rank=2, sparsity=1, noise=0.5)
    weights, sparse = torch.from_numpy(truth.coefficients), torch.from_numpy(truth.sparse)
    matrix, vector = normal_equations(inputs, targets, sparse, weights, counts)
    whole, right = unpack(matrix.mean(dim=0).numpy()), vector.mean(dim=0).numpy()

    def product(direction: np.ndarray) -> np.ndarray:
        image: np.ndarray = normal_product(inputs, weights, counts, torch.from_numpy(direction)).mean(dim=0).numpy()
        return image

    direction = np.random.default_rng(1).normal(size=(6, 2))
    np.testing.assert_allclose(product(direction).ravel(order="F"), whole @ direction.ravel(order="F"), atol=1e-10)
    found = conjugate_gradients(product, right, np.zeros((6, 2)))
    np.testing.assert_allclose(found, solve_factors(whole, right), atol=1e-8)
    zero = np.zeros((6, 2))
    np.testing.assert_array_equal(conjugate_gradients(lambda p: 0 * p, zero, zero), zero)


def test_gradient_is_that_of_the_loss() -> None:
    inputs, targets, weights, sparse = random(3, 5, 4), random(3, 5, seed=1), random(3, 2, seed=2), random(3, 4, seed=3)
    factors = random(4, 2, seed=4).requires_grad_()
    counts = torch.tensor([5.0, 5.0, 5.0], dtype=torch.float64)
    theta = weights @ factors.T + sparse
    loss = 0.5 * (torch.einsum("cni,ci->cn", inputs, theta) - targets).square().sum() / 5
    (expected,) = torch.autograd.grad(loss, factors)
    found = gradient(inputs, targets, theta.detach(), weights, counts)
    torch.testing.assert_close(found.sum(dim=0), expected)


def test_curvature_is_the_hessian_of_the_loss_after_the_tasks_refit() -> None:
    """At a fit without error the Gauss-Newton matrix is exact; autograd goes through the refit."""
    inputs, factors = random(2, 9, 4), random(4, 2, seed=1)
    own = PersonalPart(random(2, 2, seed=2), torch.tensor([[0], [3]]), random(2, 1, seed=3))
    targets = torch.einsum("cni,ci->cn", inputs, own.theta(factors))

    def refitted(flat: torch.Tensor) -> torch.Tensor:
        columns = own.columns(inputs, flat.reshape(2, 4).T)  # vec stacks columns
        solved = torch.linalg.solve(columns.mT @ columns, columns.mT @ targets.unsqueeze(2))
        return 0.5 * (columns @ solved - targets.unsqueeze(2)).square().sum() / 9

    expected = torch.autograd.functional.hessian(refitted, factors.T.reshape(-1))
    counts = torch.full((2,), 9.0, dtype=torch.float64)
    found = curvature(inputs, own.coefficients, own.columns(inputs, factors), counts).sum(dim=0)
    np.testing.assert_allclose(unpack(found.numpy()), expected.numpy(), atol=1e-9)


def test_moments_find_the_subspace() -> None:
    truth, inputs, targets, counts = made(tasks=600, dimension=20, samples=100, rank=2, sparsity=1)
    assert sine(moment_start(inputs, targets, counts, 2), truth.factors) < 0.25
    random_sine = sine(orthonormal(np.random.default_rng(0).normal(size=(20, 2))), truth.factors)
    assert random_sine > 0.8


def test_clipping_of_statistics() -> None:
    rows = random(4, 3, 2) * torch.tensor([1e-3, 1.0, 1e3, 0.0], dtype=torch.float64).view(4, 1, 1)
    clipped = clip_to(rows, 2.0)
    norms = clipped.flatten(1).norm(dim=1)
    assert (norms <= 1 + 1e-12).all()
    torch.testing.assert_close(clipped[0], rows[0] / 2)
    assert torch.equal(clip_to(rows, None), rows)


# --- a task's own part -----------------------------------------------------------------------------------------------


def test_least_squares_agrees_with_lapack_and_does_not_depend_on_units() -> None:
    columns, targets = random(5, 12, 4), random(5, 12, seed=1)
    expected = torch.linalg.lstsq(columns, targets.unsqueeze(2)).solution.squeeze(2)
    torch.testing.assert_close(least_squares(columns, targets), expected)
    scale = torch.tensor([1e-9, 1.0, 1e6, 1e9], dtype=torch.float64)
    torch.testing.assert_close(least_squares(columns * scale, targets) * scale, expected)


@pytest.mark.parametrize(
    "case", ["fewer samples", "collinear", "zero column", "no samples", "constant", "tiny", "huge"]
)
def test_degenerate_tasks_get_finite_answers_that_still_fit(case: str) -> None:
    columns, truth = random(1, 6, 4), torch.tensor([[1.0, -2.0, 0.5, 3.0]], dtype=torch.float64)
    if case == "fewer samples":
        columns[:, 2:] = 0
    if case == "collinear":
        columns[:, :, 3] = columns[:, :, 0] + columns[:, :, 1]
    if case == "zero column":
        columns[:, :, 1] = 0
    if case == "no samples":
        columns[:] = 0
    columns = columns * {"tiny": 1e-140, "huge": 1e140}.get(case, 1.0)
    targets = (columns @ truth.unsqueeze(2)).squeeze(2)
    if case == "constant":
        targets = torch.full_like(targets, 7.0)
    found = least_squares(columns, targets)
    assert found.isfinite().all()
    if case == "zero column":
        assert found[0, 1] == 0
    if case == "no samples":
        assert not found.any()
    if case != "constant":
        left = (columns @ found.unsqueeze(2)).squeeze(2) - targets
        assert left.norm() <= 1e-4 * targets.norm()


def test_a_new_task_is_fitted_exactly_with_the_factors_fixed() -> None:
    truth, inputs, targets, _ = made(tasks=20, dimension=60, samples=50, rank=2, sparsity=4, seed=1)
    factors = torch.from_numpy(truth.factors)
    own = pursue(inputs, targets, factors, PersonalPart.zeros(20, 2, 4), 15)
    assert error(truth, truth.factors, own) < 1e-10
    fixed = PersonalPart(torch.from_numpy(truth.coefficients), own.index, torch.zeros_like(own.values))
    alone = pursue(inputs, targets, factors, fixed, 15, fixed=True)
    assert torch.equal(alone.coefficients, fixed.coefficients)
    assert error(truth, truth.factors, alone) < 1e-10


def test_published_thresholding_needs_more_examples_than_pursuit_and_never_gives_nan() -> None:
    rule = Thresholding(gamma=3.0, c1=0.4)
    truth, inputs, targets, counts = made(tasks=10, dimension=30, samples=600, rank=1, sparsity=3)
    factors = torch.from_numpy(truth.factors)
    own = PersonalPart.zeros(10, 1, 3)
    for _ in range(12):
        own = threshold(inputs, targets, counts, factors, own, 40, rule)
    assert error(truth, truth.factors, own) < 1e-4
    truth, inputs, targets, counts = made(tasks=10, dimension=150, samples=40, rank=1, sparsity=10)
    factors = torch.from_numpy(truth.factors)
    own = threshold(inputs, targets, counts, factors, PersonalPart.zeros(10, 1, 10), 400, rule)
    assert own.theta(factors).isfinite().all(), "what diverges is set to zero"
    assert error(truth, truth.factors, own) > 0.1


@pytest.mark.parametrize("units", [1e-6, 1.0, 1e6])
@pytest.mark.parametrize("steps", [5, 20, 60])
def test_a_sparse_part_that_diverges_is_judged_by_the_tasks_own_data_not_by_a_number(steps: int, units: float) -> None:
    """After 5 steps an error of 100 times the targets is far from overflow, and no model either."""
    truth, inputs, targets, counts = made(tasks=10, dimension=150, samples=40, rank=1, sparsity=10)
    factors, rule = torch.from_numpy(truth.factors), Thresholding(gamma=3.0 * units)
    own = threshold(inputs, units * targets, counts, factors, PersonalPart.zeros(10, 1, 10), steps, rule)

    def squared(one: PersonalPart) -> torch.Tensor:
        return (units * targets - (inputs @ one.theta(factors).unsqueeze(2)).squeeze(2)).square().sum(dim=1)

    without = threshold(inputs, units * targets, counts, factors, PersonalPart.zeros(10, 1, 0), 0, rule)
    assert (squared(own) <= squared(without) * (1 + 1e-9)).all()


def test_a_task_does_not_depend_on_padding_or_on_the_tasks_beside_it() -> None:
    truth, inputs, targets, counts = made(tasks=8, dimension=12, samples=16, rank=2, sparsity=3, noise=0.3)
    factors = torch.from_numpy(truth.factors)
    together = pursue(inputs, targets, factors, PersonalPart.zeros(8, 2, 3), 3)
    alone = pursue(inputs[3:4], targets[3:4], factors, PersonalPart.zeros(1, 2, 3), 3)
    for name in ("coefficients", "index", "values"):
        assert torch.equal(getattr(together, name)[3:4], getattr(alone, name)), name
    wide = torch.cat([inputs, torch.zeros(8, 16, 12, dtype=torch.float64)], dim=1)
    long = torch.cat([targets, torch.zeros(8, 16, dtype=torch.float64)], dim=1)
    padded = pursue(wide, long, factors, PersonalPart.zeros(8, 2, 3), 3)
    torch.testing.assert_close(padded.theta(factors), together.theta(factors))
    bent = curvature(wide, padded.coefficients, padded.columns(wide, factors), counts)
    torch.testing.assert_close(
        bent, curvature(inputs, together.coefficients, together.columns(inputs, factors), counts)
    )


def test_more_factors_or_entries_than_features_are_refused() -> None:
    inputs, targets = random(2, 5, 3), random(2, 5)
    with pytest.raises(InputError, match="'sparsity' must be at most the number of features 3, got 4"):
        pursue(inputs, targets, random(3, 1), PersonalPart.zeros(2, 1, 4), 1)
    with pytest.raises(InputError, match="'rank' must be at most the number of features 3, got 4"):
        pursue(inputs, targets, random(3, 4), PersonalPart.zeros(2, 4, 1), 1)
    with pytest.raises(InputError, match="the factors have 2 rows where examples have 3"):
        pursue(inputs, targets, random(2, 1), PersonalPart.zeros(2, 1, 1), 1)
    with pytest.raises(InputError, match="'rank' must be at most the number of features 3"):
        leading(np.eye(3), 4)


# --- all together ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rank", [1, 3])
def test_the_truth_is_found_from_ten_of_ten_random_starts(rank: int) -> None:
    truth, inputs, targets, counts = made(tasks=60, dimension=30, samples=36, rank=rank, sparsity=3)
    for seed in range(10):
        start = orthonormal(np.random.default_rng(seed).normal(size=(30, rank)))
        factors, own = alternate(inputs, targets, counts, start, 3, iterations=12)
        assert error(truth, factors, own) < 1e-8, seed


@pytest.mark.parametrize("solver", ["normal-equations", "conjugate-gradients", "gradient"])
def test_other_steps_get_to_the_same_place_more_slowly(solver: Any) -> None:
    truth, inputs, targets, counts = made(tasks=60, dimension=20, samples=40, rank=1, sparsity=2)
    start = moment_start(inputs, targets, counts, 1)
    factors, own = alternate(inputs, targets, counts, start, 2, iterations=40, steps=3, solver=solver)
    assert error(truth, factors, own) < 1e-6


@pytest.mark.soak
@pytest.mark.parametrize("rank", [1, 3])
def test_the_papers_design_from_ten_of_ten_random_starts(rank: int) -> None:
    truth, inputs, targets, counts = made(rank=rank, overlap=5)
    for seed in range(10):
        start = orthonormal(np.random.default_rng(seed).normal(size=(150, rank)))
        factors, own = alternate(inputs, targets, counts, start, 10, iterations=15)
        assert error(truth, factors, own) < 1e-8, seed


def test_singular_systems_have_a_solution_of_least_norm() -> None:
    """Fewer tasks than directions, or none with examples: nothing is invented, nothing is NaN."""
    matrix = np.diag([2.0, 1.0, 0.0, -1.0])
    np.testing.assert_allclose(solve_factors(matrix, np.array([[2.0, 3.0], [4.0, 5.0]]), 1e-6), [[1, 0], [4, 0]])
    zero = np.zeros((2, 2))
    np.testing.assert_array_equal(solve_factors(np.zeros((4, 4)), zero), zero)
    before = orthonormal(np.random.default_rng(0).normal(size=(5, 2)))
    np.testing.assert_array_equal(orthonormal(np.zeros((5, 2)), before), before)
    np.testing.assert_array_equal(orthonormal(np.full((5, 2), np.nan), before), before)
    np.testing.assert_allclose(orthonormal(before * [2.0, 0.5]), before, atol=1e-12)
    np.testing.assert_array_equal(solve_factors(np.full((2, 2), np.inf), np.ones((2, 1))), np.zeros((2, 1)))
    np.testing.assert_array_equal(solve_factors(np.eye(2), np.full((2, 1), np.nan)), np.zeros((2, 1)))


def test_baselines_know_their_own_kind() -> None:
    """Each baseline is exact on the tasks that it is made for."""
    inputs, counts = random(6, 30, 4), torch.full((6,), 30.0, dtype=torch.float64)
    common, own, level = random(1, 4, seed=1), random(6, 4, seed=2), random(6, seed=3)
    one = torch.einsum("cni,ci->cn", inputs, common.expand(6, 4))
    torch.testing.assert_close(baselines.single(inputs, one), common)
    theta, offset = baselines.offsets(inputs, one + level.unsqueeze(1), counts)
    torch.testing.assert_close(theta, common)
    torch.testing.assert_close(offset, level)
    many = torch.einsum("cni,ci->cn", inputs, own)
    torch.testing.assert_close(baselines.full(inputs, many), own)
    torch.testing.assert_close(baselines.ridge(inputs, many, (inputs, many)), own, rtol=0.01, atol=0.01)
    assert np.allclose(baselines.rmse(own, inputs, many, counts), 0, atol=1e-9)
    assert np.isnan(baselines.rmse(own, 0 * inputs, 0 * many, 0 * counts)).all()
    flat = torch.einsum("cni,ca,ia->cn", inputs, random(6, 1, seed=5), random(4, 1, seed=6))
    start = orthonormal(np.ones((4, 1)))
    shared = baselines.representation(inputs, flat, counts, start)
    assert np.allclose(baselines.rmse(shared, inputs, flat, counts), 0, atol=1e-8)
    few = own * (torch.arange(4) < 1)
    sparse = torch.einsum("cni,ci->cn", inputs, few)
    torch.testing.assert_close(baselines.sparse_only(inputs, sparse, 1), few)


# --- the data --------------------------------------------------------------------------------------------------------


@given(tasks=st.integers(1, 12), dimension=st.integers(1, 12), seed=st.integers(0, 1000), data=st.data())
@settings(max_examples=40, deadline=None)
def test_supports_obey_the_overlap(tasks: int, dimension: int, seed: int, data: st.DataObject) -> None:
    sparsity = data.draw(st.integers(0, dimension))
    least = max(1, -(-tasks * sparsity // dimension))
    overlap = data.draw(st.sampled_from([None, least, least + 2]))
    design = LowRankSparseDesign(
        tasks=tasks, dimension=dimension, samples=2, sparsity=sparsity, overlap=overlap, seed=seed
    )
    used = design.truth().sparse != 0
    assert (used.sum(axis=1) == sparsity).all()
    assert overlap is None or (used.sum(axis=0) <= overlap).all()


def test_the_design_is_what_it_says() -> None:
    design = LowRankSparseDesign(tasks=4, dimension=6, samples=5, rank=2, sparsity=2, noise=0.5, tests=3, validation=1)
    tasks, truth = design.make(), design.truth()
    tasks.check()
    np.testing.assert_allclose(truth.factors.T @ truth.factors, np.eye(2), atol=1e-12)
    for k in range(4):
        test = tasks.test.rows(k)
        np.testing.assert_allclose(tasks.test.targets[test], tasks.test.inputs[test] @ truth.theta[k], atol=1e-12)
        train = tasks.train.rows(k)
        assert np.abs(tasks.train.targets[train] - tasks.train.inputs[train] @ truth.theta[k]).max() > 1e-3
    more = LowRankSparseDesign(**{**design.model_dump(), "tasks": 7}).make()
    np.testing.assert_array_equal(more.train.inputs[: len(tasks.train.inputs)], tasks.train.inputs)
    same = synthetic_tasks("low-rank-sparse", **design.model_dump())
    np.testing.assert_array_equal(same.train.targets, tasks.train.targets)
    assert synthetic_tasks("regression", tasks=2, dimension=3).input_shape == (3,)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"rank": 7}, "'rank' must be at most the dimension 6, got 7"),
        ({"sparsity": 7}, "'sparsity' must be at most the dimension 6, got 7"),
        ({"overlap": 1}, "'overlap' must be at least tasks \\* sparsity / dimension = 1.33333, got 1"),
        ({"samples": 1}, "samples"),
        ({"noise": -1.0}, "noise"),
    ],
)
def test_designs_that_cannot_be_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words):
        LowRankSparseDesign(**{"tasks": 4, "dimension": 6, "sparsity": 2, **change})
    with pytest.raises(InputError, match="generator"):
        synthetic_tasks("low-rank-spares")


def test_a_ridge_on_the_sparse_part_is_the_closed_form() -> None:
    """With w fixed, b_S = (X_S^T X_S + lambda)^-1 X_S^T (y - X u): for k = d, and on whatever support was chosen."""
    rng = torch.Generator().manual_seed(3)
    inputs = torch.randn((4, 6, 5), generator=rng, dtype=torch.float64)
    targets = torch.randn((4, 6), generator=rng, dtype=torch.float64)
    factors = torch.randn((5, 1), generator=rng, dtype=torch.float64)
    nothing, few = PersonalPart.zeros(4, 1, 5), PersonalPart.zeros(4, 1, 2)
    one = torch.ones((4, 1), dtype=torch.float64)
    start = PersonalPart(one, nothing.index, nothing.values)
    found = pursue(inputs, targets, factors, start, 2, fixed=True, ridge=0.7).sparse(5)
    rest = targets - (inputs @ factors).squeeze(2)
    wanted = torch.linalg.solve(
        inputs.transpose(1, 2) @ inputs + 0.7 * torch.eye(5, dtype=torch.float64),
        (inputs.transpose(1, 2) @ rest.unsqueeze(2)).squeeze(2),
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-9)

    few = pursue(inputs, targets, factors, PersonalPart(one, few.index, few.values), 3, fixed=True, ridge=0.7)
    for task in range(4):
        chosen = inputs[task][:, few.index[task]]
        values = torch.linalg.solve(chosen.T @ chosen + 0.7 * torch.eye(2, dtype=torch.float64), chosen.T @ rest[task])
        torch.testing.assert_close(few.values[task], values, rtol=1e-9, atol=1e-9)
