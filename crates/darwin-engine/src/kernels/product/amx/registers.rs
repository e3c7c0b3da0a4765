//! The tile registers. They are private to this module: what is in them stays from one
//! call to the next, between [`configure`] and [`release`] on a thread.

use super::{HEIGHT, Panel, ROW_BYTES, Tile};
use std::arch::asm;

/// Sets the registers: all tiles 64 bytes wide; sums (0 to 3) and inputs (4, 5) of so many rows,
/// weights (6, 7) of 16.
///
/// # Safety
/// The processor has the units, and the system lets this process use them; `rows` is 1 to 16.
pub(super) unsafe fn configure(rows: usize) {
    #[repr(C, align(64))]
    struct Settings {
        palette: u8,
        first_row: u8,
        reserved: [u8; 14],
        row_bytes: [u16; 16],
        rows: [u8; 16],
    }
    let rows = rows as u8;
    let settings = Settings {
        palette: 1,
        first_row: 0,
        reserved: [0; 14],
        row_bytes: std::array::from_fn(|tile| if tile < 8 { ROW_BYTES as u16 } else { 0 }),
        rows: [rows, rows, rows, rows, rows, rows, 16, 16, 0, 0, 0, 0, 0, 0, 0, 0],
    };
    // SAFETY: the instruction reads the 64 bytes of `settings`, which are valid for palette 1: at most
    // 16 rows of 64 bytes. The caller may use the units.
    unsafe { asm!("ldtilecfg [{}]", in(reg) &raw const settings, options(nostack, readonly)) };
}

/// Gives the registers back.
///
/// # Safety
/// The processor has the units.
pub(super) unsafe fn release() {
    // SAFETY: the instruction touches the tile registers alone, and no Rust value is in them.
    unsafe { asm!("tilerelease", options(nostack)) };
}

/// Zeros in tile register `T`.
///
/// # Safety
/// The registers are set ([`configure`]) and not given back; `T` is below 8.
pub(super) unsafe fn clear<const T: usize>() {
    // SAFETY: the registers are set, as the caller says; no memory is touched.
    unsafe { asm!("tilezero tmm{t}", t = const T, options(nostack)) };
}

/// Rows of memory into tile register `T`.
///
/// # Safety
/// The registers are set and not given back; `T` is below 8; as many rows of ROW_BYTES as the register
/// has, `row_bytes` apart, can be read at `from`.
pub(super) unsafe fn load<const T: usize>(from: *const u8, row_bytes: usize) {
    // SAFETY: the instruction reads the register's rows, which the caller has at `from`.
    unsafe {
        asm!("tileloadd tmm{t}, [{from} + {step}*1]", t = const T, from = in(reg) from,
             step = in(reg) row_bytes, options(nostack, readonly));
    }
}

/// Tile register `T` into rows of memory.
///
/// # Safety
/// The registers are set and not given back; `T` is below 8; as many rows of ROW_BYTES as the register
/// has, `row_bytes` apart, can be written at `to`.
pub(super) unsafe fn store<const T: usize>(to: *mut u8, row_bytes: usize) {
    // SAFETY: the instruction writes the register's rows, which the caller has at `to`.
    unsafe {
        asm!("tilestored [{to} + {step}*1], tmm{t}", t = const T, to = in(reg) to,
             step = in(reg) row_bytes, options(nostack));
    }
}

/// Adds the products of `blocks` blocks of inputs to the sums.
///
/// # Safety
/// The registers are set and not given back. `blocks` is above 0. The first `G` pointers point to
/// `3 * blocks` tiles, the first `P` panels have 16 lines of ROW_BYTES, `row_bytes` apart, for each
/// block; the others are not read.
pub(super) unsafe fn products<const G: usize, const P: usize>(
    [a, b]: [*const Tile; 2],
    [v, w]: [Panel; 2],
    blocks: usize,
) {
    /// The loop over blocks, and in it over the three parts of the inputs.
    macro_rules! sum {
        ([$($weights:literal),*], [$($inputs:literal),*], [$($products:literal),*]) => {
            asm!(
                "2:",
                $($weights,)*
                sum!(@part 0, [$($inputs),*], [$($products),*]),
                sum!(@part 1024, [$($inputs),*], [$($products),*]),
                sum!(@part 2048, [$($inputs),*], [$($products),*]),
                "add {a}, 3072",
                "add {b}, 3072",
                "add {v}, {next}",
                "add {w}, {next_w}",
                "dec {n}",
                "jnz 2b",
                a = inout(reg) a => _,
                b = inout(reg) b => _,
                v = inout(reg) v.first => _,
                w = inout(reg) w.first => _,
                n = inout(reg) blocks => _,
                row = in(reg) ROW_BYTES,
                step = in(reg) v.row_bytes,
                next = in(reg) HEIGHT * v.row_bytes,
                next_w = in(reg) HEIGHT * w.row_bytes,
                options(nostack, readonly),
            )
        };
        (@part $at:literal, [$($inputs:literal),*], [$($products:literal),*]) => {
            concat!($($inputs, stringify!($at), "]\n",)* $($products, "\n",)*)
        };
    }
    // SAFETY: each round reads three tiles of inputs and 16 lines of weights and moves the pointers on
    // by as much, `blocks` times: what the caller has. Only tile registers are written.
    unsafe {
        match (G, P) {
            (2, 2) => sum!(
                ["tileloadd tmm6, [{v} + {step}*1]", "tileloadd tmm7, [{w} + {step}*1]"],
                ["tileloadd tmm4, [{a} + {row}*1 + ", "tileloadd tmm5, [{b} + {row}*1 + "],
                [
                    "tdpbf16ps tmm0, tmm4, tmm6",
                    "tdpbf16ps tmm1, tmm4, tmm7",
                    "tdpbf16ps tmm2, tmm5, tmm6",
                    "tdpbf16ps tmm3, tmm5, tmm7"
                ]
            ),
            (2, _) => sum!(
                ["tileloadd tmm6, [{v} + {step}*1]"],
                ["tileloadd tmm4, [{a} + {row}*1 + ", "tileloadd tmm5, [{b} + {row}*1 + "],
                ["tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm2, tmm5, tmm6"]
            ),
            (_, 2) => sum!(
                ["tileloadd tmm6, [{v} + {step}*1]", "tileloadd tmm7, [{w} + {step}*1]"],
                ["tileloadd tmm4, [{a} + {row}*1 + "],
                ["tdpbf16ps tmm0, tmm4, tmm6", "tdpbf16ps tmm1, tmm4, tmm7"]
            ),
            _ => sum!(
                ["tileloadd tmm6, [{v} + {step}*1]"],
                ["tileloadd tmm4, [{a} + {row}*1 + "],
                ["tdpbf16ps tmm0, tmm4, tmm6"]
            ),
        }
    }
}
