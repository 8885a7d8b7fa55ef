"""Networks used by scenarios. Each is a plain function from sizes to a module; add yours to ``MODELS``."""

from fedpriv.models.networks import MODELS, build_model
from fedpriv.models.own import build_own, refuse_no_maker

__all__ = ["MODELS", "build_model", "build_own", "refuse_no_maker"]
