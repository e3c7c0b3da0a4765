//! Element types of safetensors and their exact conversion to and from f32.

use darwin_core::vectorised;
use half::f16;
use std::fmt;

/// An element type, by its safetensors name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[allow(missing_docs)]
pub enum Dtype {
    F64,
    F32,
    F16,
    Bf16,
    F8E4m3,
    F8E5m2,
    F8E8m0,
    I64,
    I32,
    I16,
    I8,
    U64,
    U32,
    U16,
    U8,
    Bool,
}

const NAMES: [(Dtype, &str, usize); 16] = [
    (Dtype::F64, "F64", 8),
    (Dtype::F32, "F32", 4),
    (Dtype::F16, "F16", 2),
    (Dtype::Bf16, "BF16", 2),
    (Dtype::F8E4m3, "F8_E4M3", 1),
    (Dtype::F8E5m2, "F8_E5M2", 1),
    (Dtype::F8E8m0, "F8_E8M0", 1),
    (Dtype::I64, "I64", 8),
    (Dtype::I32, "I32", 4),
    (Dtype::I16, "I16", 2),
    (Dtype::I8, "I8", 1),
    (Dtype::U64, "U64", 8),
    (Dtype::U32, "U32", 4),
    (Dtype::U16, "U16", 2),
    (Dtype::U8, "U8", 1),
    (Dtype::Bool, "BOOL", 1),
];

impl Dtype {
    /// The type with a safetensors name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        NAMES.iter().find(|(_, n, _)| *n == name).map(|(d, ..)| *d)
    }

    /// The safetensors name.
    #[must_use]
    pub fn name(self) -> &'static str {
        NAMES.iter().find(|(d, ..)| *d == self).map_or("?", |(_, n, _)| n)
    }

    /// Bytes per element.
    #[must_use]
    pub fn size(self) -> usize {
        NAMES.iter().find(|(d, ..)| *d == self).map_or(1, |(.., s)| *s)
    }

    /// The type with a PyTorch name (`bfloat16`, `torch.float16`), as configs and recipes write it.
    #[must_use]
    pub fn from_torch_name(name: &str) -> Option<Self> {
        match name.trim_start_matches("torch.") {
            "bfloat16" => Some(Self::Bf16),
            "float16" => Some(Self::F16),
            "float32" => Some(Self::F32),
            "float64" => Some(Self::F64),
            "int64" => Some(Self::I64),
            _ => None,
        }
    }

    /// The PyTorch name.
    #[must_use]
    pub fn torch_name(self) -> &'static str {
        match self {
            Self::Bf16 => "bfloat16",
            Self::F16 => "float16",
            Self::F32 => "float32",
            Self::F64 => "float64",
            Self::I64 => "int64",
            other => other.name(),
        }
    }

    /// Whether merge methods apply: f32, f16 and bf16, the types that f32 holds exactly.
    #[must_use]
    pub fn is_mergeable(self) -> bool {
        matches!(self, Self::F32 | Self::F16 | Self::Bf16)
    }

    /// Whether it is a weight's 8-bit float, which [`crate::Checkpoint`] reads as bfloat16.
    #[must_use]
    pub fn is_float8(self) -> bool {
        matches!(self, Self::F8E4m3 | Self::F8E5m2)
    }

    /// Widens little-endian bytes to f32, exactly; true where all are finite. For
    /// [`Dtype::is_mergeable`] types and floats of 8 bits.
    ///
    /// # Panics
    /// If the type is another or the lengths disagree: a bug of the caller.
    pub fn decode(self, bytes: &[u8], out: &mut [f32]) -> bool {
        assert_eq!(bytes.len(), out.len() * self.size(), "decode: lengths agree");
        match self {
            Self::F32 => decode_f32(bytes, out),
            Self::Bf16 => decode_bf16(bytes, out),
            Self::F16 => {
                for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
                    *o = f16::from_le_bytes(*b).to_f32();
                }
                all_finite(out)
            }
            Self::F8E4m3 => decode_bytes(bytes, out, e4m3),
            // The upper half of a float16.
            Self::F8E5m2 => decode_bytes(bytes, out, |b| f16::from_le_bytes([0, b]).to_f32()),
            Self::F8E8m0 => decode_bytes(bytes, out, e8m0),
            other => panic!("decode is for floats up to 32 bits, not {other}"),
        }
    }

    /// Rounds f32 values to this type, ties to even, kept as f32.
    pub fn round(self, values: &mut [f32]) {
        match self {
            Self::Bf16 => round_all_bf16(values),
            Self::F16 => values.iter_mut().for_each(|v| *v = f16::from_f32(*v).to_f32()),
            _ => {}
        }
    }

    /// Narrows f32 values to little-endian bytes, rounding ties to even; exact for values that
    /// [`Dtype::round`] has seen. True where none became infinite or is no number.
    ///
    /// # Panics
    /// If the type is not mergeable or the lengths disagree: a bug of the caller.
    pub fn encode(self, values: &[f32], out: &mut [u8]) -> bool {
        assert_eq!(out.len(), values.len() * self.size(), "encode: lengths agree");
        match self {
            Self::F32 => encode_f32(values, out),
            Self::Bf16 => encode_bf16(values, out),
            Self::F16 => {
                let mut finite = true;
                for (v, o) in values.iter().zip(out.as_chunks_mut::<2>().0) {
                    let value = f16::from_f32(*v);
                    finite &= value.is_finite();
                    *o = value.to_le_bytes();
                }
                finite
            }
            other => panic!("encode is for mergeable types, not {other}"),
        }
    }

    /// Whether little-endian bytes of a mergeable type hold no infinity and no NaN; other types are
    /// not looked at.
    #[must_use]
    pub fn is_finite(self, bytes: &[u8]) -> bool {
        match self {
            Self::F32 => finite_f32(bytes),
            Self::Bf16 => finite_16(bytes, 0x7f80),
            Self::F16 => finite_16(bytes, 0x7c00),
            _ => true,
        }
    }
}

/// The exponent of a float32: all of it is set in infinities and what is no number.
const EXPONENT: u32 = 0x7f80_0000;

vectorised! {
    fn decode_f32(bytes: &[u8], out: &mut [f32]) -> bool {
        let mut largest = 0;
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<4>().0) {
            let bits = u32::from_le_bytes(*b);
            largest = largest.max(bits & EXPONENT);
            *o = f32::from_bits(bits);
        }
        largest < EXPONENT
    }
}

vectorised! {
    fn decode_bf16(bytes: &[u8], out: &mut [f32]) -> bool {
        let mut largest = 0;
        for (o, b) in out.iter_mut().zip(bytes.as_chunks::<2>().0) {
            let bits = u32::from(u16::from_le_bytes(*b)) << 16;
            largest = largest.max(bits & EXPONENT);
            *o = f32::from_bits(bits);
        }
        largest < EXPONENT
    }
}

vectorised! {
    fn encode_f32(values: &[f32], out: &mut [u8]) -> bool {
        let mut largest = 0;
        for (v, o) in values.iter().zip(out.as_chunks_mut::<4>().0) {
            largest = largest.max(v.to_bits() & EXPONENT);
            *o = v.to_le_bytes();
        }
        largest < EXPONENT
    }
}

vectorised! {
    fn encode_bf16(values: &[f32], out: &mut [u8]) -> bool {
        let mut largest = 0;
        for (v, o) in values.iter().zip(out.as_chunks_mut::<2>().0) {
            let bits = round_bf16(*v).to_bits();
            largest = largest.max(bits & EXPONENT);
            *o = ((bits >> 16) as u16).to_le_bytes();
        }
        largest < EXPONENT
    }
}

vectorised! {
    fn round_all_bf16(values: &mut [f32]) {
        for v in values {
            *v = round_bf16(*v);
        }
    }
}

vectorised! {
    fn finite_f32(bytes: &[u8]) -> bool {
        let bits = |b: &[u8; 4]| u32::from_le_bytes(*b) & EXPONENT;
        bytes.as_chunks::<4>().0.iter().fold(0, |max, b| bits(b).max(max)) < EXPONENT
    }
}

vectorised! {
    /// Whether no number has all bits of the exponent set.
    fn finite_16(bytes: &[u8], exponent: u16) -> bool {
        let bits = |b: &[u8; 2]| u16::from_le_bytes(*b) & exponent;
        bytes.as_chunks::<2>().0.iter().fold(0, |max, b| bits(b).max(max)) < exponent
    }
}

fn decode_bytes(bytes: &[u8], out: &mut [f32], value: impl Fn(u8) -> f32) -> bool {
    let table: Vec<f32> = (0..=u8::MAX).map(value).collect();
    for (o, b) in out.iter_mut().zip(bytes) {
        *o = table[usize::from(*b)];
    }
    all_finite(out)
}

/// Four bits of exponent (bias 7), three of mantissa, no infinity.
fn e4m3(byte: u8) -> f32 {
    let sign = if byte & 0x80 == 0 { 1.0 } else { -1.0 };
    let (exponent, mantissa) = (i32::from(byte >> 3 & 15), f32::from(byte & 7));
    sign * match (exponent, byte & 7) {
        (15, 7) => f32::NAN,
        (0, _) => mantissa * 2.0_f32.powi(-9),
        _ => (8.0 + mantissa) * 2.0_f32.powi(exponent - 10),
    }
}

/// A power of two alone.
fn e8m0(byte: u8) -> f32 {
    if byte == u8::MAX { f32::NAN } else { 2.0_f64.powi(i32::from(byte) - 127) as f32 }
}

vectorised! {
    /// Whether no value is infinite or no number. A sum over all is faster than to stop at the
    /// first.
    pub(crate) fn all_finite(values: &[f32]) -> bool {
        values.iter().fold(0_u32, |bad, v| bad | u32::from(!v.is_finite())) == 0
    }
}

/// The first value that is infinite or no number, with its index. There is none as a rule, so all
/// are looked at before it is searched for.
pub(crate) fn first_not_finite(values: &[f32]) -> Option<(usize, f32)> {
    if all_finite(values) {
        return None;
    }
    values.iter().copied().enumerate().find(|(_, value)| !value.is_finite())
}

/// Rounds to bf16, ties to even; NaN stays NaN. Written without a branch so that it vectorises.
#[inline(always)]
fn round_bf16(value: f32) -> f32 {
    let bits = value.to_bits();
    let rounded = bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) & 0xffff_0000;
    let quiet = (bits | 0x0040_0000) & 0xffff_0000;
    f32::from_bits(if value.is_nan() { quiet } else { rounded })
}

impl fmt::Display for Dtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use half::bf16;

    #[test]
    fn bf16_rounding_is_that_of_half() {
        let mut bits = 1_u32;
        for _ in 0..200_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let v = f32::from_bits(bits);
            let expected = bf16::from_f32(v).to_f32();
            let found = round_bf16(v);
            assert!(found.to_bits() == expected.to_bits() || (v.is_nan() && found.is_nan()), "{v}");
        }
    }

    #[test]
    fn infinities_and_nans_are_found_in_bytes() {
        for (dtype, step) in [(Dtype::Bf16, 1), (Dtype::F16, 1), (Dtype::F32, 65_521)] {
            for at in (0..=u32::MAX >> (32 - 8 * dtype.size())).step_by(step) {
                let mut bytes = vec![0; 40 * dtype.size()];
                bytes[16..16 + dtype.size()].copy_from_slice(&at.to_le_bytes()[..dtype.size()]);
                let mut values = [0.0; 40];
                let told = dtype.decode(&bytes, &mut values);
                let finite = values.iter().all(|v| v.is_finite());
                assert_eq!(told, finite, "{at:x}");
                assert_eq!(dtype.is_finite(&bytes), finite, "{at:x}");
                assert_eq!(dtype.encode(&values, &mut bytes), finite, "{at:x}");
            }
        }
        assert!(Dtype::U8.is_finite(&[255; 8]));
        for dtype in [Dtype::Bf16, Dtype::F16] {
            assert!(!dtype.encode(&[0.0, f32::MAX], &mut [0; 4]), "rounds to infinity");
        }
    }

    #[test]
    fn every_bf16_and_f16_survives_the_round_trip() {
        for dtype in [Dtype::Bf16, Dtype::F16] {
            let bytes: Vec<u8> = (0..=u16::MAX).flat_map(u16::to_le_bytes).collect();
            let mut values = vec![0.0; 1 << 16];
            dtype.decode(&bytes, &mut values);
            let mut back = vec![0; bytes.len()];
            dtype.encode(&values, &mut back);
            for (i, v) in values.iter().enumerate() {
                assert!(v.is_nan() || bytes[2 * i..2 * i + 2] == back[2 * i..2 * i + 2]);
            }
        }
    }
}
