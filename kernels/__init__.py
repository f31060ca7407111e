"""Tensor maths that every participant must compute to the same bits, without I/O.

What is here is the reference: plain torch and numpy. `muster.kernels.fast` and `muster.kernels.cuda` are right when
they equal it bit for bit, and take over, behind the same functions, where a model is large enough to gain or is on a
GPU.

A second implementation, or a tool beside this one, may rely on what is listed here: it keeps its name and its bits for
as long as the protocol has its version, raises ValueError where arguments do not fit together and FrameError where
bytes are no frames. Everything else that can be imported may change in any release.

    Grid, TILE, TILE_ROWS, FRAME_TILES
        how tensors fall into tiles, bands and frames
    SparseUpdate
        what a submission says: positions, codes and scales of each tensor
    fold, compress, compress_, residual
        Δ and what was left out before, to an update and what is left out now
    SCALES, choose_scales, scale_values, quantise, dequantise
        values in two bits
    encode, decode, max_encoded_bytes, FrameError
        an update as bytes
    norm, clip_weights, scale_caps, capped
        what an update may weigh
    aggregate_, perturb_, Rule
        θ moved by a round's updates, or by one of them for as long as it is measured
"""

from muster.kernels.compress import compress, compress_, fold, residual
from muster.kernels.frames import FrameError, decode, encode, max_encoded_bytes
from muster.kernels.grid import FRAME_TILES, TILE, TILE_ROWS, Grid
from muster.kernels.outer import (
    Rule,
    aggregate_,
    capped,
    clip_weights,
    norm,
    perturb_,
    restore_,
    scale_caps,
)
from muster.kernels.quantiser import SCALES, choose_scales, dequantise, quantise, scale_values
from muster.kernels.update import Saved, SparseUpdate

__all__ = [
    "FRAME_TILES",
    "SCALES",
    "TILE",
    "TILE_ROWS",
    "FrameError",
    "Grid",
    "Rule",
    "Saved",
    "SparseUpdate",
    "aggregate_",
    "capped",
    "choose_scales",
    "clip_weights",
    "compress",
    "compress_",
    "decode",
    "dequantise",
    "encode",
    "fold",
    "max_encoded_bytes",
    "norm",
    "perturb_",
    "quantise",
    "residual",
    "restore_",
    "scale_caps",
    "scale_values",
]
