//! Values that are not finite: where a forward pass first computes one.

use crate::Error;
use crate::kernels::all_finite;
use std::fmt;

/// The embedding, in [`NonFinite::component`].
pub(crate) const EMBEDDING: &str = "embedding";
/// A sum of the residual stream whose terms are finite.
pub(crate) const RESIDUAL: &str = "residual stream";
/// The final norm and the output head.
pub(crate) const HEAD: &str = "head";
/// The multi-token prediction head.
pub(crate) const MTP: &str = "mtp";

/// The first value of a forward pass that is NaN or infinite.
#[derive(Clone, Debug, PartialEq)]
pub struct NonFinite {
    /// The decoder layer; none for what comes before and after the layers.
    pub layer: Option<usize>,
    /// What computed the value: `mixer`, `router`, `routed` (a dense feed-forward block too),
    /// `shared`, `residual stream`, `embedding`, `head` or `mtp`.
    pub component: &'static str,
    /// The value.
    pub value: f32,
    /// Index of the sequence, prompt or item.
    pub sequence: usize,
    /// Position in the sequence.
    pub position: usize,
}

impl NonFinite {
    /// A value of the output head.
    pub(crate) fn of_head(value: f32, sequence: usize, position: usize) -> Self {
        Self { layer: None, component: HEAD, value, sequence, position }
    }

    /// Layer and component: `layer 3, mixer`.
    #[must_use]
    pub fn place(&self) -> String {
        match self.layer {
            Some(layer) => format!("layer {layer}, {}", self.component),
            None => self.component.to_owned(),
        }
    }

    /// What sorts such values in the order of computation, then of tokens.
    fn order(&self) -> (usize, usize, usize) {
        let layer = match self.layer {
            Some(layer) => layer + 1,
            None if self.component == EMBEDDING => 0,
            None => usize::MAX,
        };
        (layer, self.sequence, self.position)
    }
}

impl fmt::Display for NonFinite {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} gives {} at position {}", self.place(), self.value, self.position)
    }
}

/// Which of two errors of parts of a pass is reported. It does not depend on which came first:
/// among values that are not finite the one of the lowest layer, before them any other error.
pub(crate) trait Report: Sized {
    /// The one that is reported; `self` is of the part with the lower number.
    fn or(self, other: Self) -> Self;
}

impl Report for Error {
    fn or(self, other: Self) -> Self {
        match (&self, &other) {
            (Self::NotFinite(a), Self::NotFinite(b)) if b.order() < a.order() => other,
            (Self::NotFinite(_), b) if !matches!(b, Self::NotFinite(_)) => other,
            _ => self,
        }
    }
}

impl Report for std::convert::Infallible {
    fn or(self, _: Self) -> Self {
        match self {}
    }
}

impl Error {
    /// The same, with sequence and position as the caller counts them.
    pub(crate) fn at(self, place: impl FnOnce(usize, usize) -> (usize, usize)) -> Self {
        match self {
            Self::NotFinite(found) => {
                let (sequence, position) = place(found.sequence, found.position);
                Self::NotFinite(NonFinite { sequence, position, ..found })
            }
            other => other,
        }
    }
}

/// Row and value of the first one in rows of `width` that is not finite.
pub(crate) fn first_not_finite(values: &[f32], width: usize) -> Option<(usize, f32)> {
    if all_finite(values) {
        return None;
    }
    let at = values.iter().position(|v| !v.is_finite())?;
    Some((at / width, values[at]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(layer: Option<usize>, component: &'static str, sequence: usize) -> Error {
        let value = f32::NAN;
        Error::NotFinite(NonFinite { layer, component, value, sequence, position: 0 })
    }

    #[test]
    fn the_lowest_layer_is_reported_whichever_part_found_it() {
        let order = [
            found(None, EMBEDDING, 5),
            found(Some(0), "mixer", 4),
            found(Some(3), "router", 1),
            found(Some(3), "mixer", 2),
            found(None, HEAD, 0),
        ];
        for (i, first) in order.iter().enumerate() {
            for second in &order[i + 1..] {
                let (Error::NotFinite(a), Error::NotFinite(b)) = (first, second) else { panic!() };
                let error = |found: &NonFinite| Error::NotFinite(found.clone());
                assert_eq!(error(a).or(error(b)).to_string(), first.to_string());
                assert_eq!(error(b).or(error(a)).to_string(), first.to_string());
            }
        }
        assert!(matches!(found(None, EMBEDDING, 0).or(Error::Cancelled), Error::Cancelled));
        assert!(matches!(Error::Shapes.or(Error::Cancelled), Error::Shapes));
    }

    #[test]
    fn the_first_value_that_is_not_finite_is_found_wherever_it_stands() {
        for bad in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY, -f32::NAN] {
            for len in [1, 7, 8, 9, 64, 65, 130] {
                let mut values = vec![f32::MAX; len];
                assert_eq!(first_not_finite(&values, 3), None);
                for at in 0..len {
                    values[at] = bad;
                    let (row, value) = first_not_finite(&values, 3).unwrap();
                    assert_eq!((row, value.to_bits()), (at / 3, bad.to_bits()));
                    values[at] = -f32::MIN_POSITIVE;
                }
            }
        }
    }
}
