"""The compiled step does what the eager one does, in one graph; and where it cannot be, the user is told why."""

import random
import warnings

import numpy as np
import pyro
import pytest
import torch
from pyro import infer
from small import small_data, small_linear, small_pair
from torch import nn
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.programs import LadderGuide, Program, SkipModel
from pyro_hvae.published import PRESETS, Training
from pyro_hvae.training import tracing as compiled
from pyro_hvae.training.contexts import ask_to_stop
from pyro_hvae.training.fit import fit
from pyro_hvae.training.run_directory import RunDirectory
from pyro_hvae.training.tracing import NotCompilable, compile_step, stepping, trace
from pyro_hvae.training.training_step import TrainingStep

QUICK = dict(batch=20, learning_rate=1e-2, log_every=10, evaluate_every=1000, checkpoint_every=1000, progress=False,
             device="cpu")  # fmt: skip

OBJECTIVES = {
    "elbo": hvae.ELBO(),
    "elbo, 3 particles": hvae.ELBO(3),
    "elbo, stl": hvae.ELBO(gradient="stl"),
    "elbo, rao_blackwell": hvae.ELBO(gradient="rao_blackwell"),
    "importance weighted, rao_blackwell": hvae.ImportanceWeightedELBO(3, gradient="rao_blackwell"),
    "importance weighted, rao_blackwell_dreg": hvae.ImportanceWeightedELBO(3, gradient="rao_blackwell_dreg"),
    "importance weighted": hvae.ImportanceWeightedELBO(3),
    "importance weighted, dreg": hvae.ImportanceWeightedELBO(3, gradient="dreg"),
    "renyi": hvae.RenyiELBO(0.5, 3),
    "renyi, dreg": hvae.RenyiELBO(0.5, 3, gradient="dreg"),
    "largest weight": hvae.RenyiELBO(-np.inf, 3),
}
GUIDES = ("top_down", "bottom_up", "mean_field", "ladder")


def pair(model: str, guide: str) -> hvae.HVAE:
    torch.manual_seed(3)
    models = {
        "linear": lambda: small_linear(family="laplace").model,
        "markov": lambda: small_pair().model,
        "skip": lambda: SkipModel(16, (6, 3), hidden=((7,),), skip_hidden=(5,)),
    }
    made = models[model]()
    if guide == "ladder":
        return hvae.HVAE(made, LadderGuide(made, hidden_x=None if model == "linear" else ((8,), (5,))))
    return hvae.HVAE(made, (small_linear(family="laplace") if model == "linear" else small_pair(guide)).guide)


SYSTEMS = [("linear", "mean_field"), ("linear", "ladder"), *((m, g) for m in ("markov", "skip") for g in GUIDES)]
CLOSED = [o for o in OBJECTIVES if "rao_blackwell" in o]
CASES = [
    (m, g, o)
    for m, g in SYSTEMS
    for o in OBJECTIVES
    if o not in CLOSED or (g != "bottom_up" and (o == "elbo, rao_blackwell" or (g == "ladder" and m != "linear")))
]


# In the quick run every model with every guide, every objective with the guide that asks most of it; all in the slow one.
EACH = {
    *((m, g, "elbo") for m, g in SYSTEMS),
    *(("markov", "ladder" if o in CLOSED else "top_down", o) for o in OBJECTIVES),
    ("skip", "ladder", "importance weighted, rao_blackwell_dreg"),
    ("linear", "ladder", "elbo, rao_blackwell"),
}


@pytest.fixture(autouse=True)
def _without_validation():
    with pyro.validation_enabled(False):
        yield
    torch.compiler.reset()


def make_step(vae, objective, **options) -> TrainingStep:
    betas = {site: torch.tensor(0.6) for site in vae.sites}
    return TrainingStep(vae, objective, dict(vae.named_parameters()), betas, Training(learning_rate=1e-2, **options))


class Counting:
    """A backend that compiles nothing and counts the graphs it is given."""

    def __init__(self):
        self.graphs = 0

    def __call__(self, graph, inputs):
        self.graphs += 1
        return graph.forward


def images(seed: int, batch: int = 12) -> torch.Tensor:
    return torch.randn(batch, 16, generator=torch.Generator().manual_seed(seed))


def test_the_systems_below_are_all_that_there_are():
    assert {(p.model, p.guide) for p in PRESETS.values()} <= set(SYSTEMS)
    assert set(CASES) >= EACH and {o for *_, o in EACH} == set(OBJECTIVES)


@pytest.mark.parametrize(
    ("model", "guide", "objective"),
    [case if case in EACH else pytest.param(*case, marks=pytest.mark.slow) for case in CASES],
)
def test_one_graph_that_gives_the_eager_losses_and_gradients(model, guide, objective):
    vae = pair(model, guide)
    step = make_step(vae, OBJECTIVES[objective], clip=5.0)
    x, betas = images(1), step.betas
    counting = Counting()
    run = compiled.compile_graph(trace(step.function, images(0)), counting)
    parameters = [p.detach() for p in step.parameters]
    for beta in (0.6, 0.0, 1.2):  # betas are arguments: another value is no other graph
        for b in betas:
            b.fill_(beta)
        torch.manual_seed(7)
        eager = step.function(betas, x, step.tally)
        torch.manual_seed(7)
        ours = run(parameters, betas, x, step.tally)
        torch.testing.assert_close(ours[2], eager[2], rtol=1e-5, atol=1e-5)
        for name, a, b in zip(step.function.trained, ours[0], eager[0], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5 * float(b.norm()) + 1e-7, msg=name)
    assert counting.graphs == 1


def test_a_graph_of_aliased_examples_would_be_wrong_and_is_not_made():
    """One tensor in two arguments is one input to the tracer: the second argument is then ignored."""
    from torch.fx.experimental.proxy_tensor import make_fx

    one = torch.ones(3)
    aliased = make_fx(lambda a, b: a - 2 * b)(one, one)
    assert not torch.equal(aliased(torch.ones(3), torch.zeros(3)), torch.ones(3))  # the trap is there
    step = make_step(small_pair(), hvae.ELBO())
    graph = trace(step.function, images(0))
    x, tally = images(1), step.tally
    run = stepping(step.function)
    for z1, z2 in ((0.0, 1.0), (1.0, 0.0)):  # two betas that were equal when traced
        betas = [torch.tensor(z1), torch.tensor(z2)]
        torch.manual_seed(0)
        expected = run([p.detach() for p in step.parameters], betas, x, tally)[2]
        torch.manual_seed(0)
        torch.testing.assert_close(graph([p.detach() for p in step.parameters], betas, x, tally)[2], expected)


def train(**options):
    vae = small_pair()
    history = fit(vae, small_data(), **QUICK | dict(steps=60, beta={"z2": "0:0,50:1"}) | options).history
    return vae, history


def test_a_compiled_run_is_the_eager_run_to_rounding_and_draws_its_random_numbers():
    """Through the real compiler. Rounding grows over the steps, so the parameters are compared after 60 of them."""
    (eager, one), (ours, other) = train(compile=False), train(compile=True)
    assert "compile_seconds" not in one.attrs and other.attrs["compile_seconds"] > 0
    np.testing.assert_allclose(other.bound, one.bound, rtol=1e-3)
    np.testing.assert_allclose(other.grad_norm, one.grad_norm, rtol=1e-2)
    for (name, p), q in zip(eager.named_parameters(), ours.parameters(), strict=True):
        assert (q - p).norm() <= 0.03 * p.norm() + 1e-3, (
            name
        )  # as wholes: Adam moves elements without gradient by rounding
    moved = [not torch.equal(p, q) for p, q in zip(small_pair().parameters(), ours.parameters(), strict=True)]
    assert any(moved)


def test_a_compiled_run_that_is_interrupted_ends_bit_identical(tmp_path):
    whole, _ = train(compile=True, out=tmp_path / "whole")
    train(compile=True, out=tmp_path / "run", on_step=lambda step, x: ask_to_stop("SIGTERM") if step == 22 else None)
    assert RunDirectory.open(tmp_path / "run").latest().step == 23
    resumed, history = train(out=tmp_path / "run", resume=True)  # compile="auto": as the run began
    assert history.attrs["compile_seconds"] > 0
    assert all(torch.equal(p, q) for p, q in zip(whole.parameters(), resumed.parameters(), strict=True))


def test_short_runs_are_not_compiled_and_long_ones_are(monkeypatch):
    calls = []
    monkeypatch.setattr("pyro_hvae.training.training_loop.compile_step", lambda step, x: calls.append(x) or step.eager)
    train()
    assert not calls
    monkeypatch.setattr("pyro_hvae.training.fit.COMPILE_FROM", 60)
    train()
    assert len(calls) == 1
    train(compile=False)
    assert len(calls) == 1


def outer(event):
    while event.cpu_parent is not None and event.cpu_parent.name.startswith("aten::"):
        event = event.cpu_parent
    return event


@pytest.mark.parametrize(("guide", "gradient"), [("top_down", "standard"), ("ladder", "rao_blackwell")])
def test_nothing_in_the_traced_graph_waits_for_a_number(guide, gradient):
    step = make_step(pair("markov", guide), hvae.ELBO(gradient=gradient), clip=1e6, skip=1e9)
    called = {str(node.target) for node in trace(step.function, images(0)).graph.nodes if node.op == "call_function"}
    assert len(called) > 20
    assert not {name for name in called if any(w in name for w in ("_local_scalar_dense", "equal.default", "nonzero"))}


@pytest.mark.slow
@pytest.mark.parametrize(("guide", "gradient", "most"), [("top_down", "standard", 80), ("ladder", "rao_blackwell", 45)])
def test_no_host_synchronisation_and_few_operations_in_a_compiled_step(guide, gradient, most):
    """TDVAE20 at its published size and batch: few dispatched operations a step, of which none waits."""
    vae = hvae.build("TDVAE20", guide=guide, seed=0)
    step = make_step(vae, hvae.ELBO(gradient=gradient), clip=1e6, skip=1e9)
    x = torch.randn(400, 400)
    advance = compile_step(step, x)
    step(x, advance)
    with profile(activities=[ProfilerActivity.CPU]) as recorded:
        step(x, advance)
    events = [e for e in recorded.events() if e.name.startswith("aten::")]
    outermost = [e.name for e in events if outer(e) is e]
    assert 20 < len(outermost) <= most, outermost
    # The fused update on a CPU reads its learning rate as a number, on CUDA by its pointer: nothing to wait for in either.
    waiting = [e for e in events if e.name in ("aten::_local_scalar_dense", "aten::equal", "aten::nonzero")]
    assert all("_fused_adam_" in outer(e).name for e in waiting), [outer(e).name for e in waiting]


def test_floating_point_operations_of_a_step_that_shares_work_between_particles():
    """TDVAE20, batch 400: 50.1 GF a step of 10 particles where nothing is shared, 43.3 with one bottom-up pass."""
    vae = hvae.build("TDVAE20", seed=0)
    counts = []
    for bound in (hvae.ELBO(), hvae.ImportanceWeightedELBO(10)):
        step = make_step(vae, bound)
        step(torch.randn(400, 400))
        with FlopCounterMode(display=False) as counter:
            step(torch.randn(400, 400))
        counts.append(counter.get_total_flops() / 1e9)
    assert counts[0] < 5.1 and 30 < counts[1] <= 38


# -- where a step cannot be compiled


class Branching(Program):
    """A model whose course depends on the values of its parameters."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner
        self.config = {}

    def forward(self, x):
        if self.inner.to_image.weight.sum() > 1e9:
            raise AssertionError
        return self.inner(x)


class Wandering(Branching):
    """A model that draws on Python's random numbers."""

    def forward(self, x):
        return self.inner(x * (1 + random.random()))


def pair_with(kind) -> hvae.HVAE:
    vae = small_pair()
    return hvae.HVAE(kind(vae.model), vae.guide, pixels=16)


@pytest.mark.parametrize(("kind", "says"), [(Branching, "cannot be traced"), (Wandering, "depend on something beside")])
def test_what_cannot_be_compiled_is_trained_eagerly_with_one_warning(kind, says, monkeypatch):
    monkeypatch.setattr(
        compiled, "compile_graph", lambda graph, backend: graph
    )  # what is traced is right or wrong already
    options = QUICK | dict(steps=20)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        monkeypatch.setattr("pyro_hvae.training.fit.COMPILE_FROM", 20)
        run = fit(pair_with(kind), small_data(), **options)
    ours = [w for w in caught if "compilation" in str(w.message)]
    assert len(ours) == 1 and says in str(ours[0].message), [str(w.message) for w in caught]
    assert run.step == 20 and "compile_seconds" not in run.history.attrs
    with pytest.raises(HVAEError, match=f"compile=True: .*{says}.*compile=False"):
        fit(pair_with(kind), small_data(), **options, compile=True)


def test_pyros_objectives_are_not_compiled_and_the_reason_is_their_sync():
    with pytest.raises(HVAEError, match="Trace_ELBO of Pyro fetches its loss from the device"):
        train(compile=True, objective=infer.Trace_ELBO(), beta=1)


def test_a_missing_compiler_is_named(monkeypatch):
    def without(graph, backend):
        def run(*arguments):
            raise RuntimeError("No working C++ compiler found in cpp.cxx: g++")

        return run

    monkeypatch.setattr(compiled, "compile_graph", without)
    with pytest.raises(NotCompilable, match=r"torch.compile failed \(RuntimeError: No working C\+\+ compiler"):
        compile_step(make_step(small_pair(), hvae.ELBO()), images(0))


def test_options_that_make_no_sense_are_refused():
    with pytest.raises(HVAEError, match="compile must be True, False or 'auto', got 'always'"):
        train(compile="always")
    with pytest.raises(HVAEError, match="'tf32' is a mode of CUDA"):
        train(precision="tf32")
    with pytest.raises(HVAEError, match="precision 'half'"):
        train(precision="half")


# -- precision


def test_bfloat16_changes_the_bound_a_little_and_float32_not_at_all():
    exact, plain, rough = (train(precision=p)[1].bound.values for p in ("float32", "float32", "bfloat16"))
    np.testing.assert_array_equal(exact, plain)
    difference = np.abs(rough - exact) / np.abs(exact)
    assert 0 < difference.max() < 0.05


# -- a CUDA graph


class Recorded:
    """Stands in for torch.cuda.CUDAGraph: replays the call that was captured."""

    def __init__(self):
        self.call, self.replays = None, 0

    def replay(self):
        self.replays += 1
        self.call()


def test_a_captured_step_trains_on_every_batch_it_is_given(monkeypatch):
    """On a CPU, with a stand-in for the graph that replays the step on whatever lies in its captured input."""
    from contextlib import contextmanager

    graphs = []
    ours, alone = make_step(small_pair(), hvae.ELBO()), make_step(small_pair(), hvae.ELBO())
    replayed = compiled.CudaGraph(ours)

    @contextmanager
    def capture(graph):
        graphs.append(graph)
        inner = replayed.take
        replayed.take = lambda x: setattr(graph, "call", lambda: inner(x))  # nothing is carried out while capturing
        yield
        replayed.take = inner

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    for step in (replayed, alone):
        torch.manual_seed(0)
        for i in range(8):
            step(images(i))
    assert len(graphs) == 1 and graphs[0].replays == 8 - compiled.WARM_UP
    # Adam refuses to be captured without, and warns of every uncaptured step with it.
    assert ours.optimizer.param_groups[0]["capturable"] and not alone.optimizer.param_groups[0]["capturable"]
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters, alone.parameters, strict=True))


@pytest.mark.parametrize("where", ["begin", "step", "end"])
def test_a_capture_that_fails_is_one_warning_and_the_compiled_step_goes_on(monkeypatch, where):
    from contextlib import contextmanager

    ours, alone = make_step(small_pair(), hvae.ELBO()), make_step(small_pair(), hvae.ELBO())
    replayed = compiled.CudaGraph(ours)

    @contextmanager
    def capture(graph):
        inner = replayed.take
        if where == "begin":
            raise RuntimeError("CUDA error: out of memory")
        replayed.take = fail if where == "step" else lambda x: None  # nothing is carried out while capturing
        try:
            yield
        finally:
            replayed.take = inner
        if where == "end":
            raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    def fail(x):
        raise RuntimeError("CUDA error: operation not permitted when stream is capturing")

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Recorded)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    with pytest.warns(UserWarning, match="without a CUDA graph.*CUDA error") as warned:
        for step in (replayed, alone):
            torch.manual_seed(0)
            for i in range(8):
                step(images(i))
    assert len(warned) == 1
    assert not ours.optimizer.param_groups[0]["capturable"]
    assert all(torch.equal(p, q) for p, q in zip(ours.parameters, alone.parameters, strict=True))


@pytest.mark.gpu
def test_on_a_gpu_the_whole_step_is_one_graph_and_trains_as_the_eager_step():
    (eager, one), (ours, other) = train(device="cuda", compile=False), train(device="cuda", compile=True)
    np.testing.assert_allclose(other.bound, one.bound, rtol=1e-3)
    for p, q in zip(eager.parameters(), ours.parameters(), strict=True):
        assert (q - p).norm() <= 0.05 * p.norm() + 1e-3


def test_parameters_without_a_gradient_stay_as_they_are():
    vae = small_pair()
    vae.guide.spare = nn.Linear(2, 2)
    before = vae.guide.spare.weight.detach().clone()
    step = make_step(vae, hvae.ELBO())
    step(images(1), compile_step(step, images(0), backend="eager"))
    assert torch.equal(vae.guide.spare.weight, before) and step.fetch().first_bad is None
