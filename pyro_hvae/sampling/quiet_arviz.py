"""ArviZ without the notice on its own refactor, which version 0.23 gives once a day to whoever imports it."""

import warnings

with warnings.catch_warnings():
    warnings.filterwarnings("ignore", message=r"\s*ArviZ is undergoing", category=FutureWarning)
    import arviz

__all__ = ["arviz"]
