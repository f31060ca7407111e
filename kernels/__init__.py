"""Tensor maths that every participant must compute to the same bits, without I/O.

`muster.kernels.reference` says what is right, in plain torch. `muster.kernels.fast` and `muster.kernels.cuda` equal it
bit for bit, and take over, behind the same functions, where a model is large enough to gain or is on a GPU
(`muster.kernels.backend`). A `Slice` makes all of it work on a range of bands, where no machine holds the whole model.
"""

from muster.kernels.clip import (
    capped,
    caps_of,
    clip_weights,
    norm,
    norm_of,
    norm_part,
    scale_caps,
    scale_peaks,
    weights_of,
)
from muster.kernels.codec import VERSIONS, Codec
from muster.kernels.compress import compress, compress_, fold, residual
from muster.kernels.frames import FrameError, decode, encode, max_encoded_bytes
from muster.kernels.grid import FRAME_TILES, TILE, TILE_ROWS, Grid
from muster.kernels.quantiser import SCALES, choose_scales, dequantise, quantise, scale_values
from muster.kernels.slice import Slice, cover, join
from muster.kernels.step import Rule, aggregate_, perturb_, undo_
from muster.kernels.undo import Undo
from muster.kernels.update import SparseUpdate

__all__ = [
    "FRAME_TILES",
    "SCALES",
    "TILE",
    "TILE_ROWS",
    "VERSIONS",
    "Codec",
    "FrameError",
    "Grid",
    "Rule",
    "Slice",
    "SparseUpdate",
    "Undo",
    "aggregate_",
    "capped",
    "caps_of",
    "choose_scales",
    "clip_weights",
    "compress",
    "compress_",
    "cover",
    "decode",
    "dequantise",
    "encode",
    "fold",
    "join",
    "max_encoded_bytes",
    "norm",
    "norm_of",
    "norm_part",
    "perturb_",
    "quantise",
    "residual",
    "scale_caps",
    "scale_peaks",
    "scale_values",
    "undo_",
    "weights_of",
]
