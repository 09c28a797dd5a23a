"""The Triton kernel of fused rollouts; imported only where it is used.

One program carries a few initial states of one draw over the whole horizon. Its features are spread
over the 32 threads of one warp, the states are in the registers of all of them: a stage of RK4 is
sines in registers and one sum across the warp, with no barrier and, where the features fit in
registers, no load beside a few numbers a step. Otherwise tiles of features are streamed, from the
first-level cache after the first step.

What bounds it in float32, for a warp and 32 sines on recent GPUs: the special-function unit needs 8
cycles. The instructions issued beside it are D multiply-adds for the phase, 3 for its reduction, 2
for the sine and D for the rates, 9 for D = 2, one a cycle; M / 32 times those, 10 D more add up the
rates across the warp.
"""

from typing import no_type_check

import triton
import triton.language as tl
from triton.language.extra import libdevice

# sin(pi r) / r for |r| <= 1 as polynomials in r^2, interpolated at Chebyshev points: the largest
# error is 1e-15 in float64 and 3e-7 in float32, rounding included.
SINE_64 = (
    3.141592653589793,
    -5.1677127800499685,
    2.550164039877301,
    -0.5992645293200995,
    0.0821458866055823,
    -0.007370430919794757,
    0.00046630273020219004,
    -2.1915211829853713e-05,
    7.950346113422281e-07,
    -2.282009019368531e-08,
    4.842931308949599e-10,
)
SINE_32 = (
    3.1415926512342907,
    -5.1677125491229825,
    2.550160337848261,
    -0.5992422309233395,
    0.08208174119070055,
    -0.007275184783557536,
    0.0003952368269095054,
)

# Adding and subtracting 1.5 * 2^(mantissa bits + 1) rounds to a multiple of two.
TWOS_64 = 1.5 * 2.0**53
TWOS_32 = 1.5 * 2.0**24

PI_32 = 3.1415927410125732
"""The float32 next to pi."""


@triton.jit
@no_type_check
def hardware_sine(x):
    """``sin(x)`` with an absolute error of 2^-20.5 for |x| <= 2 pi, and a larger one beyond.

    CUDA C++ Programming Guide, intrinsic functions.
    """
    return libdevice.fast_sinf(x)


@triton.jit
@no_type_check
def sine_of(x, TWOS: tl.constexpr, SINE: tl.constexpr, FAST: tl.constexpr, PI: tl.constexpr):
    """``sin(pi x)`` of a phase in half turns, reduced exactly to |r| <= 1.

    Where FAST, the phase is ``PI x`` instead with the float32 PI next to pi: one fused operation
    reduces it to |r| <= PI with no more rounding than of r, and ``sin(r)`` is off by at most
    ``|PI - pi|``, 9e-8.
    """
    if FAST:
        INVERSE: tl.constexpr = 1.0 / PI
        turns = (x * INVERSE + TWOS) - TWOS
        wave = hardware_sine(tl.fma(turns, -PI, x))
    else:
        r = x - ((x + TWOS) - TWOS)
        square = r * r
        wave = square * SINE[len(SINE) - 1] + SINE[len(SINE) - 2]
        for i in tl.static_range(len(SINE) - 2):
            wave = wave * square + SINE[len(SINE) - 3 - i]
        wave = wave * r
    return wave


@triton.jit
@no_type_check
def tile_of(frequencies, shift, output, tile, M, D: tl.constexpr, TILE: tl.constexpr):
    """Features of one tile: D rows of frequencies, shifts, and D rows of outputs."""
    m = tile * TILE + tl.arange(0, TILE)[None, :]
    omega = ()
    out = ()
    for d in tl.static_range(D):
        omega = omega + (tl.load(frequencies + d * M + m),)
        out = out + (tl.load(output + d * M + m),)
    return omega, tl.load(shift + m), out


@triton.jit
@no_type_check
def add_waves(
    z,
    sums,
    features,
    D: tl.constexpr,
    TWOS: tl.constexpr,
    SINE: tl.constexpr,
    FAST: tl.constexpr,
    PI: tl.constexpr,
):
    """Add the waves of a tile of features at B states, times their outputs, to (B, TILE) sums."""
    omega, shift, out = features
    phase = omega[0] * z[0][:, None] - shift
    for d in tl.static_range(1, D):
        phase += omega[d] * z[d][:, None]
    wave = sine_of(phase, TWOS, SINE, FAST, PI)
    found = ()
    for d in tl.static_range(D):
        found = found + (sums[d] + wave * out[d],)
    return found


@triton.jit(do_not_specialize=["num_states", "num_steps", "num_times"])
@no_type_check
def fused_rk4(
    states,
    frequencies,
    shift,
    output,
    affine,
    steps,
    slots,
    inputs,
    gains,
    limits,
    paths,
    num_states,
    num_steps,
    num_times,
    M: tl.constexpr,
    TILE: tl.constexpr,
    RESIDENT: tl.constexpr,
    B: tl.constexpr,
    D: tl.constexpr,
    U: tl.constexpr,
    CHECK: tl.constexpr,
    TWOS: tl.constexpr,
    SINE: tl.constexpr,
    FAST: tl.constexpr,
    PI: tl.constexpr,
):
    """Classical RK4 from (S, N, D) ``states`` into (S, N, T, D) ``paths``.

    The rate is ``sin(pi (omega . z - shift)) @ output + matrix' z + offset + gains u``.

    frequencies: (D, M) in half turns; shift: (S, M) too; output: (S, D, M); affine: (S, D, D + 1),
    row d holds what of every coordinate goes into rate d, then its offset.
    steps: (K,) lengths; slots: (K,) where the state after a step is stored, or one of the two
    constants above. inputs: (K, 3, U) at the beginning, middle and end of a step; gains: (S, D, U).
    limits: (D,), beyond which a state is lost at a slot, where CHECK.
    """
    blocks = (num_states + B - 1) // B
    draw = (tl.program_id(0) // blocks).to(tl.int64)
    member = (tl.program_id(0) % blocks) * B + tl.arange(0, B)
    inside = member < num_states
    row = draw * num_states + member
    shift += draw * M
    output += draw * (D * M)
    affine += draw * (D * (D + 1))
    gains += draw * (D * U)

    z = ()
    linear = ()
    for d in tl.static_range(D):
        z = z + (tl.load(states + row * D + d, mask=inside, other=0.0),)
        for e in tl.static_range(D + 1):
            linear = linear + (tl.load(affine + d * (D + 1) + e),)
    if RESIDENT:
        features = ()
        for tile in tl.static_range(M // TILE):
            features = features + (tile_of(frequencies, shift, output, tile, M, D, TILE),)

    for k in range(num_steps):
        h = tl.load(steps + k)
        # One body for the four stages: four copies would not fit in the instruction cache.
        rate = ()
        total = ()
        for _ in tl.static_range(D):
            rate = rate + (tl.full((B,), 0.0, h.dtype),)
            total = total + (tl.full((B,), 0.0, h.dtype),)
        for stage in range(4):
            ahead = h * tl.where(stage == 0, 0.0, tl.where(stage == 3, 1.0, 0.5)).to(h.dtype)
            count = tl.where((stage == 1) | (stage == 2), 2.0, 1.0).to(h.dtype)
            point = ()
            for d in tl.static_range(D):
                point = point + (z[d] + ahead * rate[d],)

            sums = ()
            for _ in tl.static_range(D):
                sums = sums + (tl.full((B, TILE), 0.0, h.dtype),)
            if RESIDENT:
                for tile in tl.static_range(M // TILE):
                    sums = add_waves(point, sums, features[tile], D, TWOS, SINE, FAST, PI)
            else:
                for tile in range(M // TILE):
                    streamed = tile_of(frequencies, shift, output, tile, M, D, TILE)
                    sums = add_waves(point, sums, streamed, D, TWOS, SINE, FAST, PI)

            new = ()
            more = ()
            for d in tl.static_range(D):
                own = tl.sum(sums[d], 1) + linear[d * (D + 1) + D]
                for e in tl.static_range(D):
                    own += linear[d * (D + 1) + e] * point[e]
                for j in tl.static_range(U):
                    node = (k * 3 + (stage + 1) // 2) * U + j
                    own += tl.load(gains + d * U + j) * tl.load(inputs + node)
                new = new + (own,)
                more = more + (total[d] + count * own,)
            rate = new
            total = more

        sixth = h * 0.16666666666666666
        moved = ()
        for d in tl.static_range(D):
            moved = moved + (z[d] + sixth * total[d],)
        z = moved

        slot = tl.load(slots + k)
        if CHECK:
            if slot != -1:
                kept = ()
                lost = z[0] != z[0]
                for d in tl.static_range(D):
                    # so that NaN, which compares with nothing, is lost too
                    lost = lost | ((tl.abs(z[d]) <= tl.load(limits + d)) == 0)
                for d in tl.static_range(D):
                    kept = kept + (tl.where(lost, float("nan"), z[d]),)
                z = kept
        if slot >= 0:
            for d in tl.static_range(D):
                tl.store(paths + (row * num_times + slot) * D + d, z[d], mask=inside)


@triton.jit
@no_type_check
def sines_alone(
    results,
    count,
    WIDTH: tl.constexpr,
    TWOS: tl.constexpr,
    SINE: tl.constexpr,
    FAST: tl.constexpr,
    PI: tl.constexpr,
):
    """``count`` sines one after another for each of ``WIDTH`` numbers a program, and nothing else.

    Without the reduction of a phase where the hardware's sine is used, so that the special-function
    unit is all that bounds it.
    """
    place = tl.program_id(0) * WIDTH + tl.arange(0, WIDTH)
    x = tl.load(results + place)
    for _ in range(count):
        if FAST:
            x = hardware_sine(x)
        else:
            x = sine_of(x, TWOS, SINE, FAST, PI)
    tl.store(results + place, x)
