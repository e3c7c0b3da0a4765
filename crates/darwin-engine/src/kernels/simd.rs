//! The few vector operations that the hot loops are written in, for each instruction set.

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::*;

/// A vector of f32 lanes.
///
/// The methods are unsafe because each type needs an instruction set: who calls one has detected
/// that set (see [`isa`]) or is compiled for it. What a method reads or writes memory for is said on
/// it. No address needs an alignment.
pub(crate) trait Simd: Copy {
    const LANES: usize;
    /// The value in all lanes.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn splat(value: f32) -> Self;
    /// # Safety
    /// The instruction set is available, and `LANES` values can be read at `from`.
    unsafe fn load(from: *const f32) -> Self;
    /// # Safety
    /// The instruction set is available, and `LANES` values can be written at `to`.
    unsafe fn store(self, to: *mut f32);
    /// # Safety
    /// The instruction set is available.
    unsafe fn add(self, other: Self) -> Self;
    /// # Safety
    /// The instruction set is available.
    unsafe fn sub(self, other: Self) -> Self;
    /// # Safety
    /// The instruction set is available.
    unsafe fn mul(self, other: Self) -> Self;
    /// `self * factor + addend`, rounded once.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self;
    /// Lane by lane the larger one, `other` where one is no number.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn max(self, other: Self) -> Self;
    /// The largest of all lanes.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn largest_lane(self) -> f32;
    /// A bit for each lane that equals the other's.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn equal(self, other: Self) -> u32;
    /// The other's lanes where there is a bit.
    ///
    /// # Safety
    /// The instruction set is available.
    unsafe fn select(self, other: Self, bits: u32) -> Self;
    /// The bfloat16 numbers in the low halves of words.
    ///
    /// # Safety
    /// The instruction set is available, and `LANES` words can be read at `from`.
    unsafe fn load_low(from: *const u32) -> Self;
    /// The bfloat16 numbers in the high halves of words.
    ///
    /// # Safety
    /// The instruction set is available, and `LANES` words can be read at `from`.
    unsafe fn load_high(from: *const u32) -> Self;
    /// float16 numbers.
    ///
    /// # Safety
    /// The instruction set is available, and `LANES` numbers can be read at `from`.
    unsafe fn load_half(from: *const u16) -> Self;
    /// Asks for a cache line that will be read soon; any address will do.
    fn prefetch(from: *const f32);
}

/// Instruction sets with kernels of their own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isa {
    Portable,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

/// The best instruction set of this machine.
pub(crate) fn isa() -> Isa {
    #[cfg(target_arch = "x86_64")]
    if is_x86_feature_detected!("avx2")
        && is_x86_feature_detected!("fma")
        && is_x86_feature_detected!("f16c")
    {
        return if is_x86_feature_detected!("avx512f") { Isa::Avx512 } else { Isa::Avx2 };
    }
    Isa::Portable
}

/// Plain Rust, 8 lanes.
#[derive(Clone, Copy)]
pub(crate) struct Portable([f32; 8]);

impl Portable {
    #[inline(always)]
    fn zip(self, other: Self, f: impl Fn(f32, f32) -> f32) -> Self {
        Self(std::array::from_fn(|i| f(self.0[i], other.0[i])))
    }
}

impl Simd for Portable {
    const LANES: usize = 8;
    #[inline(always)]
    unsafe fn splat(value: f32) -> Self {
        Self([value; 8])
    }
    #[inline(always)]
    unsafe fn load(from: *const f32) -> Self {
        // SAFETY: the caller gives 8 readable values.
        Self(unsafe { from.cast::<[f32; 8]>().read_unaligned() })
    }
    #[inline(always)]
    unsafe fn store(self, to: *mut f32) {
        // SAFETY: the caller gives 8 writable values.
        unsafe { to.cast::<[f32; 8]>().write_unaligned(self.0) }
    }
    #[inline(always)]
    unsafe fn add(self, other: Self) -> Self {
        self.zip(other, |a, b| a + b)
    }
    #[inline(always)]
    unsafe fn sub(self, other: Self) -> Self {
        self.zip(other, |a, b| a - b)
    }
    #[inline(always)]
    unsafe fn mul(self, other: Self) -> Self {
        self.zip(other, |a, b| a * b)
    }
    #[inline(always)]
    unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
        Self(std::array::from_fn(|i| self.0[i].mul_add(factor.0[i], addend.0[i])))
    }
    #[inline(always)]
    unsafe fn max(self, other: Self) -> Self {
        self.zip(other, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    unsafe fn largest_lane(self) -> f32 {
        self.0.into_iter().fold(f32::NEG_INFINITY, |most, v| if v > most { v } else { most })
    }
    #[inline(always)]
    unsafe fn equal(self, other: Self) -> u32 {
        (0..8).map(|i| u32::from(self.0[i] == other.0[i]) << i).sum()
    }
    #[inline(always)]
    unsafe fn select(self, other: Self, bits: u32) -> Self {
        Self(std::array::from_fn(|i| if bits >> i & 1 == 1 { other.0[i] } else { self.0[i] }))
    }
    #[inline(always)]
    unsafe fn load_low(from: *const u32) -> Self {
        // SAFETY: the caller gives 8 readable words.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        Self(std::array::from_fn(|i| f32::from_bits(words[i] << 16)))
    }
    #[inline(always)]
    unsafe fn load_high(from: *const u32) -> Self {
        // SAFETY: the caller gives 8 readable words.
        let words = unsafe { from.cast::<[u32; 8]>().read_unaligned() };
        Self(std::array::from_fn(|i| f32::from_bits(words[i] & 0xffff_0000)))
    }
    #[inline(always)]
    unsafe fn load_half(from: *const u16) -> Self {
        // SAFETY: the caller gives 8 readable values.
        let halves = unsafe { from.cast::<[u16; 8]>().read_unaligned() };
        Self(halves.map(|half| half::f16::from_bits(half).to_f32_const()))
    }
    #[inline(always)]
    fn prefetch(_: *const f32) {}
}

/// The vector type of an x86 extension as [`Simd`].
#[cfg(target_arch = "x86_64")]
macro_rules! x86_simd {
    ($name:ident, $vector:ty, $lanes:literal, $splat:ident, $load:ident, $store:ident, $add:ident,
     $sub:ident, $mul:ident, $fma:ident, $words:ident, $shift:ident, $and:ident, $mask:ident,
     $cast:ident, $halves:ident, $widen:ident, $max:ident, $largest:ident, $equal:ident,
     $select:ident) => {
        #[derive(Clone, Copy)]
        pub(crate) struct $name($vector);

        impl Simd for $name {
            const LANES: usize = $lanes;
            #[inline(always)]
            unsafe fn splat(value: f32) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $splat(value) })
            }
            #[inline(always)]
            unsafe fn load(from: *const f32) -> Self {
                // SAFETY: the caller has the instruction set and `LANES` readable values.
                Self(unsafe { $load(from) })
            }
            #[inline(always)]
            unsafe fn store(self, to: *mut f32) {
                // SAFETY: the caller has the instruction set and `LANES` writable values.
                unsafe { $store(to, self.0) }
            }
            #[inline(always)]
            unsafe fn add(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $add(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn sub(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $sub(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $mul(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn mul_add(self, factor: Self, addend: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $fma(self.0, factor.0, addend.0) })
            }
            #[inline(always)]
            unsafe fn max(self, other: Self) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $max(self.0, other.0) })
            }
            #[inline(always)]
            unsafe fn largest_lane(self) -> f32 {
                // SAFETY: the caller has the instruction set.
                unsafe { $largest(self.0) }
            }
            #[inline(always)]
            unsafe fn equal(self, other: Self) -> u32 {
                // SAFETY: the caller has the instruction set.
                unsafe { $equal(self.0, other.0) }
            }
            #[inline(always)]
            unsafe fn select(self, other: Self, bits: u32) -> Self {
                // SAFETY: the caller has the instruction set.
                Self(unsafe { $select(self.0, other.0, bits) })
            }
            #[inline(always)]
            unsafe fn load_low(from: *const u32) -> Self {
                // SAFETY: the caller has the instruction set and `LANES` readable words.
                Self(unsafe { $cast($shift::<16>($words(from.cast()))) })
            }
            #[inline(always)]
            unsafe fn load_high(from: *const u32) -> Self {
                // SAFETY: the caller has the instruction set and `LANES` readable words.
                Self(unsafe { $cast($and($words(from.cast()), $mask(!0xffff))) })
            }
            #[inline(always)]
            unsafe fn load_half(from: *const u16) -> Self {
                // SAFETY: the caller has the instruction set and `LANES` readable numbers.
                Self(unsafe { $widen($halves(from.cast())) })
            }
            #[inline(always)]
            fn prefetch(from: *const f32) {
                // SAFETY: the instruction is SSE's, which x86-64 always has; a hint reads nothing, so
                // that no address is wrong.
                unsafe { _mm_prefetch::<_MM_HINT_T0>(from.cast()) }
            }
        }
    };
}

#[cfg(target_arch = "x86_64")]
x86_simd!(
    Avx2,
    __m256,
    8,
    _mm256_set1_ps,
    _mm256_loadu_ps,
    _mm256_storeu_ps,
    _mm256_add_ps,
    _mm256_sub_ps,
    _mm256_mul_ps,
    _mm256_fmadd_ps,
    _mm256_loadu_si256,
    _mm256_slli_epi32,
    _mm256_and_si256,
    _mm256_set1_epi32,
    _mm256_castsi256_ps,
    _mm_loadu_si128,
    _mm256_cvtph_ps,
    _mm256_max_ps,
    largest_of_8,
    equal_of_8,
    select_of_8
);
#[cfg(target_arch = "x86_64")]
x86_simd!(
    Avx512,
    __m512,
    16,
    _mm512_set1_ps,
    _mm512_loadu_ps,
    _mm512_storeu_ps,
    _mm512_add_ps,
    _mm512_sub_ps,
    _mm512_mul_ps,
    _mm512_fmadd_ps,
    _mm512_loadu_si512,
    _mm512_slli_epi32,
    _mm512_and_si512,
    _mm512_set1_epi32,
    _mm512_castsi512_ps,
    _mm256_loadu_si256,
    _mm512_cvtph_ps,
    _mm512_max_ps,
    _mm512_reduce_max_ps,
    equal_of_16,
    select_of_16
);

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn largest_of_8(x: __m256) -> f32 {
    let four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps::<1>(x));
    let two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps::<1>(two, two)))
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn equal_of_8(a: __m256, b: __m256) -> u32 {
    _mm256_movemask_ps(_mm256_cmp_ps::<_CMP_EQ_OQ>(a, b)) as u32
}

/// # Safety
/// The processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx2")]
fn select_of_8(a: __m256, b: __m256, bits: u32) -> __m256 {
    let lanes = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    let own = _mm256_and_si256(_mm256_set1_epi32(bits as i32), lanes);
    _mm256_blendv_ps(a, b, _mm256_castsi256_ps(_mm256_cmpeq_epi32(own, lanes)))
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn equal_of_16(a: __m512, b: __m512) -> u32 {
    u32::from(_mm512_cmp_ps_mask::<_CMP_EQ_OQ>(a, b))
}

/// # Safety
/// The processor has AVX-512F.
#[cfg(target_arch = "x86_64")]
#[inline]
#[target_feature(enable = "avx512f")]
fn select_of_16(a: __m512, b: __m512, bits: u32) -> __m512 {
    _mm512_mask_blend_ps(bits as u16, a, b)
}
