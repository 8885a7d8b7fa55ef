"""Networks used by scenarios. Each is a plain function from sizes to a module; add yours to ``MODELS``."""

from fedpriv.models.networks import MODELS, build_model

__all__ = ["MODELS", "build_model"]
