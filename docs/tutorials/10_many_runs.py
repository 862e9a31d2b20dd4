# ---
# jupyter:
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Many runs: ensembles, sweeps, processes, clusters
#
# | you have | use |
# |---|---|
# | several seeds or betas of one architecture | `fit_ensemble`: one compiled step for all |
# | a grid of anything | `sweep`: a run each, resumable, on this machine or a dask cluster |
# | one large run and several GPUs or processes | `torchrun` |

# %%
import pyro_hvae as hvae

data = hvae.stimuli.natural_patches(20, train=4_000, test=300)

# %% [markdown]
# ## An ensemble
#
# Members are stacked, and each ends as it would alone, to rounding. `compile=False` since this is a short one.

# %%
ensemble = hvae.fit_ensemble(
    "LinearVAE20", data, seeds=range(3), steps=60, learning_rate=1e-3, evaluate_every=30, compile=False, progress=False
)
ensemble.history["test_elbo"].to_pandas().round(1)

# %% [markdown]
# ## A sweep
#
# Every point of a grid, in worker processes. The call can be stopped and repeated: what is finished is not trained again.

# %%
if __name__ == "__main__":  # worker processes import the script that starts them
    results = hvae.sweep(
        {"preset": "TDVAE20", "steps": 20, "learning_rate": 1e-3, "start": "linear_regime"},
        {"dim_z2": [5, 10], "seed": [0, 1]},
        data,
        out="sweep",
        workers=1,
        progress=False,
    )
    print(results["test_elbo"].to_series().round(1))

# %% [markdown]
# The result is an `xarray.Dataset` whose dims are the axes: `results["active_z2"].mean("seed")`. With `export=1000` each run gets a posterior file, and `pyro-hvae analyse sweep/*/posterior.nc` compares them.
#
# ## On a cluster
#
# Give `sweep` the address of a dask scheduler, `scheduler="tcp://host:8786"`, or a `dask.distributed.Client`; the directory must be one that all workers see. On Slurm, `dask_jobqueue.SLURMCluster` makes
# such a client. The tests of this package run sweeps against a local scheduler.
#
# ## One run in several processes
#
#     torchrun --nproc-per-node 2 -m -- pyro_hvae train TDVAE20 --recipe fast --out runs/two
#
# Every process takes its share of each batch; the run is that of one process to rounding. [Sweeps](../sweeps.md) and [speed](../benchmarks.md) have the details and the measurements.
