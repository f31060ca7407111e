"""Tensor maths that every participant must compute to the same bits, without I/O.

This is the reference: plain torch and numpy. A faster kernel is right when it equals it bit for bit.
"""

from kernels.compress import compress, fold, residual
from kernels.frames import FrameError, decode, encode, max_encoded_bytes
from kernels.grid import FRAME_TILES, TILE, TILE_ROWS, Grid
from kernels.outer import (
    Rule,
    Saved,
    aggregate_,
    capped,
    clip_weights,
    norm,
    perturb_,
    restore_,
    scale_caps,
)
from kernels.quantiser import HI, LO, MID, SCALES, choose_scales, dequantise, quantise, scale_values
from kernels.update import SparseUpdate

__all__ = [
    "FRAME_TILES",
    "HI",
    "LO",
    "MID",
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
