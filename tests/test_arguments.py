"""Arguments: numbers of numpy and torch, and what is of another kind than the annotation says."""

import json
import os
from collections.abc import Mapping, Sequence
from typing import Literal

import numpy as np
import pytest
import torch
from small import small_data

import pyro_hvae as hvae
from pyro_hvae.arguments import as_annotated, checked, contiguous, seed_of, whole_number
from pyro_hvae.errors import HVAEError
from pyro_hvae.published.schedules import Schedule

SCALARS = [np.int64, np.uint8, lambda v: np.array(v), torch.tensor, lambda v: torch.tensor(v, dtype=torch.int8)]


@pytest.mark.parametrize("scalar", SCALARS)
def test_whole_numbers_of_numpy_and_torch_become_pythons(scalar):
    found = whole_number("steps", scalar(20), 1)
    assert type(found) is int and found == 20 and type(seed_of(scalar(3))) is int


@pytest.mark.parametrize(
    "value",
    [
        True,
        np.True_,
        torch.tensor(True),
        1.0,
        np.float64(2),
        "3",
        None,
        [4],
        np.array([5]),
        np.datetime64(5, "s"),
        0,
        -1,
    ],
)
def test_what_is_no_whole_number_is_named(value):
    with pytest.raises(HVAEError, match="steps must be a whole number of at least 1, got "):
        whole_number("steps", value, 1)


@pytest.mark.parametrize(
    ("value", "hint", "expected"),
    [
        (np.float32(0.5), float | None, 0.5),
        (torch.tensor(2.0), float, 2.0),
        (3, float, 3),
        (np.bool_(True), bool, True),
        (np.str_("a"), str, "a"),
        (None, int | None, None),
        (range(3), Sequence[int], (0, 1, 2)),
        (torch.tensor([4, 5]), Sequence[int], (4, 5)),
        ({"z1": np.float64(1)}, float | str | Schedule | Mapping[str, float], {"z1": 1.0}),
        (np.int16(7), int | Sequence[int], 7),
        ("auto", Literal["auto", "cpu"], "auto"),
    ],
)  # fmt: skip
def test_values_come_out_as_pythons(value, hint, expected):
    found = as_annotated("value", value, hint)
    assert found == expected and type(found) is type(expected)


def test_a_tensor_that_may_be_changed_later_stays_a_tensor():
    beta = torch.tensor(0.5)
    assert as_annotated("beta", beta, float | torch.Tensor) is beta


@pytest.mark.parametrize(
    ("value", "hint", "message"),
    [
        ("1e-3", float, "rate must be a number, got '1e-3'"),
        (1j, float | None, "rate must be a number or None, got 1j"),
        (10**400, float, "rate must be a number, got 1000"),
        ("ab", Sequence[str], r"rate must be a sequence \(each a text\), got 'ab'"),
        ([1, "b"], Sequence[int], r"rate must be a sequence \(each a whole number\), got 'b' \(in \[1, 'b'\]\)"),
        ({"z1": "x"}, Mapping[str, float], "rate must be a mapping from a text to a number, got 'x'"),
        (3, str | os.PathLike[str], "rate must be a path, got 3"),
        ("a\0b", str | os.PathLike[str], "rate must be a path, got 'a"),
        (1, bool, "rate must be True or False, got 1"),
        ("cpus", Literal["auto", "cpu"], "unknown rate 'cpus'; did you mean 'cpu'"),
        (np.zeros(3), torch.Tensor, r"rate must be Tensor, got array\(\[0"),
    ],
)
def test_other_kinds_are_refused_with_what_was_expected(value, hint, message):
    with pytest.raises(HVAEError, match=message):
        as_annotated("rate", value, hint)


def test_unknown_names_of_arguments_stay_type_errors():
    @checked
    def f(a: int, *, b: float = 1) -> float:
        return a + b

    assert f(np.int64(1), b=torch.tensor(0.5)) == 1.5
    with pytest.raises(TypeError, match="unexpected keyword argument 'c'"):
        f(1, c=2)


@pytest.mark.parametrize("one", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_a_run_from_numbers_of_others_is_the_same_run(one, tmp_path):
    """All of build, fit, load and export with numpy's or torch's numbers: same weights, files as of Python's."""
    runs = []
    for name, number in (("python", int), ("other", one)):
        half = (
            (lambda v: v) if number is int else lambda v, n=number: np.float64(v) if n is np.int64 else torch.tensor(v)
        )
        vae = hvae.build(
            "TDVAE20", pixels=number(16), dim_z1=number(5), dim_z2=number(3), noise=half(0.5), seed=number(2)
        )
        out = tmp_path / name
        run = hvae.fit(
            vae, small_data(), steps=number(3), batch=number(20), clip=half(1.0), skip=half(1e6), learning_rate=half(2**-10),
            beta={"z2": half(0.5)}, seed=number(4), log_every=number(1), evaluate_every=number(2), evaluate_images=number(30),
            checkpoint_every=number(2), objective=hvae.RenyiELBO(half(0.5), number(2)), out=out, device="cpu", progress=False,
        )  # fmt: skip
        assert run.step == 3
        tree = hvae.export_posterior(
            hvae.load(out), small_data(), draws=number(4), resample=number(3), moment_draws=number(4), prior_samples=number(2),
            units=[number(0), number(1)], receptive_fields=number(2), evidence=number(5), evidence_images=number(3),
            seed=number(1), path=tmp_path / f"{name}.nc",
        )  # fmt: skip
        runs.append((json.loads((out / "config.json").read_text()), tree.load()))
    configs, trees = zip(*runs, strict=True)
    assert all(configs[0][key] == configs[1][key] for key in ("vae", "fit", "objective", "data"))
    assert trees[0]["posterior_moments"].to_dataset().equals(trees[1]["posterior_moments"].to_dataset())
    assert trees[0].attrs["seed"] == trees[1].attrs["seed"] == 1


@pytest.mark.parametrize("one", [np.int64, torch.tensor], ids=["numpy", "torch"])
def test_samplers_and_stimuli_take_numbers_of_others(one, tmp_path):
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=4, dim_z2=2, seed=0)
    x = small_data().test["x"].values[:3]
    found, expected = (
        (
            hvae.evidence_importance_sampling(vae, x, n(20), chunk=n(7), seed=n(0)).log_evidence.values,
            hvae.gibbs(vae.model, x, num_samples=n(4), warmup=n(2), chains=n(2), thin=n(1), seed=n(0))["posterior"].z1.values,
            hvae.audit(vae, x, units=n(2), moment_draws=n(4), draws=n(30), resample=n(2), num_samples=n(8), warmup=n(2),
                       chains=n(2), seed=n(0))["guide"].z1_mean.values,
            hvae.stimuli.natural_patches(n(6), train=n(300), test=n(20), seed=n(1), downsample=n(4)).train["x"].values,
        )
        for n in (one, int)
    )  # fmt: skip
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_ensembles_and_sweeps_take_numbers_of_others(tmp_path):
    from pyro_hvae.sweeps.design import Design

    pair = dict(
        seeds=np.arange(2), steps=np.int64(2), dims=torch.tensor([2]), particles=[np.int64(1)], batch=np.int32(20)
    )
    data = hvae.stimuli.natural_patches(20, train=400, test=20)
    ensemble = hvae.fit_ensemble("TDVAE20", data, **pair, out=tmp_path, compile=False, progress=False, device="cpu")
    assert [m.name for m in ensemble.members] == ["seed=0-dim_z2=2-particles=1", "seed=1-dim_z2=2-particles=1"]
    design = Design.of(
        {"preset": "TDVAE20", "steps": np.int64(3), "clip": torch.tensor(1.0)},
        {"seed": np.arange(2), "dim_z2": torch.tensor([3])},
    )
    assert json.loads(json.dumps(design.to_dict())) == {
        "settings": {"preset": "TDVAE20", "steps": 3, "clip": 1.0},
        "axes": {"seed": [0, 1], "dim_z2": [3]},
    }


@pytest.mark.parametrize("seed", [-1, 2**32, 0.5, "0"])
def test_seeds_that_no_generator_takes_are_refused(seed):
    with pytest.raises(HVAEError, match="seed must be a whole number"):
        hvae.fit(hvae.build("LinearVAE20", pixels=16, dim_z1=4), small_data(), steps=1, seed=seed, progress=False)


def images():
    x = small_data().test["x"].values[:6]
    return x, {
        "big-endian": x.astype(">f4"),
        "reversed twice": x[::-1].copy()[::-1],
        "Fortran order": np.asfortranarray(x),
        "(image, y, x)": x.reshape(-1, 4, 4),
        "tensor": torch.from_numpy(x),
        "float64 of the same values": x.astype(np.float64),
        "read only": np.frombuffer(x.tobytes(), np.float32).reshape(x.shape),
    }


def test_a_row_that_numpy_takes_for_contiguous_is_one_for_torch():
    """One image, reversed along the images: its stride is negative."""
    x = np.arange(16, dtype=np.float16).reshape(1, 16)
    assert torch.from_numpy(contiguous(x[::-1])).tolist() == x.tolist()


@pytest.mark.parametrize("form", list(images()[1]))
def test_images_are_read_wherever_they_lie_in_memory(form):
    x, forms = images()
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=4, dim_z2=2, seed=0)
    options = dict(moment_draws=4, prior_samples=1, receptive_fields=0)
    expected, found = (hvae.export_posterior(vae, images, **options) for images in (x, forms[form]))
    np.testing.assert_array_equal(found["observed_data"].x, x)
    np.testing.assert_allclose(found["bound"].elbo, expected["bound"].elbo, rtol=1e-6)
    np.testing.assert_allclose(
        *(hvae.evidence_importance_sampling(vae, i, 30, seed=0).log_evidence for i in (x, forms[form])), rtol=1e-6
    )


@pytest.mark.parametrize("one", [lambda x: x[0], lambda x: x[0].reshape(4, 4), lambda x: torch.from_numpy(x[0])])
def test_one_image_is_a_set_of_one(one):
    x, _ = images()
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=4, dim_z2=2, seed=0)
    tree = hvae.export_posterior(vae, one(x), moment_draws=2, prior_samples=1, receptive_fields=0)
    np.testing.assert_array_equal(tree["observed_data"].x, x[:1])
    assert hvae.evidence_importance_sampling(vae, one(x), 30, seed=0).sizes["image"] == 1


SHAPES = [np.zeros(shape) for shape in ((2, 15), (2, 5, 5), (2, 2, 4, 4), (0,), (0, 16))]


@pytest.mark.parametrize("bad", [*SHAPES, np.zeros((2, 16), complex), np.full((2, 16), "a")])
def test_what_are_no_images_is_refused(bad):
    vae = hvae.build("TDVAE20", pixels=16, dim_z1=4, dim_z2=2, seed=0)
    for ask in (hvae.export_posterior, lambda v, x: hvae.evidence_importance_sampling(v, x, 30)):
        with pytest.raises(HVAEError, match="image"):
            ask(vae, bad)


def test_patches_of_other_byte_orders_are_trained_on_as_they_are(tmp_path):
    from dataclasses import replace

    data = small_data()
    foreign = replace(
        data,
        train=data.train.assign(x=(("image", "pixel"), data.train["x"].values.astype(">f4"))),
        test=data.test.assign(x=(("image", "pixel"), data.test["x"].values[::-1])),
        provenance={"kind": np.str_("made"), "numbers": np.arange(2), "from": tmp_path},
    )
    assert foreign.provenance == {"kind": "made", "numbers": [0, 1], "from": str(tmp_path)}
    ours, theirs = (
        hvae.fit(
            hvae.build("LinearVAE20", pixels=16, dim_z1=4, seed=0), d, steps=2, batch=20, progress=False, device="cpu"
        )
        for d in (data, foreign)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours.vae.parameters(), theirs.vae.parameters(), strict=True))


@pytest.mark.parametrize("refused", [dict(train="modle"), dict(batch=10**6), dict(compile="yes"), dict(precision="tf32"),
                                     dict(seed=2.5), dict(objective="elbo"), dict(compile=True)])  # fmt: skip
def test_nothing_is_left_of_a_run_that_was_refused(refused, tmp_path, monkeypatch):
    if refused.get("compile") is True:
        from pyro_hvae.training import training_loop
        from pyro_hvae.training.tracing import NotCompilable

        monkeypatch.setattr(
            training_loop, "compile_step", lambda *a: (_ for _ in ()).throw(NotCompilable("no compiler"))
        )
    out = tmp_path / "run"
    with pytest.raises(HVAEError):
        vae = hvae.build("LinearVAE20", pixels=16, dim_z1=4)
        hvae.fit(vae, small_data(), **{"steps": 2, **refused}, out=out, progress=False, device="cpu")
    assert not out.exists()


def test_nothing_is_left_of_an_ensemble_that_was_refused(tmp_path):
    data = hvae.stimuli.natural_patches(20, train=400, test=20)
    with pytest.raises(HVAEError, match="particles must be a whole number of at least 1"):
        hvae.fit_ensemble(
            "TDVAE20", data, steps=2, batch=20, particles=[2, 0], out=tmp_path / "e", progress=False, device="cpu"
        )
    assert not [p for p in tmp_path.rglob("*") if p.is_file()]
