//! Spherical interpolation (Shoemake, SIGGRAPH 1985; mergekit 0.1.5, `slerp.py`).

/// Beyond this cosine two vectors count as colinear.
const COLINEAR: f64 = 0.9995;
/// A vector shorter than this is not normalised.
const TINY: f64 = 1e-8;

/// The coefficients of the two vectors, and whether they are the linear ones, from
/// `[a.a, b.b, a.b]`.
pub(crate) fn coefficients([aa, bb, ab]: [f64; 3], t: f64) -> ([f64; 2], bool) {
    let unit = |square: f64| if square.sqrt() > TINY { square.sqrt() } else { 1.0 };
    let cosine = (ab / (unit(aa) * unit(bb))).clamp(-1.0, 1.0);
    if cosine.abs() > COLINEAR {
        return ([1.0 - t, t], true);
    }
    let angle = cosine.acos();
    ([((1.0 - t) * angle).sin() / angle.sin(), (t * angle).sin() / angle.sin()], false)
}

/// The divisor that makes a vector of this norm a unit vector, in f32.
pub(crate) fn unit(norm: f32) -> f32 {
    if norm > TINY as f32 { norm } else { 1.0 }
}

/// The coefficients from the cosine, each step in f32 as mergekit does. Its arc cosine and sine
/// are not always the nearest f32, so that the last bit may differ.
pub(crate) fn coefficients_f32(cosine: f32, t: f64) -> ([f64; 2], bool) {
    let (cosine, t) = (cosine.clamp(-1.0, 1.0), t as f32);
    if cosine.abs() > COLINEAR as f32 {
        return ([f64::from(1.0 - t), f64::from(t)], true);
    }
    let angle = cosine.acos();
    let part = |t: f32| f64::from((t * angle).sin() / angle.sin());
    ([part(1.0 - t), part(t)], false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_right_angle_is_halved() {
        let ([a, b], linear) = coefficients([1.0, 4.0, 0.0], 0.5);
        assert!((a - 0.5_f64.sqrt()).abs() < 1e-15 && (a - b).abs() < 1e-15 && !linear);
        assert_eq!(coefficients([1.0, 1.0, 1.0], 0.25), ([0.75, 0.25], true));
    }
}
