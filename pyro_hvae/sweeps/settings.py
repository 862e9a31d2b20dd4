"""What can be set of a run in a sweep: options of the pair and of its training; without torch, for the command line."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

from pyro_hvae.errors import HVAEError
from pyro_hvae.published.options import PairOptions, Training, metadata, option


@dataclass(frozen=True, kw_only=True)
class SettingOptions(Training, PairOptions):
    """The options of one run of a sweep, as JSON values."""

    preset: str = option("", "published system, see `pyro-hvae presets`")
    learning_rate: float | str | None = None
    beta: float | str | None = None
    beta_z1: float | str | None = option(None, "beta of z1, a number or a schedule")
    beta_z2: float | str | None = option(None, "beta of z2, a number or a schedule")

    def training(self) -> Training:
        """How the run is trained, its betas by site.

        :raises HVAEError: for a beta of all sites beside one of a site.
        """
        values: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(Training)}
        by_site = {"z1": self.beta_z1, "z2": self.beta_z2}
        if given := {site: beta for site, beta in by_site.items() if beta is not None}:
            if self.beta is not None:
                raise HVAEError(f"beta is that of all sites and beta_{next(iter(given))} that of one; give one of them")
            values["beta"] = given
        return Training(**values)


SETTINGS: dict[str, str] = {name: about["help"] for name, about in metadata(SettingOptions).items()}
"""Settings and their help, in order."""
