"""A physiologist's stimuli shown to a pair: what its units answer, as labelled files that are read without torch.

:func:`measure_physiology` writes one (:mod:`pyro_hvae.storage.physiology_file`); the analyses of it are in
:mod:`pyro_hvae.analysis`.
"""

from pyro_hvae.physiology.measure import PARTS, measure_physiology
from pyro_hvae.physiology.responses import Responses, responses, unit_responses

__all__ = ["PARTS", "Responses", "measure_physiology", "responses", "unit_responses"]
