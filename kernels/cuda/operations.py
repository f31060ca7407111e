"""The GPU programs as one of the back ends of `muster.kernels.backend`."""

from muster.kernels.cuda.compress import compress, compress_, subtract_
from muster.kernels.cuda.step import put_, step_

__all__ = ["compress", "compress_", "put_", "step_", "subtract_"]
