"""Tensor maths that every participant must compute to the same bits, without I/O.

`muster.kernels.reference` says what is right, in plain torch. `muster.kernels.small`, `muster.kernels.fast` and
`muster.kernels.cuda` equal it bit for bit, and take over, behind the same functions, by size and device
(`muster.kernels.backend`). A `Slice` makes all of it work on a range of bands, where no machine holds the whole model.

A second implementation, or a tool beside this one, may rely on what is listed here: it keeps its name and its bits for
as long as the protocol has its version, raises ValueError where arguments do not fit together and FrameError where
bytes are no frames. Everything else that can be imported may change in any release.

    Grid, TILE, TILE_ROWS, FRAME_TILES
        how tensors fall into tiles, bands and frames
    Codec, VERSIONS
        what a submission may say of a grid's tensors, and how it is written
    Slice, cover, join
        the bands of the tensors that are held here, and updates cut for them and put together again
    SparseUpdate
        what a submission says: positions, codes and scales of each tensor
    fold, compress, compress_, residual
        Δ and what was left out before, to an update and what is left out now
    SCALES, choose_scales, scale_values, quantise, dequantise
        values in two bits
    encode, decode, max_encoded_bytes, FrameError
        an update as bytes
    norm, norms_of, clip_weights, scale_caps, capped
        what an update may weigh
    norm_part, norm_of, medians_of, clip_of, scale_peaks, caps_of
        the same where each holds a slice: what each gives, and what it comes to
    aggregate_, perturb_, undo_, Undo, Rule
        θ moved by a round's updates, or by one of them for as long as it is measured, and put back to the bit
"""

from muster.kernels.clip import (
    capped,
    caps_of,
    clip_of,
    clip_weights,
    medians_of,
    norm,
    norm_of,
    norm_part,
    norms_of,
    scale_caps,
    scale_peaks,
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
    "clip_of",
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
    "medians_of",
    "norm",
    "norm_of",
    "norm_part",
    "norms_of",
    "perturb_",
    "quantise",
    "residual",
    "scale_caps",
    "scale_peaks",
    "scale_values",
    "undo_",
]
