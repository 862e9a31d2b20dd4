"""Programs that users write: whatever Pyro and PyTorch allow is trained right, compiled or not, or refused with the reason."""

import threading
import warnings
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import infer
from pyro.nn import PyroModule, PyroParam
from small import small_data, small_pair
from torch import nn
from user_programs import Guide, Model, mixed

import pyro_hvae as hvae
from pyro_hvae.errors import HVAEError
from pyro_hvae.published import Training
from pyro_hvae.training import tracing as compiled
from pyro_hvae.training.fit import fit
from pyro_hvae.training.fit import resume as resume_run
from pyro_hvae.training.run_directory import RunDirectory, load
from pyro_hvae.training.tracing import NotCompilable, check_on_device, compare, compile_graph, lift_noise, trace
from pyro_hvae.training.training_step import TrainingStep

QUICK = dict(steps=20, batch=20, learning_rate=1e-2, log_every=10, evaluate_every=1000, checkpoint_every=1000,
             progress=False, device="cpu")  # fmt: skip


@pytest.fixture(autouse=True)
def _clean():
    pyro.clear_param_store()
    yield
    pyro.clear_param_store()


@pytest.fixture
def traced(monkeypatch):
    """What is traced is right or wrong already; no compiler is needed to see it."""
    monkeypatch.setattr(compiled, "compile_graph", lambda graph, backend: graph)


class Einsum(Model):
    """Its gradient of ``A`` is laid out transposed."""

    def __init__(self):
        super().__init__()
        self.linear, self.A = None, nn.Parameter(0.3 * torch.randn(16, 4))

    def image_mean(self, z):
        return torch.einsum("...z,pz->...p", z, self.A)


class Tied(Guide):
    """Infers z1 by the model's own weights, transposed."""

    def __init__(self, weight):
        super().__init__()
        self.location, self.weight = None, weight

    def forward(self, x):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(x @ self.weight, self.log_scale(self.net(x)).exp()).to_event(1))


class Counting(Guide):
    """Anneals by a counter of its own."""

    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, x):
        self.calls += 1
        return super().forward(x / (1 + 1 / self.calls))


class ByPyro(PyroModule):
    """A guide with a constrained parameter."""

    def __init__(self):
        super().__init__()
        self.location = PyroModule[nn.Linear](16, 4)
        self.scale = PyroParam(torch.ones(4), constraint=dist.constraints.positive)

    def forward(self, x):
        with pyro.plate("image", len(x), dim=-1):
            pyro.sample("z1", dist.Normal(self.location(x), self.scale).to_event(1))


class FromStore(Model):
    def image_mean(self, z):
        return self.linear(z) * pyro.param("gain", torch.tensor(1.0))


def tied():
    model = Model()
    return hvae.HVAE(model, Tied(model.linear.weight))


PAIRS = {
    "plain": mixed,
    "masked by their pixels": lambda: hvae.HVAE(Model(lambda x: x[:, 0] > 0), Guide()),
    "masked by their place": lambda: hvae.HVAE(Model(lambda x: torch.arange(len(x)) % 2 == 0), Guide()),
    "scaled": lambda: hvae.HVAE(Model(scale=0.3), Guide(scale=0.3)),
    "subsampled": lambda: hvae.HVAE(Model(full=500), Guide(full=500)),
    "tied": tied,
    "dropout": lambda: mixed(nn.Dropout(0.3)),
    "einsum": lambda: hvae.HVAE(Einsum(), Guide()),
    "double": lambda: small_pair().double(),
}


def run(make, **options):
    torch.manual_seed(0)
    return fit(make(), small_data(), **QUICK | options)


def assert_same(a, b, **tolerance):
    for (name, p), q in zip(a.vae.state_dict().items(), b.vae.state_dict().values(), strict=True):
        torch.testing.assert_close(q, p, msg=name, **tolerance)


@pytest.mark.parametrize(
    "objective", [hvae.ELBO(), hvae.ImportanceWeightedELBO(3, gradient="dreg")], ids=["elbo", "dreg"]
)
@pytest.mark.parametrize("name", PAIRS)
def test_a_traced_run_is_the_eager_run(name, objective, traced):
    eager, ours = (run(PAIRS[name], objective=objective, compile=compile) for compile in (False, True))
    assert_same(eager, ours)
    assert "compile_seconds" in ours.history.attrs


@pytest.mark.parametrize("train", ["guide", "model"])
def test_parameters_that_both_share_are_trained_with_either(train, traced):
    torch.manual_seed(0)
    before = tied().model.linear.weight
    eager, ours = (run(tied, train=train, compile=compile) for compile in (False, True))
    assert_same(eager, ours)
    assert ours.vae.guide.weight is ours.vae.model.linear.weight and not torch.equal(before, ours.vae.guide.weight)


def test_transposed_gradients_reach_the_elements_they_belong_to():
    """Of an einsum; the fused update would take them for contiguous."""
    torch.manual_seed(0)
    vae = hvae.HVAE(Einsum(), Guide())
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    with pyro.validation_enabled(False):
        gradients, found_inf, _ = step.function((), torch.randn(20, 16), step.tally)
    assert any(g.stride() != p.stride() for g, p in zip(gradients, step.parameters, strict=True))
    others = [p.detach().clone().requires_grad_() for p in step.parameters]
    plain = torch.optim.Adam(others, lr=1e-2, foreach=False)
    for _ in range(3):
        for p, g in zip(others, gradients, strict=True):
            p.grad = g.contiguous()
        plain.step()
        step.update(gradients, found_inf)
    for p, q in zip(step.parameters, others, strict=True):
        torch.testing.assert_close(p, q)


def test_moments_of_a_transposed_parameter_are_resumed_in_its_layout(tmp_path):
    def make():
        torch.manual_seed(0)
        vae = hvae.HVAE(Einsum(), Guide())
        vae.model.A = nn.Parameter(vae.model.A.detach().T.contiguous().T)
        return vae

    whole = fit(make(), small_data(), **QUICK)
    fit(make(), small_data(), **QUICK | dict(steps=10), out=tmp_path / "run")
    assert_same(whole, fit(make(), small_data(), **QUICK, out=tmp_path / "run", resume=True), rtol=0, atol=0)


def test_double_precision_from_end_to_end():
    double = run(PAIRS["double"])
    assert all(p.dtype == torch.float64 for p in double.vae.parameters())
    np.testing.assert_allclose(run(small_pair).history.bound, double.history.bound, rtol=0.1)
    data = small_data()
    for part in (data.train, data.test):
        part["x"] = part["x"].astype("float64")
    assert fit(small_pair(), data, **QUICK).vae.model.A.dtype == torch.float32


def test_shared_parameters_are_saved_and_resumed(tmp_path):
    whole = run(tied)
    run(tied, steps=10, out=tmp_path / "run")
    assert_same(whole, run(tied, out=tmp_path / "run", resume=True), rtol=0, atol=0)
    vae = load(tmp_path / "run", vae=tied())
    assert vae.guide.weight is vae.model.linear.weight and torch.equal(vae.guide.weight, whole.vae.guide.weight)


# -- what changes from step to step


@pytest.mark.parametrize(
    ("make", "names"),
    [(lambda: mixed(nn.BatchNorm1d(8)), "guide.net.1.num_batches_tracked"),
     (lambda: hvae.HVAE(Model(), Counting()), "Counting.calls")],
)  # fmt: skip
def test_programs_that_keep_something_are_trained_eagerly(make, names, monkeypatch):
    """The attempt to compile must leave no trace in what they keep."""
    torch.manual_seed(0)
    vae = make()
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    before = [t.clone() for t in vae.state_dict().values()], getattr(vae.guide, "calls", None)
    with (
        pyro.validation_enabled(False),
        pytest.raises(NotCompilable, match=f"programs keep something.*{names}.*LayerNorm"),
    ):
        compiled.compile_step(step, torch.randn(20, 16))
    assert all(torch.equal(p, q) for p, q in zip(vae.state_dict().values(), before[0], strict=True))
    assert getattr(vae.guide, "calls", None) == before[1]
    monkeypatch.setattr("pyro_hvae.training.fit.COMPILE_FROM", 1)
    with pytest.warns(UserWarning, match=f"without compilation: the programs keep something.*{names}"):
        assert run(make).step == 20


@pytest.mark.parametrize("layer", [nn.BatchNorm1d(8), nn.Dropout(0.5)], ids=["batchnorm", "dropout"])
def test_evaluating_while_training_changes_nothing_and_uses_no_dropout(layer):
    seldom = run(lambda: mixed(type(layer)(8 if isinstance(layer, nn.BatchNorm1d) else 0.5)))
    often = run(lambda: mixed(layer), evaluate_every=1)
    assert_same(seldom, often, rtol=0, atol=0)
    assert all(module.training for module in often.vae.modules())
    half = run(lambda: mixed(nn.Dropout(0.0)), steps=1)
    all_dropped = run(lambda: mixed(nn.Dropout(1.0)), steps=1)
    assert abs(float(half.history.test_elbo[0]) - float(all_dropped.history.test_elbo[0])) < 0.5


def test_gradients_that_are_nothing_but_rounding_do_not_prevent_compiling():
    """Of a bias before a BatchNorm layer; a wrong gradient of another size does."""
    torch.manual_seed(0)
    vae = mixed(nn.BatchNorm1d(8, track_running_stats=False))
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    at = step.function.trained.index("guide.net.0.bias")

    def off(by):
        def differentiate(betas, x):
            gradients, values = step.function.differentiate(betas, x)
            gradients[at] = gradients[at] + by
            return gradients, values

        return differentiate

    before = [p.detach().clone() for p in step.parameters]
    with pyro.validation_enabled(False):
        x = torch.randn(20, 16)
        assert float(step.function.differentiate((), x)[0][at].norm()) < 1e-5
        compare(step.function, step.function.differentiate, off(1e-7), x)
        with pytest.raises(NotCompilable, match=r"gradient of guide\.net\.0\.bias differs"):
            compare(step.function, step.function.differentiate, off(1.0), x)
    assert all(torch.equal(p, q) for p, q in zip(step.parameters, before, strict=True))


# -- Pyro's parameter store


def test_constrained_parameters_in_the_global_store_are_not_compiled_away(traced):
    """Traced, they would be constants, and never trained."""

    def make():
        pyro.clear_param_store()
        return hvae.HVAE(Model(), ByPyro())

    eager = run(make)
    assert not torch.equal(eager.vae.guide.scale, torch.ones(4))
    with pytest.raises(HVAEError, match=r"compile=True: .*PyroParams.*module_local_params=True"):
        run(make, compile=True)
    with pyro.settings.context(module_local_params=True):
        assert_same(run(make, compile=False), run(make, compile=True))


def test_a_second_pair_of_pyro_modules_is_not_taken_for_one_with_pyro_param_statements():
    """The store still has the first pair's parameters under the same names."""
    for _ in range(2):
        vae = hvae.HVAE(PyroModule[Model](), ByPyro())
        before = [p.detach().clone() for p in vae.parameters()]
        fit(vae, small_data(), **QUICK)
        assert not any(torch.equal(p, q) for p, q in zip(vae.parameters(), before, strict=True))


def test_parameters_outside_the_pair_are_refused():
    with pytest.raises(HVAEError, match="FromStore takes the parameter 'gain' from pyro.param.*nn.Parameter"):
        run(lambda: hvae.HVAE(FromStore(), Guide()))


# -- nothing to train


def test_nothing_to_train_is_said():
    class Fixed(nn.Module):
        def forward(self, x):
            with pyro.plate("image", len(x), dim=-1):
                pyro.sample("z1", dist.Normal(x[:, :4], 1.0).to_event(1))

    class Detached(Model):
        def image_mean(self, z):
            return self.linear(z).detach()

    with pytest.raises(
        HVAEError, match="nothing to train: train='guide', and no parameter of Fixed requires a gradient"
    ):
        run(lambda: hvae.HVAE(Model(), Fixed()), train="guide")
    for compile in (False, True):
        with pytest.raises(HVAEError, match=r"none of the parameters that are trained \(model.linear.weight.*detached"):
            run(lambda: hvae.HVAE(Detached(), Guide()), train="model", compile=compile)
    assert run(lambda: hvae.HVAE(Model(), Fixed()), train="model").step == 20


# -- around a run


def test_no_gradients_are_left_for_others_to_add_to():
    assert all(p.grad is None for p in run(mixed).vae.parameters())


def test_a_second_run_in_another_thread_is_refused(monkeypatch):
    """Their handlers and random numbers would mix."""
    inside, go_on, found = threading.Event(), threading.Event(), []
    pairs = [mixed(), mixed()]
    monkeypatch.setattr(
        "pyro_hvae.training.training_loop.Loop.evaluate",
        lambda self: inside.set() or (go_on.wait(30) and {"test_elbo": 0.0}),
    )
    thread = threading.Thread(target=lambda: found.append(fit(pairs[0], small_data(), **QUICK)))
    thread.start()
    assert inside.wait(30)
    with pytest.raises(HVAEError, match="another thread of this process is training.*fit_ensemble"):
        fit(pairs[1], small_data(), **QUICK)
    go_on.set()
    thread.join()
    assert found[0].step == 20
    assert fit(pairs[1], small_data(), **QUICK).step == 20


def test_resume_passes_on_how_the_run_computes(tmp_path, monkeypatch):
    fit(small_pair(), small_data(), **QUICK, out=tmp_path / "run", precision="bfloat16")
    given = []
    monkeypatch.setattr(
        "pyro_hvae.training.fit.fit_with", lambda vae, data, training, **options: given.append(training)
    )
    monkeypatch.setattr("pyro_hvae.training.fit.recorded_data", lambda *arguments: small_data())
    monkeypatch.setattr(RunDirectory, "pair", lambda directory: small_pair())
    resume_run(tmp_path / "run", compile=False)
    assert given[0].precision == "bfloat16" and given[0].compile is False
    assert given[0] == replace(RunDirectory.open(tmp_path / "run").fit_config, compile=False)


def test_precision_of_pyros_objectives_is_not_ignored():
    with pytest.raises(HVAEError, match="precision='bfloat16' is for bounds of pyro_hvae"):
        run(small_pair, objective=infer.Trace_ELBO(), beta=1, precision="bfloat16")


# -- draws


def test_draws_of_a_subsampled_plate_and_of_dropout_are_lifted_in_their_order():
    torch.manual_seed(0)
    vae = hvae.HVAE(Model(full=500), Guide(nn.Dropout(0.3), full=500))
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    x = torch.randn(20, 16)
    with pyro.validation_enabled(False):
        graph = trace(step.function, x)
        noise = lift_noise(graph)
        assert [n.shape for n in noise] == [(20, 8), (500,), (20, 4)]
        torch.manual_seed(3)
        expected = step.function((), x, step.tally)[2]
    torch.manual_seed(3)
    *_, tally = graph(*(p.detach() for p in step.parameters), x, step.tally, *(n.draw() for n in noise))
    torch.testing.assert_close(tally, expected)


def test_draws_on_the_host_are_refused_where_a_replay_would_repeat_them():
    vae = hvae.HVAE(Model(full=500), Guide(full=500))
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    with pyro.validation_enabled(False):
        graph = trace(step.function, torch.randn(20, 16))
    with pytest.raises(NotCompilable, match="normal_.* draws random numbers on the CPU; give it the device"):
        check_on_device(graph)
    for node in graph.graph.nodes:
        if "normal_" in str(node.target):
            node.meta["val"] = node.meta["val"].to("meta")  # as on a device
    check_on_device(graph)  # the indices of the plate are not used


def test_a_graph_that_was_checked_for_a_device_can_be_compiled():
    """torch.compile looks nodes up by the lines of the graph's code, which must be that of the nodes that are left."""
    vae = small_pair()
    step = TrainingStep(vae, hvae.ELBO(), dict(vae.named_parameters()), {}, Training(learning_rate=1e-2))
    x, parameters = torch.randn(20, 16), [p.detach() for p in step.parameters]
    with pyro.validation_enabled(False):
        graph = trace(step.function, x)
        for node in graph.graph.nodes:
            if "uniform_" in str(node.target) or "normal_" in str(node.target):
                node.meta["val"] = node.meta["val"].to("meta")  # as on a device
        check_on_device(graph)
        torch.manual_seed(0)
        expected = step.function((), x, step.tally)[2]
        torch.manual_seed(0)
        *_, tally = compile_graph(graph, backend="eager")(parameters, [], x, step.tally)
    torch.testing.assert_close(tally, expected)


def test_no_warning_is_given_without_a_reason():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        run(mixed)
