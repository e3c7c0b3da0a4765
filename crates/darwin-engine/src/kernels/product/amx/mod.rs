//! Products with bfloat16 weights on a processor's matrix units (Intel AMX).
//!
//! The units multiply bfloat16 numbers and add in float32. An input in float32 is the sum of three
//! bfloat16 numbers, eight bits of its significand each, exactly; a product of two bfloat16 numbers
//! is exact in float32. So three passes over the weights compute what float32 arithmetic does, but
//! for the order of summation: 32 inputs at a time, of which the even and the odd ones are added up
//! apart. It is the same for every number of rows.

mod registers;

use super::super::matrix::PANEL;
use super::{Job, Left, Right};
use registers::{clear, configure, load, products, release, store};
use std::arch::x86_64::*;
use std::cell::RefCell;
use std::ops::Range;
use std::sync::OnceLock;

/// Rows of a tile, its bytes a row, and the inputs of a tile.
const HEIGHT: usize = 16;
const ROW_BYTES: usize = 64;
const INPUTS: usize = 32;

/// The numbers that an input is cut into.
const PARTS: usize = 3;

/// Rows and depths whose cut inputs are kept in the second-level cache for all columns.
const ROW_BLOCK: usize = 144;
const DEPTH_BLOCK: usize = 1024;

/// What a tile register holds.
#[derive(Clone, Copy)]
#[repr(C, align(64))]
struct Tile([u8; HEIGHT * ROW_BYTES]);

const EMPTY: Tile = Tile([0; HEIGHT * ROW_BYTES]);

/// Working memory of a thread.
struct Scratch {
    /// Cut inputs: (groups of 16 rows, blocks of 32 inputs, parts).
    inputs: Vec<Tile>,
    /// Weights of two panels that do not end with a block of inputs.
    weights: Vec<Tile>,
    /// A tile of the result that is not whole.
    edge: Tile,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { inputs: Vec::new(), weights: Vec::new(), edge: EMPTY }) };
}

/// Whether the processor has the units and the operating system lets this process use them.
pub(super) fn is_available() -> bool {
    static AVAILABLE: OnceLock<bool> = OnceLock::new();
    *AVAILABLE.get_or_init(|| {
        const BF16_AND_TILES: u32 = 1 << 22 | 1 << 24;
        let has_vectors =
            is_x86_feature_detected!("avx512f") && is_x86_feature_detected!("avx512bw");
        let leaves = __cpuid(0).eax;
        has_vectors
            && leaves >= 7
            && __cpuid_count(7, 0).edx & BF16_AND_TILES == BF16_AND_TILES
            && is_permitted()
    })
}

/// Asks for the tile registers' state, which Linux gives only to those who do.
#[cfg(target_os = "linux")]
fn is_permitted() -> bool {
    const REQUEST: libc::c_int = 0x1023; // ARCH_REQ_XCOMP_PERM
    const TILE_DATA: libc::c_ulong = 18; // XFEATURE_XTILEDATA
    // SAFETY: the call takes two numbers and no address, and changes only what this process may use.
    unsafe { libc::syscall(libc::SYS_arch_prctl, REQUEST, TILE_DATA) == 0 }
}

#[cfg(not(target_os = "linux"))]
fn is_permitted() -> bool {
    false
}

/// Runs a job.
///
/// # Safety
/// As for [`Job::share`]; [`is_available`] has found the units.
pub(super) unsafe fn run(job: &Job, right: Right<u32>) {
    SCRATCH.with_borrow_mut(|scratch| {
        // SAFETY: the units are there; rows and depths are parts of the job's, which the caller has
        // bounded; the registers are set before they are used and given back afterwards, and the
        // scratch memory is this thread's own.
        unsafe {
            configure(job.left.rows.min(HEIGHT));
            for first in (0..job.left.rows).step_by(ROW_BLOCK) {
                let rows = first..job.left.rows.min(first + ROW_BLOCK);
                for start in (0..job.depth).step_by(DEPTH_BLOCK) {
                    let depth = start..job.depth.min(start + DEPTH_BLOCK);
                    block(job, right, &rows, &depth, scratch);
                }
            }
            release();
        }
    });
}

/// All columns of some rows and depths.
///
/// # Safety
/// As for [`run`]; the registers are set for the job's rows; rows and depths are parts of the job's, the
/// depths from an even number on.
unsafe fn block(
    job: &Job,
    right: Right<u32>,
    rows: &Range<usize>,
    depth: &Range<usize>,
    scratch: &mut Scratch,
) {
    let (groups, blocks) = (rows.len().div_ceil(HEIGHT), depth.len().div_ceil(INPUTS));
    let Scratch { inputs, weights, edge } = scratch;
    let edge = (&raw mut *edge).cast::<f32>();
    inputs.resize(inputs.len().max(groups * blocks * PARTS), EMPTY);
    weights.resize(weights.len().max(2 * blocks), EMPTY);
    // SAFETY: rows, columns and depths lie within the job's, as the caller says; `inputs` was made
    // large enough for `groups * blocks * PARTS` tiles and `weights` for two panels of `blocks`; the
    // units need AVX-512BW, which `is_available` has found too.
    unsafe {
        cut(&job.left, rows, depth, blocks, inputs.as_mut_ptr());
        for column in (0..job.columns).step_by(2 * PANEL) {
            let two = column + PANEL < job.columns;
            let mut panels = [Panel { first: std::ptr::null(), row_bytes: ROW_BYTES }; 2];
            for (i, panel) in panels.iter_mut().take(1 + usize::from(two)).enumerate() {
                let from = right.from(depth.start, column + i * PANEL);
                *panel = Panel::of(from, depth.len(), &mut weights[i * blocks..(i + 1) * blocks]);
            }
            for group in (0..groups).step_by(2) {
                let from = |group: usize| inputs[group * blocks * PARTS..].as_ptr();
                let row = rows.start + group * HEIGHT;
                let part = Part { job, row, column, adds: depth.start > 0, blocks, edge };
                if group + 1 < groups {
                    let inputs = [from(group), from(group + 1)];
                    match two {
                        true => part.run::<2, 2>(inputs, panels),
                        false => part.run::<2, 1>(inputs, panels),
                    }
                } else {
                    let inputs = [from(group); 2];
                    match two {
                        true => part.run::<1, 2>(inputs, panels),
                        false => part.run::<1, 1>(inputs, panels),
                    }
                }
            }
        }
    }
}

/// Some weights of 16 columns, two inputs in a word.
#[derive(Clone, Copy)]
struct Panel {
    first: *const u8,
    row_bytes: usize,
}

impl Panel {
    /// The weights themselves, or a copy with zeros behind where they end within a tile.
    ///
    /// # Safety
    /// `from` points to a panel with a line for every two depths, and outlives what is returned, as
    /// does `copy`, which has a tile for every INPUTS depths.
    unsafe fn of(from: Right<u32>, depth: usize, copy: &mut [Tile]) -> Self {
        let lines = depth.div_ceil(2);
        if depth.is_multiple_of(INPUTS) {
            return Self { first: from.w.cast(), row_bytes: 4 * from.row };
        }
        let to = copy.as_mut_ptr().cast::<u8>();
        // SAFETY: the panel has `lines` lines of 16 words (ROW_BYTES), and the tiles of `copy` hold
        // 16 lines each, as many as all depths need or more; the two do not overlap.
        unsafe {
            for line in 0..lines {
                let from = from.w.add(line * from.row).cast();
                std::ptr::copy_nonoverlapping(from, to.add(line * ROW_BYTES), ROW_BYTES);
            }
            let end = lines * ROW_BYTES;
            std::ptr::write_bytes(to.add(end), 0, size_of_val(copy) - end);
        }
        Self { first: to, row_bytes: ROW_BYTES }
    }
}

/// Up to two groups of rows by up to two panels, from a row and a column on.
struct Part<'a> {
    job: &'a Job,
    row: usize,
    column: usize,
    /// To what is there.
    adds: bool,
    blocks: usize,
    /// Room for a tile that is not whole.
    edge: *mut f32,
}

impl Part<'_> {
    /// Adds the products of `G` groups of rows and `P` panels to the result.
    ///
    /// # Safety
    /// The registers are set; `G` groups of rows and `P` panels from row and column on have a row and
    /// a column of the job; the first `G` of `inputs` point to `blocks * PARTS` tiles, the first `P` of
    /// `w` to `blocks` tiles.
    unsafe fn run<const G: usize, const P: usize>(&self, inputs: [*const Tile; 2], w: [Panel; 2]) {
        // SAFETY: the registers are set and the tiles can be read, as the caller says; `begin` and
        // `end` touch groups below `G` and panels below `P`, which lie in the result.
        unsafe {
            self.begin::<0, 0, 0>();
            if P == 2 {
                self.begin::<1, 0, 1>();
            }
            if G == 2 {
                self.begin::<2, 1, 0>();
                if P == 2 {
                    self.begin::<3, 1, 1>();
                }
            }
            products::<G, P>(inputs, w, self.blocks);
            self.end::<0, 0, 0>();
            if P == 2 {
                self.end::<1, 0, 1>();
            }
            if G == 2 {
                self.end::<2, 1, 0>();
                if P == 2 {
                    self.end::<3, 1, 1>();
                }
            }
        }
    }

    /// Where a tile of the result is, and how many rows and columns of it there are.
    ///
    /// # Safety
    /// The group and the panel have a row and a column of the job.
    unsafe fn place(&self, group: usize, panel: usize) -> (*mut f32, usize, usize) {
        let (row, column) = (self.row + group * HEIGHT, self.column + panel * PANEL);
        let rows = (self.job.left.rows - row).min(HEIGHT);
        let columns = (self.job.columns - column).min(PANEL);
        // SAFETY: row and column lie within the result, as the caller says.
        (unsafe { self.job.out.add(row * self.job.out_row + column) }, rows, columns)
    }

    /// Whether a tile has all rows and columns that its register is set to.
    fn is_whole(&self, rows: usize, columns: usize) -> bool {
        rows == self.job.left.rows.min(HEIGHT) && columns == PANEL
    }

    /// The sum of tile register `T` at its beginning.
    ///
    /// # Safety
    /// The registers are set; group `G` and panel `P` have a row and a column of the job.
    unsafe fn begin<const T: usize, const G: usize, const P: usize>(&self) {
        // SAFETY: `place` gives the rows and columns of the result from `at` on, at most a tile;
        // what is not a whole tile goes through `edge`, which has a tile's room.
        unsafe {
            if !self.adds {
                return clear::<T>();
            }
            let (at, rows, columns) = self.place(G, P);
            let out_row = self.job.out_row;
            if self.is_whole(rows, columns) {
                load::<T>(at.cast_const().cast(), 4 * out_row);
                return;
            }
            let edge = self.edge;
            for row in 0..rows {
                let from = at.add(row * out_row).cast_const();
                std::ptr::copy_nonoverlapping(from, edge.add(row * HEIGHT), columns);
            }
            load::<T>(edge.cast_const().cast(), ROW_BYTES);
        }
    }

    /// Tile register `T` into the result.
    ///
    /// # Safety
    /// The registers are set; group `G` and panel `P` have a row and a column of the job.
    unsafe fn end<const T: usize, const G: usize, const P: usize>(&self) {
        // SAFETY: `place` gives the rows and columns of the result from `at` on, at most a tile;
        // what is not a whole tile goes through `edge`, which has a tile's room.
        unsafe {
            let (at, rows, columns) = self.place(G, P);
            let out_row = self.job.out_row;
            if self.is_whole(rows, columns) {
                store::<T>(at.cast(), 4 * out_row);
                return;
            }
            let edge = self.edge;
            store::<T>(edge.cast(), ROW_BYTES);
            for row in 0..rows {
                let from = edge.add(row * HEIGHT).cast_const();
                std::ptr::copy_nonoverlapping(from, at.add(row * out_row), columns);
            }
        }
    }
}

/// Cuts inputs into three bfloat16 numbers each.
///
/// # Safety
/// The processor has AVX-512F and AVX-512BW; `left` has the rows and depths; `to` has room for
/// `blocks * PARTS` tiles for every HEIGHT rows, and `blocks` blocks of INPUTS hold all depths.
#[target_feature(enable = "avx512f,avx512bw")]
unsafe fn cut(
    left: &Left,
    rows: &Range<usize>,
    depth: &Range<usize>,
    blocks: usize,
    to: *mut Tile,
) {
    // The upper halves of the words of two vectors.
    let mut upper = [0_u16; INPUTS];
    for (i, half) in upper.iter_mut().enumerate() {
        *half = 2 * i as u16 + 1;
    }
    // SAFETY: `upper` has 32 halves. Rows and depths are some of `left`'s; loads of a block that is
    // not whole are masked to the depths there are. A row's line lies in the tiles of its group and
    // block, in the room that the caller has; tiles begin at 64 bytes, as the aligned stores need.
    unsafe {
        let upper = _mm512_loadu_si512(upper.as_ptr().cast());
        let mask = _mm512_set1_epi32(0xffff_0000_u32 as i32);
        for row in rows.clone() {
            let [x]: [*const f32; 1] = left.rows_from(row, depth.start);
            let (group, line) = ((row - rows.start) / HEIGHT, (row - rows.start) % HEIGHT);
            for block in 0..blocks {
                let left = depth.len() - block * INPUTS;
                let x = x.wrapping_add(block * INPUTS);
                let mut rest = if left >= INPUTS {
                    [_mm512_loadu_ps(x), _mm512_loadu_ps(x.add(16))]
                } else {
                    let bits = (1_u32 << left) - 1;
                    let more = x.wrapping_add(16);
                    [
                        _mm512_maskz_loadu_ps(bits as u16, x),
                        _mm512_maskz_loadu_ps((bits >> 16) as u16, more),
                    ]
                };
                let tiles = to.add((group * blocks + block) * PARTS).cast::<u8>();
                for part in 0..PARTS {
                    let [a, b] = rest.map(|rest| _mm512_castps_si512(rest));
                    let halves = _mm512_permutex2var_epi16(a, upper, b);
                    let at = tiles.add(part * size_of::<Tile>() + line * ROW_BYTES);
                    _mm512_store_si512(at.cast(), halves);
                    let cut = [a, b].map(|x| _mm512_castsi512_ps(_mm512_and_si512(x, mask)));
                    rest = [_mm512_sub_ps(rest[0], cut[0]), _mm512_sub_ps(rest[1], cut[1])];
                }
            }
        }
    }
}
