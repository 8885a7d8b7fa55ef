"""Modules of all kinds: each trains as a plain torch loop does, or is refused in a sentence whose advice helps."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from helpers import toy_tasks, whole
from torch import Tensor, nn
from torch.nn import functional as F

from fedpriv import Experiment, InputError
from fedpriv.clients import GlobalModel
from fedpriv.cohort import Key, Learner, Problem, Ragged, Schedule, Tasks, broadcast, engine_named
from fedpriv.strategies import Billboard

SIZES, FEATURES, CLASSES = [5, 3, 4], 12, 3


def tasks_of(kind: str) -> Tasks:
    """Tasks of vectors, of images [1, 3, 4], of sequences [4, 3] or of whole numbers below 7."""
    tasks = toy_tasks(3, features=FEATURES, sizes=SIZES)
    if kind == "vector":
        return tasks
    shape = {"image": (1, 3, 4), "sequence": (4, 3), "tokens": (FEATURES,)}[kind]

    def shaped(data: Ragged) -> Ragged:
        inputs = data.inputs.reshape(-1, *shape)
        inputs = (np.abs(inputs * 10).astype(np.int64) % 7) if kind == "tokens" else inputs
        return Ragged(inputs, data.targets, data.offsets)

    parts = (shaped(part) for part in (tasks.train, tasks.validation, tasks.test))
    return Tasks("zoo", tasks.names, *parts, CLASSES, declared="benchmark")


class Made(nn.Module):
    """A module from its parts and a function of them and of the examples."""

    def __init__(self, compute: Callable[..., Any], **parts: nn.Module) -> None:
        super().__init__()
        self.compute = compute
        for name, part in parts.items():
            setattr(self, name, part)

    def forward(self, inputs: Tensor) -> Any:
        return self.compute(self, inputs)


class Squared(torch.autograd.Function):
    """x^2 as a function of one's own; the old form, which vmap does not know."""

    @staticmethod
    def forward(ctx: Any, inputs: Tensor) -> Tensor:
        ctx.save_for_backward(inputs)
        return inputs.square()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (inputs,) = ctx.saved_tensors
        return 2 * inputs * gradients[0]


def tied() -> nn.Module:
    model = Made(lambda m, x: m.last(m.two(m.one(x).relu())), one=head(12), two=head(12), last=head())
    model.two.weight = model.one.weight
    return model


def frozen(*, last: bool = False) -> nn.Module:
    model = nn.Sequential(nn.Linear(FEATURES, 8), nn.ReLU(), nn.Linear(8, CLASSES))
    model[2 if last else 0].requires_grad_(False)
    return model


def positions(*, persistent: bool = False) -> nn.Module:
    model = Made(lambda m, x: m.last((x + m.table).flatten(1)), last=head())
    model.register_buffer("table", torch.arange(12.0).view(4, 3) / 10, persistent=persistent)
    return model


def frozen_statistics() -> nn.Module:
    model = nn.Sequential(nn.Linear(FEATURES, 6), nn.BatchNorm1d(6), nn.Linear(6, CLASSES))
    model[1].running_mean.normal_()  # type: ignore[union-attr, operator]
    model[1].eval()
    return model


def old_weight_norm() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(FEATURES, 6)), nn.Linear(6, CLASSES))


def head(width: int = CLASSES, inputs: int = FEATURES) -> nn.Linear:
    return nn.Linear(inputs, width)


def remembered() -> nn.Module:
    """A table that is made at the first call, and stays."""

    def compute(m: Any, x: Tensor) -> Tensor:
        if m.made is None:
            m.made = torch.full((FEATURES,), 2.0, dtype=x.dtype)
        return m.last(x * m.made)

    model = Made(compute, last=head())
    model.made = None  # type: ignore[assignment]
    return model


def first_batch(compute: Callable[..., Tensor]) -> nn.Module:
    """What is kept of the first examples of each shape; never changed later."""

    def forward(m: Any, x: Tensor) -> Tensor:
        if x.shape not in m.offset:
            m.offset[x.shape] = compute(x)
        return m.one(x - m.offset[x.shape])

    model = Made(forward, one=head())
    model.offset = {}  # type: ignore[assignment]
    return model


def stepwise(m: Any, x: Tensor) -> Tensor:
    x = m.last(x)
    return x.mul_(2).add_(1)


GOOD: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "conv": ("image", lambda: nn.Sequential(nn.Conv2d(1, 3, 2), nn.Tanh(), nn.Flatten(), nn.Linear(18, CLASSES))),
    "max pool": ("image", lambda: nn.Sequential(nn.Conv2d(1, 2, 2), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(2, 3))),
    "lstm": (
        "sequence",
        lambda: Made(lambda m, x: m.last(m.cell(x)[0][:, -1]), cell=nn.LSTM(3, 5, batch_first=True), last=head(3, 5)),
    ),
    "gru": (
        "sequence",
        lambda: Made(
            lambda m, x: m.last(m.cell(x)[0][:, -1]),
            cell=nn.GRU(3, 5, num_layers=2, batch_first=True),
            last=head(3, 5),
        ),
    ),
    "attention": (
        "sequence",
        lambda: Made(
            lambda m, x: m.last(m.look(x, x, x, need_weights=False)[0].flatten(1)),
            look=nn.MultiheadAttention(3, 1, batch_first=True),
            last=head(),
        ),
    ),
    "transformer": (
        "sequence",
        lambda: Made(
            lambda m, x: m.last(m.layer(x).flatten(1)),
            layer=nn.TransformerEncoderLayer(3, 1, 8, dropout=0.0, batch_first=True),
            last=head(),
        ),
    ),
    "embedding": (
        "tokens",
        lambda: Made(lambda m, x: m.last(m.words(x).mean(1)), words=nn.Embedding(7, 4), last=head(3, 4)),
    ),
    "layer norm": ("vector", lambda: nn.Sequential(nn.LayerNorm(FEATURES), head())),
    "group norm": (
        "image",
        lambda: nn.Sequential(nn.Conv2d(1, 4, 2), nn.GroupNorm(2, 4), nn.Flatten(), nn.Linear(24, CLASSES)),
    ),
    "tied": ("vector", tied),
    "frozen body": ("vector", frozen),
    "frozen head": ("vector", lambda: frozen(last=True)),
    "frozen statistics": ("vector", frozen_statistics),
    "positions": ("sequence", positions),
    "residual": ("vector", lambda: Made(lambda m, x: m.last(x + m.inner(x).relu()), inner=head(12), last=head())),
    "branches": (
        "vector",
        lambda: Made(lambda m, x: m.one(x) if float(x.detach()[0, 0]) * 0 == 0 else m.one(-x), one=head()),
    ),
    "in place": ("vector", lambda: Made(stepwise, last=head())),
    "own function": ("vector", lambda: Made(lambda m, x: Squared.apply(m.one(x)), one=head())),
    "weight norm": ("vector", old_weight_norm),
    "unused": ("vector", lambda: Made(lambda m, x: m.one(x), one=head(), spare=head())),
    "mode": ("vector", lambda: Made(lambda m, x: m.one(x) if m.training else 0 * m.one(x), one=head())),
    "remembers a constant": ("vector", remembered),
    "remembers each shape": ("vector", lambda: first_batch(lambda x: torch.full((FEATURES,), 2.0, dtype=x.dtype))),
}


def built(name: str) -> nn.Module:
    torch.manual_seed(3)
    return GOOD[name][1]().double()


def experiment(tasks: Tasks, model: nn.Module, **more: Any) -> Experiment:
    settings: dict[str, Any] = {
        "client": GlobalModel(learning_rate=0.1, batch_size=4),
        "strategy": Billboard(clipping_norm=1.0, sampling_rate=1.0, rounds=1, noise_multiplier=0.0),
        "grid": "in-process",
        "dtype": "float64",
        "baseline": False,
    }
    return Experiment(tasks=tasks, model=model, **settings | more)


def by_hand(model: nn.Module, tasks: Tasks, task: int, key: Key) -> tuple[nn.Module, Tensor]:
    """Train with torch's own loop; return the model and its test loss in evaluation mode."""
    model = copy.deepcopy(model)

    def examples(part: Ragged) -> tuple[Tensor, Tensor]:
        inputs = torch.from_numpy(part.inputs[part.rows(task)])
        inputs = inputs.double() if inputs.is_floating_point() else inputs
        return inputs, torch.from_numpy(part.targets[part.rows(task)])

    inputs, targets = examples(tasks.train)
    optimiser = torch.optim.SGD([value for value in model.parameters() if value.requires_grad], lr=0.1)
    for row in Schedule.draw(np.array([len(targets)]), np.array([task]), key, batch_size=4, epochs=2).index[0]:
        chosen = row[row >= 0]
        optimiser.zero_grad()
        F.cross_entropy(model(inputs[chosen]), targets[chosen]).backward()  # type: ignore[no-untyped-call]
        optimiser.step()
    inputs, targets = examples(tasks.test)
    model.eval()
    return model, F.cross_entropy(model(inputs), targets).detach()


@pytest.mark.parametrize("name", GOOD)
@pytest.mark.parametrize("engine", ["auto", "loop"])
def test_a_module_trains_and_scores_as_plain_torch_does(name: str, engine: str) -> None:
    tasks, model, key = tasks_of(GOOD[name][0]), built(name), Key(2, 1)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    run = experiment(tasks, model, engine=engine)
    _, problem = run.check()
    learner = Learner(problem, engine_named(engine))
    start = broadcast(problem.initial(), len(tasks))
    trained = learner.sgd(start, whole(tasks), key, learning_rate=0.1, batch_size=4, epochs=2)
    scores = learner.evaluate(trained, whole(tasks))
    assert set(trained) == {name for name, value in model.named_parameters() if value.requires_grad}
    for task in range(len(tasks)):
        hand, loss = by_hand(model, tasks, task, key)
        for array, value in hand.named_parameters():
            if value.requires_grad:
                torch.testing.assert_close(trained[array][task], value.detach(), rtol=1e-9, atol=1e-10)
        torch.testing.assert_close(scores.loss[task], loss, rtol=1e-9, atol=1e-10)
    for array, value in model.state_dict().items():
        assert torch.equal(value, before[array])  # what was handed over is nobody's to change


def drawing(draw: Callable[[], Any]) -> nn.Module:
    return Made(lambda m, x: m.one(x) * (1 + float(draw())), one=head())


def counting(m: Any, x: Tensor) -> Tensor:
    m.calls += 1
    return m.one(x)


def counter() -> nn.Module:
    model = Made(counting, one=head())
    model.calls = 0  # type: ignore[assignment]
    return model


def keeping() -> nn.Module:
    def compute(m: Any, x: Tensor) -> Tensor:
        m.seen = 0.9 * m.seen + 0.1 * x.mean()
        return m.one(x - m.seen)

    model = Made(compute, one=head())
    model.register_buffer("seen", torch.zeros(()), persistent=False)
    return model


def writing() -> nn.Module:
    def compute(m: Any, x: Tensor) -> Tensor:
        with torch.no_grad():
            m.scale.mul_(0.9)
        return m.one(x) * m.scale

    model = Made(compute, one=head())
    model.scale = nn.Parameter(torch.ones(()), requires_grad=False)
    return model


def first_scale(*, scoring: bool = False) -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.training and scoring:
            return m.one(x)
        if m.scale is None:
            m.scale = 1 / x.std()
        return m.one(x * m.scale)

    model = Made(forward, one=head())
    model.scale = None  # type: ignore[assignment]
    return model


class Hidden:
    """Something that nobody looks into."""

    mean: Tensor | None = None


def hidden() -> nn.Module:
    def forward(m: Any, x: Tensor) -> Tensor:
        if m.memory.mean is None:
            m.memory.mean = x.mean(0)[None]
        return m.one(x - m.memory.mean)

    model = Made(forward, one=head())
    model.memory = Hidden()  # type: ignore[assignment]
    return model


def lazy() -> nn.Module:
    return nn.Sequential(nn.LazyLinear(CLASSES))


def compiled() -> Any:
    return torch.compile(head(), backend="eager")


def all_frozen() -> nn.Module:
    return head().requires_grad_(False)


def complex_values() -> nn.Module:
    model = Made(lambda m, x: m.one(x) * m.turn.real, one=head())
    model.turn = nn.Parameter(torch.ones(CLASSES, dtype=torch.complex64))
    return model


def computed() -> nn.Module:
    model = head()
    model.twice = model.weight * 2
    return model


def scripted() -> nn.Module:
    return torch.jit.trace(head(), torch.zeros(1, FEATURES))  # type: ignore[no-untyped-call, no-any-return]


ATTENTION = {"dropout": 0.5, "batch_first": True}
LSTM = {"num_layers": 2, "dropout": 0.5, "batch_first": True}
BAD: dict[str, tuple[str, Callable[[], nn.Module], str]] = {
    "functional dropout": (
        "vector",
        lambda: Made(lambda m, x: m.one(F.dropout(x, 0.9, m.training)), one=head()),
        r"the model Made draws from a global random generator in training.*set its dropout to 0",
    ),
    "lstm dropout": (
        "sequence",
        lambda: Made(lambda m, x: m.last(m.cell(x)[0][:, -1]), cell=nn.LSTM(3, 5, **LSTM), last=head(3, 5)),
        r"layer 'cell' \(LSTM\) draws from a global random generator in training.*set its dropout to 0",
    ),
    "attention dropout": (
        "sequence",
        lambda: Made(
            lambda m, x: m.last(m.look(x, x, x)[0].flatten(1)),
            look=nn.MultiheadAttention(3, 1, **ATTENTION),
            last=head(),
        ),
        r"layer 'look' \(MultiheadAttention\) draws from a global random generator in training",
    ),
    "noise": (
        "vector",
        lambda: Made(lambda m, x: m.one(x + torch.randn_like(x)), one=head()),
        "draws from a global random generator",
    ),
    "noise in scoring": (
        "vector",
        lambda: Made(lambda m, x: m.one(x if m.training else x + torch.randn_like(x)), one=head()),
        "draws from a global random generator in scoring",
    ),
    "numpy": ("vector", lambda: drawing(lambda: np.random.rand()), "draws from a global random generator"),
    "python": ("vector", lambda: drawing(random.random), "draws from a global random generator"),
    "own generator": (
        "vector",
        lambda: drawing(iter(range(1000)).__next__),
        "gives other outputs for the same examples",
    ),
    "counter": ("vector", counter, "changes 'calls' whenever it computes"),
    "buffer": ("vector", keeping, "changes 'seen' whenever it computes"),
    "frozen weight": ("vector", writing, "changes 'scale' whenever it computes"),
    "mixed examples": (
        "vector",
        lambda: Made(lambda m, x: m.one(x - x.mean(0)), one=head()),
        "mixes the examples of a batch",
    ),
    "mixed in long batches": (
        "vector",
        lambda: Made(lambda m, x: m.one(x - x.mean(0) if len(x) > 12 else x), one=head()),
        "mixes the examples of a batch",
    ),
    "mixed in short batches": (
        "vector",
        lambda: Made(lambda m, x: m.one(x - x.mean(0) if len(x) < 12 else x), one=head()),
        "mixes the examples of a batch",
    ),
    "mixed in the last example": (
        "vector",
        lambda: Made(lambda m, x: m.one(torch.cat([x[:-1], x[-1:] + x[:1]])), one=head()),
        "mixes the examples of a batch",
    ),
    "mixed in the first example": (
        "vector",
        lambda: Made(lambda m, x: m.one(torch.cat([x[:1] + x[-1:], x[1:]])), one=head()),
        "mixes the examples of a batch",
    ),
    "first batch": ("vector", lambda: first_batch(lambda x: x.mean(0)), "keeps 'offset' of the examples that it sees"),
    "first long batch": (
        "vector",
        lambda: first_batch(lambda x: x.mean(0) * (len(x) > 12)),
        "keeps 'offset' of the examples that it sees.*past clipping and noise",
    ),
    "first example": ("vector", lambda: first_batch(lambda x: x[0]), "keeps 'offset' of the examples that it sees"),
    "last example": ("vector", lambda: first_batch(lambda x: x[-1]), "keeps 'offset' of the examples that it sees"),
    "first scale": ("vector", first_scale, "keeps 'scale' of the examples that it sees"),
    "first scale in scoring": ("vector", lambda: first_scale(scoring=True), "keeps 'scale' of the examples"),
    "kept out of sight": ("vector", hidden, "keeps something of the examples that it sees"),
    "time first": (
        "sequence",
        lambda: Made(lambda m, x: m.last(m.cell(x)[0][:, -1]), cell=nn.LSTM(3, 5), last=head(3, 5)),
        "mixes the examples of a batch.*batch_first=True",
    ),
    "no parameters": ("vector", nn.Identity, "no parameters to learn"),
    "all frozen": ("vector", all_frozen, r"all parameters of the model Linear are frozen.*requires_grad_\(True\)"),
    "wrong shape": ("vector", lambda: head(2), "must give 3 outputs for every example"),
    "scalar": ("vector", lambda: Made(lambda m, x: m.one(x).sum(), one=head()), "must give 3 outputs"),
    "dictionary": (
        "vector",
        lambda: Made(lambda m, x: {"logits": m.one(x)}, one=head()),
        "must give one tensor of outputs, got dict; return the outputs alone",
    ),
    "lazy": ("vector", lazy, "has no shape yet; run one example through the model first"),
    "complex": ("vector", complex_values, "'turn' of the model Made is complex"),
    "meta": ("vector", lambda: nn.Linear(FEATURES, CLASSES, device="meta"), r"has no values \(device 'meta'\)"),
    "computed": ("vector", computed, "cannot be copied"),
    "script": ("vector", scripted, "is a script.*give the module itself"),
    "compiled": ("vector", compiled, r"wrapped in OptimizedModule.*model\._orig_mod"),
    "data parallel": ("vector", lambda: nn.DataParallel(head()), r"wrapped in DataParallel.*model\.module"),
    "spectral norm": (
        "vector",
        lambda: nn.utils.parametrizations.spectral_norm(head()),
        "buffers.*would escape clipping and noise",
    ),
    "persistent buffer": ("sequence", lambda: positions(persistent=True), "register them with persistent=False"),
    "dropout": ("vector", lambda: nn.Sequential(nn.Dropout(0.5), head()), "draws from the global generator"),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore:Lazy modules")
@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("engine", ["auto", "vmap", "loop"])
def test_a_module_that_cannot_be_right_is_refused_in_a_sentence(name: str, engine: str) -> None:
    kind, build, words = BAD[name]
    model = build()
    states = torch.get_rng_state(), random.getstate(), repr(np.random.get_state())
    with pytest.raises(InputError, match=f"(?s){words}"):
        experiment(tasks_of(kind), model, engine=engine).check()
    # A check leaves the user's generators as they were.
    assert torch.equal(torch.get_rng_state(), states[0])
    assert (random.getstate(), repr(np.random.get_state())) == states[1:]


def recurrent(kind: type[nn.RNNBase], **more: Any) -> nn.Module:
    return Made(
        lambda m, x: m.last(m.cell(x)[0][:, -1]), cell=kind(3, 5, **{"batch_first": True, **more}), last=head(3, 5)
    )


FOLLOWED: dict[str, tuple[str, Callable[[], nn.Module]]] = {
    "dropout of 0": ("sequence", lambda: recurrent(nn.LSTM, num_layers=2, dropout=0.0)),
    "batch first": ("sequence", lambda: recurrent(nn.LSTM)),
    "persistent=False": ("sequence", positions),
    "eval on the norm": ("vector", frozen_statistics),
    "unfrozen": ("vector", lambda: all_frozen().requires_grad_(True)),
    "the module inside": ("vector", lambda: nn.DataParallel(head()).module),
    "the module that was compiled": ("vector", lambda: compiled()._orig_mod),
    "outputs alone": ("vector", lambda: Made(lambda m, x: {"logits": m.one(x)}["logits"], one=head())),
}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("name", FOLLOWED)
def test_what_a_refusal_advises_helps(name: str) -> None:
    kind, build = FOLLOWED[name]
    experiment(tasks_of(kind), build()).check()


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_auto_falls_back_to_the_loop_and_says_so(kind: type[nn.RNNBase]) -> None:
    torch.manual_seed(0)
    tasks, model = tasks_of("sequence"), recurrent(kind)
    auto, loop = (experiment(tasks, model, engine=engine).run(reproduce=1) for engine in ("auto", "loop"))
    for name, value in auto.billboards["all"].items():
        np.testing.assert_array_equal(value, loop.billboards["all"][name])
    (said,) = [line for line in auto.summary["warnings"] if "one after the other" in line]
    assert said.startswith("vmap cannot compute Made (")
    assert not [line for line in loop.summary["warnings"] if "one after the other" in line]
    with pytest.raises(InputError, match=r"engine 'vmap'.*try run\.engine='loop'"):
        experiment(tasks, model, engine="vmap").check()


def test_the_loop_is_advised_only_where_it_helps() -> None:
    class Broken(GlobalModel):
        def train(self, *_: Any) -> Any:
            raise ValueError("not today")

    for engine in ("auto", "vmap"):
        with pytest.raises(InputError, match=r"not today; mend it\.$"):
            experiment(tasks_of("vector"), head(), client=Broken(), engine=engine).check()


def test_a_model_that_draws_is_refused_without_a_dry_run_too() -> None:
    tasks, model = tasks_of("vector"), BAD["functional dropout"][1]().double()
    problem = Problem(model)
    with pytest.raises(InputError, match="draws random numbers"):
        Learner(problem).sgd(
            broadcast(problem.initial(), 3), whole(tasks), Key(0, 1), learning_rate=0.1, batch_size=4, epochs=1
        )
