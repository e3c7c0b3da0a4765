//! The box: a smooth, periodic map from all of space into it.
//!
//! pycma's `BoundTransform`: the identity inside, quadratic within a margin of each bound, and
//! mirrored beyond. Sampling happens in the unbounded *search* space and never leaves the box;
//! the bounds themselves are images of interior points, so that an optimum there is reached.

use super::CmaError;

/// Largest standard deviation in a coordinate, as a share of its range (pycma's
/// `maxstd_boundrange`).
const MAX_STD: f64 = 1.0 / 3.0;

/// Bounds of every coordinate; without any, all of space.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Bounds(Vec<Range>);

/// The bounds of one coordinate and the widths of the quadratic margins at them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Range {
    low: f64,
    high: f64,
    low_margin: f64,
    high_margin: f64,
}

impl Bounds {
    /// One pair (low, high) per coordinate, or none at all.
    pub(super) fn new(pairs: &[(f64, f64)], n: usize) -> Result<Self, CmaError> {
        if !pairs.is_empty() && pairs.len() != n {
            let found = pairs.len();
            return Err(CmaError::Dimension { what: "bounds", found, expected: n });
        }
        let range = |(index, (low, high)): (usize, &(f64, f64))| {
            let valid = low.is_finite() && high.is_finite() && low < high;
            valid.then(|| Range::new(*low, *high)).ok_or(CmaError::Bounds {
                index,
                low: *low,
                high: *high,
            })
        };
        Ok(Self(pairs.iter().enumerate().map(range).collect::<Result<_, _>>()?))
    }

    /// The point of the box that a point of the search space stands for.
    pub(super) fn to_box(&self, search: &[f64]) -> Vec<f64> {
        let mut x = search.to_vec();
        x.iter_mut().zip(&self.0).for_each(|(v, range)| *v = range.transform(*v));
        x
    }

    /// The nearest point of the search space that stands for a point of the box.
    pub(super) fn to_search(&self, x: &[f64]) -> Result<Vec<f64>, CmaError> {
        let mut search = x.to_vec();
        for (index, (value, range)) in search.iter_mut().zip(&self.0).enumerate() {
            let Range { low, high, .. } = *range;
            if !(low <= *value && *value <= high) {
                return Err(CmaError::Outside { index, value: *value, low, high });
            }
            *value = range.inverse(*value);
        }
        Ok(search)
    }

    /// The largest standard deviations that make sense in the box, by coordinate; empty without
    /// bounds.
    pub(super) fn max_stds(&self) -> impl Iterator<Item = f64> + '_ {
        self.0.iter().map(|range| MAX_STD * (range.high - range.low))
    }
}

impl Range {
    fn new(low: f64, high: f64) -> Self {
        let margin = |bound: f64| (0.5 * (high - low)).min(bound.abs().max(1.0) / 20.0);
        Self { low, high, low_margin: margin(low), high_margin: margin(high) }
    }

    fn transform(&self, x: f64) -> f64 {
        let Self { low, high, low_margin, high_margin } = *self;
        let mirrored = self.mirror(x);
        let y = if mirrored < low + low_margin {
            low + (mirrored - (low - low_margin)).powi(2) / (4.0 * low_margin)
        } else if mirrored > high - high_margin {
            high - (mirrored - (high + high_margin)).powi(2) / (4.0 * high_margin)
        } else {
            mirrored
        };
        y.clamp(low, high)
    }

    /// Shifts by whole periods and mirrors into [low - low_margin, high + high_margin].
    fn mirror(&self, x: f64) -> f64 {
        let (first, last) = (self.low - self.low_margin, self.high + self.high_margin);
        if (first..=last).contains(&x) {
            return x;
        }
        let width = last - first;
        let place = (x - first).rem_euclid(2.0 * width);
        first + if place > width { 2.0 * width - place } else { place }
    }

    fn inverse(&self, y: f64) -> f64 {
        let Self { low, high, low_margin, high_margin } = *self;
        if y < low + low_margin {
            (low - low_margin) + 2.0 * (low_margin * (y - low)).sqrt()
        } else if y > high - high_margin {
            (high + high_margin) - 2.0 * (high_margin * (high - y)).sqrt()
        } else {
            y
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn unit() -> Range {
        Range::new(0.0, 1.0)
    }

    /// `cma.boundary_handler.BoundTransform([0, 1]).transform([...])`, cma 4.5.0.
    #[test]
    fn transform_equals_pycma() {
        let x = [-2.3, -1.0, -0.07, -0.05, -0.01, 0.0, 0.03, 0.5, 0.98, 1.04, 1.05, 1.4, 7.7];
        let expected =
            [0.0125, 0.9, 0.002, 0.0, 0.008, 0.0125, 0.032, 0.5, 0.9755, 0.9995, 1.0, 0.7, 0.9875];
        for (x, expected) in x.into_iter().zip(expected) {
            let y = unit().transform(x);
            assert!((y - expected).abs() < 1e-12, "{x}: {y} is not {expected}");
        }
    }

    #[test]
    fn box_is_never_left_and_everywhere_reached() {
        let bounds = Bounds::new(&[(0.0, 1.0), (-30.0, 2.0), (5.0, 5.001)], 3).unwrap();
        for step in -2000..2000 {
            let x = bounds.to_box(&[0.01, 0.3, 0.000_1].map(|s: f64| s * f64::from(step)));
            let again = bounds.to_box(&bounds.to_search(&x).unwrap());
            assert!(x.iter().zip(&again).all(|(a, b)| (a - b).abs() < 1e-9), "{x:?} {again:?}");
        }
        let corners = bounds.to_search(&[0.0, 2.0, 5.0]).unwrap();
        assert_eq!(bounds.to_box(&corners), [0.0, 2.0, 5.0]);
    }

    #[test]
    fn lies_are_refused() {
        assert!(matches!(Bounds::new(&[(0.0, 1.0)], 2), Err(CmaError::Dimension { .. })));
        for pair in [(1.0, 1.0), (2.0, 1.0), (f64::NAN, 1.0), (0.0, f64::INFINITY)] {
            assert!(matches!(Bounds::new(&[pair], 1), Err(CmaError::Bounds { .. })));
        }
        let bounds = Bounds::new(&[(0.0, 1.0)], 1).unwrap();
        assert!(matches!(bounds.to_search(&[1.1]), Err(CmaError::Outside { .. })));
        assert!(matches!(bounds.to_search(&[f64::NAN]), Err(CmaError::Outside { .. })));
    }
}
