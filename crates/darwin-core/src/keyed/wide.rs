//! Philox for AVX2 and AVX-512, where compilers do not find that two halves of a vector can be
//! multiplied apart.

use super::{Key, LANES, M, round_keys};
use std::arch::x86_64::*;

/// The uniforms of the blocks from `block`; false where the processor has neither.
pub(super) fn fill(key: &Key, mut block: u64, mut chunks: &mut [[f32; 4 * LANES]]) -> bool {
    if !std::arch::is_x86_feature_detected!("avx2") {
        return false;
    }
    if std::arch::is_x86_feature_detected!("avx512f") {
        let (pairs, rest) = chunks.as_chunks_mut::<2>();
        // SAFETY: the line above found AVX-512.
        unsafe { sixteen::fill(key, block, pairs) };
        block += (2 * LANES * pairs.len()) as u64;
        chunks = rest;
    }
    // SAFETY: the first line found AVX2.
    unsafe { fill_8(key, block, chunks) };
    true
}

/// The bits of the blocks from `block`; false where the processor has neither.
pub(super) fn below(key: &Key, block: u64, limit: u32, words: &mut [u64]) -> bool {
    if !std::arch::is_x86_feature_detected!("avx2") {
        return false;
    }
    if std::arch::is_x86_feature_detected!("avx512f") && std::arch::is_x86_feature_detected!("bmi2")
    {
        // SAFETY: the line above found both.
        unsafe { sixteen::below(key, block, limit, words) };
    } else {
        // SAFETY: the first line found AVX2.
        unsafe { below_8(key, block, limit, words) };
    }
    true
}

/// Low and high words of eight products.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn products(x: __m256i, factor: __m256i) -> (__m256i, __m256i) {
    let even = _mm256_mul_epu32(x, factor);
    let odd = _mm256_mul_epu32(_mm256_srli_epi64::<32>(x), factor);
    let low = _mm256_blend_epi32::<0xaa>(even, _mm256_slli_epi64::<32>(odd));
    let high = _mm256_blend_epi32::<0xaa>(_mm256_srli_epi64::<32>(even), odd);
    (low, high)
}

/// The keys of ten rounds.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn keys(key: [u32; 2]) -> [[__m256i; 2]; 10] {
    let mut keys = [[_mm256_setzero_si256(); 2]; 10];
    for (vectors, key) in keys.iter_mut().zip(round_keys(key)) {
        *vectors = [_mm256_set1_epi32(key[0] as i32), _mm256_set1_epi32(key[1] as i32)];
    }
    keys
}

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn round(c: [__m256i; 4], key: &[__m256i; 2]) -> [__m256i; 4] {
    let factors = [_mm256_set1_epi64x(M[0] as i64), _mm256_set1_epi64x(M[1] as i64)];
    let (a_low, a_high) = products(c[0], factors[0]);
    let (b_low, b_high) = products(c[2], factors[1]);
    [
        _mm256_xor_si256(_mm256_xor_si256(c[1], key[0]), b_high),
        b_low,
        _mm256_xor_si256(_mm256_xor_si256(c[3], key[1]), a_high),
        a_low,
    ]
}

/// Ten rounds for eight counters, written out so that no number goes to memory.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn rounds(c: [__m256i; 4], keys: &[[__m256i; 2]; 10]) -> [__m256i; 4] {
    let c = round(round(round(c, &keys[0]), &keys[1]), &keys[2]);
    let c = round(round(round(c, &keys[3]), &keys[4]), &keys[5]);
    round(round(round(round(c, &keys[6]), &keys[7]), &keys[8]), &keys[9])
}

/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn uniforms(words: __m256i) -> __m256 {
    let scale = _mm256_set1_ps(1.0 / 16_777_216.0);
    _mm256_mul_ps(_mm256_cvtepi32_ps(_mm256_srli_epi32::<8>(words)), scale)
}

/// Low and high words of the counters from `first`.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn counters(first: u64) -> [__m256i; 2] {
    let steps = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    let low = _mm256_add_epi32(_mm256_set1_epi32(first as i32), steps);
    if first as u32 <= u32::MAX - 7 {
        return [low, _mm256_set1_epi32((first >> 32) as i32)];
    }
    let mut high = [0_i32; 8];
    for (i, high) in high.iter_mut().enumerate() {
        *high = ((first + i as u64) >> 32) as i32;
    }
    let [a, b, c, d, e, f, g, h] = high;
    [low, _mm256_setr_epi32(a, b, c, d, e, f, g, h)]
}

/// Four words each of eight blocks, one block after the other; a lane of `c` holds a block's.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn turned([a, b, c, d]: [__m256i; 4]) -> [__m256i; 4] {
    let (ab_low, ab_high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
    let (cd_low, cd_high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
    let w = _mm256_unpacklo_epi64(ab_low, cd_low);
    let x = _mm256_unpackhi_epi64(ab_low, cd_low);
    let y = _mm256_unpacklo_epi64(ab_high, cd_high);
    let z = _mm256_unpackhi_epi64(ab_high, cd_high);
    [
        _mm256_permute2x128_si256::<0x20>(w, x),
        _mm256_permute2x128_si256::<0x20>(y, z),
        _mm256_permute2x128_si256::<0x31>(w, x),
        _mm256_permute2x128_si256::<0x31>(y, z),
    ]
}

/// The stream of a key in its counters.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
#[inline]
fn stream(key: &Key) -> [__m256i; 2] {
    [_mm256_set1_epi32(key.stream[0] as i32), _mm256_set1_epi32(key.stream[1] as i32)]
}

/// The uniforms of the blocks from `block`.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
fn fill_8(key: &Key, block: u64, chunks: &mut [[f32; 4 * LANES]]) {
    let (stream, keys) = (stream(key), keys(key.key));
    for (chunk, first) in chunks.iter_mut().zip((block..).step_by(LANES)) {
        let [low, high] = counters(first);
        let words = turned(rounds([low, high, stream[0], stream[1]], &keys));
        let rows = chunk.as_chunks_mut::<8>().0;
        for (out, words) in rows.iter_mut().zip(words) {
            // SAFETY: `out` has room for eight numbers; the store needs no alignment.
            unsafe { _mm256_storeu_ps(out.as_mut_ptr(), uniforms(words)) };
        }
    }
}

/// The bits of the blocks from `block`.
///
/// # Safety
/// The processor has AVX2.
#[target_feature(enable = "avx2")]
fn below_8(key: &Key, block: u64, limit: u32, words: &mut [u64]) {
    let (stream, keys) = (stream(key), keys(key.key));
    let limit = _mm256_set1_epi32(limit as i32);
    let mut first = block;
    for word in words {
        *word = 0;
        for half in 0..2 {
            let [low, high] = counters(first);
            let turned = turned(rounds([low, high, stream[0], stream[1]], &keys));
            for (i, numbers) in turned.into_iter().enumerate() {
                let less = _mm256_cmpgt_epi32(limit, _mm256_srli_epi32::<8>(numbers));
                let bits = _mm256_movemask_ps(_mm256_castsi256_ps(less)) as u32;
                *word |= u64::from(bits) << (32 * half + 8 * i);
            }
            first += LANES as u64;
        }
    }
}

/// The same for sixteen blocks.
mod sixteen {
    use super::super::{Key, LANES, M, round_keys};
    use std::arch::x86_64::*;

    const ODD: __mmask16 = 0xaaaa;

    /// Low and high words of sixteen products.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn products(x: __m512i, factor: __m512i) -> (__m512i, __m512i) {
        let even = _mm512_mul_epu32(x, factor);
        let odd = _mm512_mul_epu32(_mm512_srli_epi64::<32>(x), factor);
        let low = _mm512_mask_shuffle_epi32::<0xa0>(even, ODD, odd);
        let high = _mm512_mask_shuffle_epi32::<0xf5>(odd, !ODD, even);
        (low, high)
    }

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn round(c: [__m512i; 4], key: [u32; 2]) -> [__m512i; 4] {
        let factors = [_mm512_set1_epi64(M[0] as i64), _mm512_set1_epi64(M[1] as i64)];
        let keys = [_mm512_set1_epi32(key[0] as i32), _mm512_set1_epi32(key[1] as i32)];
        let (a_low, a_high) = products(c[0], factors[0]);
        let (b_low, b_high) = products(c[2], factors[1]);
        [
            _mm512_ternarylogic_epi32::<XOR>(c[1], keys[0], b_high),
            b_low,
            _mm512_ternarylogic_epi32::<XOR>(c[3], keys[1], a_high),
            a_low,
        ]
    }

    /// The table of `a ^ b ^ c`.
    const XOR: i32 = 0x96;

    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn join(a: __m256i, b: __m256i) -> __m512i {
        _mm512_inserti64x4::<1>(_mm512_castsi256_si512(a), b)
    }

    /// The high words of eight numbers.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn high(x: __m512i) -> __m256i {
        _mm512_cvtepi64_epi32(_mm512_srli_epi64::<32>(x))
    }

    /// Low and high words of the counters from `first`.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn counters(first: u64) -> [__m512i; 2] {
        let steps = _mm512_setr_epi64(0, 1, 2, 3, 4, 5, 6, 7);
        let a = _mm512_add_epi64(_mm512_set1_epi64(first as i64), steps);
        let b = _mm512_add_epi64(a, _mm512_set1_epi64(8));
        [join(_mm512_cvtepi64_epi32(a), _mm512_cvtepi64_epi32(b)), join(high(a), high(b))]
    }

    /// The words of twice sixteen blocks from `first`, a lane each: one after the other would wait
    /// for its own products.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn rounds(key: &Key, keys: &[[u32; 2]; 10], first: u64) -> [[__m512i; 4]; 2] {
        let [low, high] = counters(first);
        let [next_low, next_high] = counters(first + 2 * LANES as u64);
        let a = _mm512_set1_epi32(key.stream[0] as i32);
        let b = _mm512_set1_epi32(key.stream[1] as i32);
        let (mut c, mut d) = ([low, high, a, b], [next_low, next_high, a, b]);
        for key in keys {
            c = round(c, *key);
            d = round(d, *key);
        }
        [c, d]
    }

    /// The bits of the blocks from `block`.
    ///
    /// # Safety
    /// The processor has AVX-512F and BMI2.
    #[target_feature(enable = "avx512f,bmi2")]
    pub(super) fn below(key: &Key, block: u64, limit: u32, words: &mut [u64]) {
        const FIRST_OF_FOUR: u64 = 0x1111_1111_1111_1111;
        let (keys, limit) = (round_keys(key.key), _mm512_set1_epi32(limit as i32));
        for (words, first) in words.chunks_mut(2).zip((block..).step_by(4 * LANES)) {
            for (word, numbers) in words.iter_mut().zip(rounds(key, &keys, first)) {
                *word = 0;
                // Lane i of the j-th has element 4i + j.
                for (j, numbers) in numbers.into_iter().enumerate() {
                    let less = _mm512_cmplt_epi32_mask(_mm512_srli_epi32::<8>(numbers), limit);
                    *word |= _pdep_u64(u64::from(less), FIRST_OF_FOUR << j);
                }
            }
        }
    }

    /// Four words each of sixteen blocks, one block after the other; a lane of `c` holds a block's.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    #[inline]
    fn turned([a, b, c, d]: [__m512i; 4]) -> [__m512i; 4] {
        let (ab_low, ab_high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
        let (cd_low, cd_high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
        let w = _mm512_unpacklo_epi64(ab_low, cd_low);
        let x = _mm512_unpackhi_epi64(ab_low, cd_low);
        let y = _mm512_unpacklo_epi64(ab_high, cd_high);
        let z = _mm512_unpackhi_epi64(ab_high, cd_high);
        // Quarter q of each of the four holds one of the blocks 4q to 4q + 3.
        let wx_even = _mm512_shuffle_i32x4::<0x88>(w, x);
        let wx_odd = _mm512_shuffle_i32x4::<0xdd>(w, x);
        let yz_even = _mm512_shuffle_i32x4::<0x88>(y, z);
        let yz_odd = _mm512_shuffle_i32x4::<0xdd>(y, z);
        [
            _mm512_shuffle_i32x4::<0x88>(wx_even, yz_even),
            _mm512_shuffle_i32x4::<0x88>(wx_odd, yz_odd),
            _mm512_shuffle_i32x4::<0xdd>(wx_even, yz_even),
            _mm512_shuffle_i32x4::<0xdd>(wx_odd, yz_odd),
        ]
    }

    /// The uniforms of the blocks from `block`.
    ///
    /// # Safety
    /// The processor has AVX-512F.
    #[target_feature(enable = "avx512f")]
    pub(super) fn fill(key: &Key, block: u64, pairs: &mut [[[f32; 4 * LANES]; 2]]) {
        let scale = _mm512_set1_ps(1.0 / 16_777_216.0);
        let keys = round_keys(key.key);
        for (pairs, first) in pairs.chunks_mut(2).zip((block..).step_by(4 * LANES)) {
            for (pair, words) in pairs.iter_mut().zip(rounds(key, &keys, first)) {
                let rows = pair.as_flattened_mut().as_chunks_mut::<16>().0;
                for (out, words) in rows.iter_mut().zip(turned(words)) {
                    let numbers = _mm512_cvtepi32_ps(_mm512_srli_epi32::<8>(words));
                    // SAFETY: `out` has room for sixteen numbers; the store needs no alignment.
                    unsafe { _mm512_storeu_ps(out.as_mut_ptr(), _mm512_mul_ps(numbers, scale)) };
                }
            }
        }
    }
}
