"""Where experience comes from; knows nothing of ours."""

from .broken import BrokenEnvironmentError as BrokenEnvironmentError
from .check import Report as Report
from .check import check_env as check_env
from .make import EnvSource as EnvSource
from .make import Vectorization as Vectorization
from .make import make_vec as make_vec

__all__ = [
    "BrokenEnvironmentError",
    "EnvSource",
    "Report",
    "Vectorization",
    "check_env",
    "make_vec",
]
