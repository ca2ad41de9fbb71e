"""Block sizes: which tile of the work one program takes, from B, H, the type and the device.

The time loop at B 32 is bound by latency, not by arithmetic: a step is fast when many programs
each do little. So tiles are small, 4 to 32 batch rows by 8 to 32 units with all their gates, and
one program walks the whole of K (H forward, G·H backward) because splitting K would need another
exchange.
"""

import contextlib
import dataclasses
import functools
from collections.abc import Iterator

import torch
import triton

from kernels.chips import INTERPRETED, INTERPRETER, Chip

# Rows × units of a sequence program, least work first.
SEQUENCE_BLOCKS = (
    (16, 8), (16, 16), (32, 8), (32, 16), (16, 32), (64, 8), (32, 32), (64, 16), (64, 32),
)  # fmt: skip
# Tried before these, one program a multiprocessor: half as many rows are half as many bytes to
# exchange, and tensor cores have to do no more (their instructions take 16 rows, used or not).
FEW_ROWS = ((8, 8), (8, 16))
# The same without tensor cores. A thread takes 4 rows × 4 columns and reads each number once for
# four uses; that there is enough of that for all threads, K is divided into more shares than warps.
FEW_ROWS_PLAIN = ((4, 16), (4, 32), (8, 16), (8, 32))
SEQUENCE_WARPS = 4
# After all others, with twice the warps, where tensor cores' weights lie in registers only then.
TWICE_THE_WARPS = ((8, 8), (8, 16), (16, 8), (16, 16))

# Registers of a thread, of 255, that pieces on their way from L2 may take,
REGISTERS_AHEAD = 128
# and those that weights may take: the most with which nothing spilled. A program of a wavefront has
# two sets, of which its own may lie in registers, forward; backward saved gates take the room. With
# twice the warps both may.
REGISTERS_KEPT = 96
REGISTERS_KEPT_IN_WAVEFRONT = 64
# Plain multiply-adds by threads: registers that weights may take, elements of K in a vector, and
# how many vectors of each row are asked for at a time.
REGISTERS_OF_THREADS = 128
QUAD = 4
QUADS_AHEAD = 8


@dataclasses.dataclass(frozen=True)
class Tile:
    """One program's share: block_b batch rows × block_h units, walking K by block_k.

    `shares` of a piece's K have sums of their own, so that every thread has enough to do. Of a
    sequence kernel also how many pieces are asked for at a time, whether PTX may stand in it,
    whether pieces pass through shared memory on their way to the product, whether they are marked,
    so that no barrier is needed (`kernels/marks.py`), and how many sets of weights, the program's
    own first, stay in registers and not in shared memory.
    """

    block_b: int
    block_h: int
    block_k: int
    num_warps: int
    num_stages: int
    ahead: int = 1
    ptx: bool = False
    shares: int = 4
    staged: bool = True
    marked: bool = False
    in_registers: int = 0

    @property
    def name(self) -> str:
        """Rows x units, and warps where they are not the usual four."""
        warps = "" if self.num_warps == SEQUENCE_WARPS else f", {self.num_warps} warps"
        return f"{self.block_b}x{self.block_h}{warps}"


def step_tile(B: int, H: int, G: int, dtype: torch.dtype, input_precision: str, *,
              backward: bool = False) -> Tile:  # fmt: skip
    """Tile of the step kernel for a layer of G gates and H units over B sequences.

    Any H, and any B that `step.grid` takes: masks cover what a tile has too many of.
    """
    if INTERPRETED:
        # No parallelism to gain: few programs with large blocks, still more than one where H > 64.
        shares = 1 if uses_tensor_cores(dtype, input_precision) else 4
        return Tile(16 if B <= 16 else 32, 32 if H <= 32 else 64, 64, 4, 1, shares=shares)
    on_tensor_cores = uses_tensor_cores(dtype, input_precision)
    if not on_tensor_cores:
        # The arithmetic is what takes time: few rows a program, many programs, 4 × 4 sums a thread.
        return Tile(4, 32, 256, 4, 1, shares=16)
    block_b = min(max(16, triton.next_power_of_2(B)), 32)
    # 16 units give H/16 programs; a wide layer fills the card anyway and takes 32.
    block_h = 16 if H <= 2048 else 32
    block_k = 64
    if dtype.itemsize == 2 and backward:
        block_k = 128
    block_k = min(block_k, max(16, triton.next_power_of_2(G * H if backward else H)))
    return Tile(block_b, block_h, block_k, 4, 3, shares=1)


def uses_tensor_cores(dtype: torch.dtype, input_precision: str) -> bool:
    """Half precision always does, float32 as TF32 only; IEEE float32 is plain multiply-adds."""
    return dtype.itemsize == 2 or (dtype == torch.float32 and input_precision == "tf32")


def sequence_tiles(B: int, H: int, G: int, dtype: torch.dtype, input_precision: str,
                   chip: Chip, layers: int = 1,
                   marked: bool = False) -> tuple[Tile, Tile] | str:  # fmt: skip
    """Tiles of the sequence kernel, forward and backward, or the reason why it cannot run.

    It can where every program's slice of the weights fits into shared memory and all programs
    are on the chip at once. With more `layers` they are tiles of the wavefront kernel, whose
    programs keep two sets of weights, and all layers are on the chip. With `marked` rows they are
    tiles of the dataflow kernel, which is the sequence kernel without its barrier.
    """
    found = tiles_that_fit(B, H, G, dtype, input_precision, chip, layers, marked)
    return found if isinstance(found, str) else (found[0][0], found[1][0])


@functools.cache
def tiles_that_fit(B: int, H: int, G: int, dtype: torch.dtype, input_precision: str,
                   chip: Chip, layers: int = 1, marked: bool = False
                   ) -> tuple[tuple[Tile, ...], tuple[Tile, ...]] | str:  # fmt: skip
    """`sequence_tiles` and all others with which the grid fits, the least work a program first.

    Which is fastest only measuring tells; `taking` lets launches take another.
    """
    if chip == INTERPRETER:
        # one slice, because programs run one after another and none may wait for a later one
        whole = Tile(
            16 if B <= 16 else 32, max(16, triton.next_power_of_2(H)),
            32 if dtype.itemsize == 2 else 16, SEQUENCE_WARPS, 1,
            staged=not uses_tensor_cores(dtype, input_precision), marked=marked,
        )  # fmt: skip
        return (whole,), (whole,)
    both: list[tuple[Tile, ...]] = []
    for backward in (False, True):
        asked = _Pass(H, G, dtype, input_precision, chip, layers, marked, backward)
        found = _fitting(B, asked)
        if isinstance(found, str):
            return found
        both.append(tuple(found))
    return both[0], both[1]


@dataclasses.dataclass(frozen=True)
class _Pass:
    """One direction of a layer, or of a stack of layers, on a chip: what its tiles have to suit."""

    H: int
    G: int
    dtype: torch.dtype
    input_precision: str
    chip: Chip
    layers: int
    marked: bool
    backward: bool

    @property
    def on_nvidia(self) -> bool:
        return self.chip.keeps_in == "shared memory"

    @property
    def on_tensor_cores(self) -> bool:
        return uses_tensor_cores(self.dtype, self.input_precision)

    @property
    def is_plain(self) -> bool:
        """Multiplied and added by threads; AMD's matrix units take IEEE float32, too."""
        return self.on_nvidia and not self.on_tensor_cores

    def columns(self, block_h: int) -> int:
        return columns_of(block_h, self.G, self.backward)

    def kept(self, tile: Tile) -> int:
        return kept_bytes(tile, self.H, self.G, self.dtype, self.backward)


_TAKEN: dict[bool, Tile] = {}
"""By direction, whether backward: what launches take instead of the first that fits."""


@contextlib.contextmanager
def taking(tile: Tile, *, backward: bool) -> Iterator[None]:
    """Within the block launches take this tile in one direction, in all threads.

    Autograd launches a backward pass from a thread of its own. A tile that does not fit is refused
    by the launch.
    """
    before = dict(_TAKEN)
    _TAKEN[backward] = tile
    try:
        yield
    finally:
        _TAKEN.clear()
        _TAKEN.update(before)


def taken(tiles: tuple[Tile, Tile]) -> tuple[Tile, Tile]:
    """What launches take, forward and backward: `tiles`, but for those within `taking`."""
    return _TAKEN.get(False, tiles[0]), _TAKEN.get(True, tiles[1])


def _fitting(B: int, asked: _Pass) -> list[Tile] | str:
    """Shares of work a program with which the grid fits, the least first, or why there is none."""
    H, chip, layers, dtype = asked.H, asked.chip, asked.layers, asked.dtype
    if asked.marked and not asked.on_nvidia:
        return "rows with marks are looked at in PTX, which AMD does not have; triton_sequence runs"
    if asked.marked and layers > 1 and asked.is_plain:
        # By the reckoning it would gain nothing: the other layer's product fills the wait.
        return "in IEEE float32 a wavefront with marked rows needs more registers than there are"
    few: tuple[tuple[int, int], ...] = FEW_ROWS_PLAIN if asked.is_plain else FEW_ROWS
    usual = (few if asked.on_nvidia else ()) + SEQUENCE_BLOCKS
    tried = [(*blocks, SEQUENCE_WARPS) for blocks in usual]
    if asked.on_nvidia and asked.on_tensor_cores:
        tried += [(*blocks, 2 * SEQUENCE_WARPS) for blocks in TWICE_THE_WARPS]
    reason = ""
    found: list[Tile] = []
    for block_b, block_h, warps in tried:
        if warps > SEQUENCE_WARPS and not found:
            break  # what did not fit would not with more warps
        if block_b > max(16, triton.next_power_of_2(B)):
            continue
        tile = _tile(block_b, block_h, warps, asked)
        if tile is None:
            continue
        if asked.marked and tile.staged and dtype.itemsize == 2:
            return f"in {dtype} rows with marks need an H above 128 that is a multiple of 8"
        sets = 1 if layers == 1 else 2
        needed = shared_memory(tile, H, asked.G, dtype, asked.backward, chip, sets)
        # Registers leave room for two programs of 4 warps, whatever the compiler uses (255 each).
        # With few rows two on one multiprocessor would share what takes the time.
        is_alone = block_b < 16 or warps > SEQUENCE_WARPS
        room = chip.multiprocessors * (1 if is_alone else min(chip.programs_each(needed), 2))
        programs = triton.cdiv(H, block_h) * triton.cdiv(B, block_b) * layers
        if needed > chip.shared_memory:
            reason = reason or (
                f"a program needs {needed // 1024} KiB of shared memory, {chip.name} has "
                f"{chip.shared_memory // 1024}"
            )
        elif programs > room:
            reason = f"{programs} programs must run at once, {chip.name} holds {room}"
        else:
            found.append(tile)
    if found:
        return found
    kernel = "the sequence kernel" if layers == 1 else f"the wavefront of {layers} layers"
    kernel = "the dataflow kernel" if asked.marked else kernel
    return f"{kernel} does not fit at H {H}, B {B}, {dtype}: {reason}"


def _tile(block_b: int, block_h: int, warps: int, asked: _Pass) -> Tile | None:
    """So many rows × units a program; None where such a tile does not work or is not worth it."""
    # AMD's matrix instructions are 16 wide; an RNN has a single gate to fill the width with.
    if block_h < 16 and (asked.G == 1 or (asked.backward and not asked.on_nvidia)):
        return None
    columns = asked.columns(block_h)
    if asked.is_plain and block_b == 4 and asked.layers == 1 and not asked.marked:
        by_threads = _tile_of_threads(block_h, asked)
        if by_threads is not None:
            return by_threads
    few_rows = block_b < 16
    # Eight threads side by side want 32 columns, else they meet in the banks of the rows; and
    # two products of so few rows spill.
    if block_b < 8 and (columns < 32 or asked.layers > 1):
        return None
    # Forward little is exchanged: more than that is saved twice as many weights cost.
    if few_rows and not asked.is_plain and columns > 32 and warps == SEQUENCE_WARPS:
        return None
    length = triton.next_power_of_2(asked.G * asked.H if asked.backward else asked.H)
    shares, ahead, itemsize = warps, REGISTERS_AHEAD, asked.dtype.itemsize
    if few_rows and asked.is_plain:
        shares = max(shares, min(16 * 128 // (block_b * columns), length // 16))
        ahead //= 2
    block_k = max(16, min(_longest_piece(shares, block_b, asked), length // shares))
    registers = max(1, shares * block_b * block_k * itemsize // (4 * 32 * warps))  # of a thread
    # Four lanes read 16 bytes each of a row: a shorter piece does not come as fragments.
    staged = asked.is_plain or not asked.on_nvidia or block_k * itemsize < 64
    if asked.marked and (block_k < 64 or asked.H * itemsize % 16 != 0):
        # Vectors of 16 bytes must lie at multiples of 16; words, which are staged, anywhere.
        staged = True
    tile = Tile(
        block_b, block_h, block_k, warps, 1, ahead=max(1, ahead // registers),
        ptx=asked.on_nvidia, shares=shares, staged=staged, marked=asked.marked,
    )  # fmt: skip
    if not staged:
        tile = dataclasses.replace(tile, in_registers=_sets_in_registers(tile, warps, asked))
    if warps > SEQUENCE_WARPS:
        with_four = 0 if staged else _sets_in_registers(tile, SEQUENCE_WARPS, asked)
        return tile if tile.in_registers > with_four else None
    return tile


def _sets_in_registers(tile: Tile, warps: int, asked: _Pass) -> int:
    """How many sets of a program's weights tensor cores take from the registers of `warps`."""
    registers = asked.kept(tile) / (4 * 32 * warps)  # of a thread, a set
    if asked.layers == 1:
        return int(registers <= REGISTERS_KEPT)
    if warps > SEQUENCE_WARPS:
        return 2 if registers <= REGISTERS_KEPT_IN_WAVEFRONT else 0
    return int(not asked.backward and registers <= REGISTERS_KEPT_IN_WAVEFRONT)


def _tile_of_threads(block_h: int, asked: _Pass) -> Tile | None:
    """The tile for plain multiply-adds by threads alone, if its weights go into their registers.

    Not for marked rows: to be looked at again they would have to be in registers all together.
    """
    shares = 4 * 128 // asked.columns(block_h)  # four rows and four columns a thread
    tile = Tile(4, block_h, QUAD, SEQUENCE_WARPS, 1, ahead=QUADS_AHEAD, ptx=True, shares=shares,
                staged=False, in_registers=1)  # fmt: skip
    fits = asked.kept(tile) <= REGISTERS_OF_THREADS * 4 * 128
    return tile if fits and asked.H % QUAD == 0 else None  # vectors lie at multiples of 16 bytes


def _longest_piece(shares: int, block_b: int, asked: _Pass) -> int:
    """Elements of K in a piece: the most with which no kernel of the compiler's table spills.

    Staged pieces cost two barriers each, so there long ones are better, but plain multiply-adds
    hold whole rows of them in registers. Two products, of many rows each, hold twice as much.
    """
    if asked.marked and not asked.is_plain:
        return 64  # four words of a vector are pieces of their own, and 16 is the shortest
    if asked.is_plain and block_b < 16:
        return 32 if shares <= 8 else 16
    longest = 32
    if asked.is_plain and asked.backward:
        longest = 32 if asked.layers > 1 else 16 if asked.G == 1 else 64
    return longest // 2 if asked.layers > 1 and block_b > 16 else longest


def shared_memory(tile: Tile, H: int, G: int, dtype: torch.dtype, backward: bool,
                  chip: Chip, weights: int = 1) -> int:  # fmt: skip
    """Bytes of shared memory a sequence program takes, at most, with so many sets of weights.

    The weights that are not in registers, the place where the warps' sums meet, and in the same
    space, if pieces of h or dgates are staged, the one that is being read and the one after it, or
    with marks all that come together. Where Triton keeps all operands in registers, one tile of
    them passes through shared memory on its way.
    """
    piece = tile.shares * tile.block_k
    pieces = triton.cdiv(G * H if backward else H, piece)
    columns = columns_of(tile.block_h, G, backward)
    together = tile.ahead if tile.marked else 2
    staging = min(pieces, together) * tile.block_b * piece * dtype.itemsize if tile.staged else 0
    sums = tile.num_warps * tile.block_b * columns * 4
    kept = kept_bytes(tile, H, G, dtype, backward)
    if chip.keeps_in == "registers":
        return max(kept // pieces, staging, sums)
    return (weights - tile.in_registers) * kept + max(staging, sums)


def columns_of(block_h: int, G: int, backward: bool) -> int:
    """Columns of a program's product: its units, forward with all gates, three padded to four."""
    return block_h if backward or G == 1 else 4 * block_h


def kept_bytes(tile: Tile, H: int, G: int, dtype: torch.dtype, backward: bool) -> int:
    """Bytes of one set of a program's weights, K rounded up to whole pieces."""
    piece = tile.shares * tile.block_k
    rows = triton.cdiv(G * H if backward else H, piece) * piece
    return rows * columns_of(tile.block_h, G, backward) * dtype.itemsize
