"""Where experience comes from; knows nothing of ours."""

from .make import EnvSource as EnvSource
from .make import Vectorization as Vectorization
from .make import make_vec as make_vec

__all__ = ["EnvSource", "Vectorization", "make_vec"]
