//! Which layers a rule is for: `38`, `"0-37"`, `last`, `last-1`, `"0-last-2"`, `all`, or a list.

use darwin_core::LayerIdx;
use std::fmt;

/// A layer, counted from the front or from the back, so that a rule runs at any depth.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LayerPosition {
    /// From the front: 0 is the first layer.
    Front(usize),
    /// From the back: `last` is 0, `last-1` is 1.
    Back(usize),
}

impl LayerPosition {
    fn resolve(self, num_layers: usize) -> Option<usize> {
        match self {
            Self::Front(i) => Some(i),
            Self::Back(n) => num_layers.checked_sub(n.checked_add(1)?),
        }
    }
}

impl fmt::Display for LayerPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Front(i) => write!(f, "{i}"),
            Self::Back(0) => f.write_str("last"),
            Self::Back(n) => write!(f, "last-{n}"),
        }
    }
}

/// A set of layers: ranges with both ends included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerSpec {
    ranges: Vec<(LayerPosition, LayerPosition)>,
}

impl LayerSpec {
    /// Every layer.
    #[must_use]
    pub fn all() -> Self {
        Self { ranges: vec![(LayerPosition::Front(0), LayerPosition::Back(0))] }
    }

    /// One layer.
    #[must_use]
    pub fn one(layer: LayerIdx) -> Self {
        Self::range(LayerPosition::Front(layer.0), LayerPosition::Front(layer.0))
    }

    /// From the first position to the last, both included.
    #[must_use]
    pub fn range(first: LayerPosition, last: LayerPosition) -> Self {
        Self { ranges: vec![(first, last)] }
    }

    /// Reads `38`, `0-37`, `last`, `last-1`, `0-last-2`, `all`, or several with commas.
    ///
    /// # Errors
    /// The part that is not understood.
    pub fn parse(text: &str) -> Result<Self, String> {
        let ranges = text.split(',').map(|part| parse_range(part.trim())).collect::<Result<_, _>>();
        ranges.map(|ranges| Self { ranges })
    }

    /// Whether a layer of a model with `num_layers` layers belongs to the set.
    #[must_use]
    pub fn contains(&self, layer: LayerIdx, num_layers: usize) -> bool {
        self.ranges.iter().any(|(first, last)| {
            match (first.resolve(num_layers), last.resolve(num_layers)) {
                (Some(first), Some(last)) => (first..=last).contains(&layer.0),
                (None, Some(last)) => layer.0 <= last,
                _ => false,
            }
        })
    }

    /// The first position that a model of `num_layers` layers does not have.
    pub(crate) fn beyond(&self, num_layers: usize) -> Option<LayerPosition> {
        let ends = self.ranges.iter().flat_map(|(first, last)| [*first, *last]);
        ends.into_iter().find(|p| match p {
            LayerPosition::Front(i) => *i >= num_layers,
            LayerPosition::Back(_) => false,
        })
    }
}

fn parse_range(text: &str) -> Result<(LayerPosition, LayerPosition), String> {
    if text == "all" {
        return Ok((LayerPosition::Front(0), LayerPosition::Back(0)));
    }
    let wrong = || text.to_owned();
    let (first, rest) = parse_position(text).ok_or_else(wrong)?;
    if rest.is_empty() {
        return Ok((first, first));
    }
    let rest = rest.strip_prefix('-').ok_or_else(wrong)?;
    match parse_position(rest) {
        Some((last, "")) => Ok((first, last)),
        _ => Err(wrong()),
    }
}

/// A position at the head of `text` and what follows it.
fn parse_position(text: &str) -> Option<(LayerPosition, &str)> {
    let Some(rest) = text.strip_prefix("last") else {
        let (index, rest) = parse_index(text)?;
        return Some((LayerPosition::Front(index), rest));
    };
    match rest.strip_prefix('-').and_then(parse_index) {
        Some((back, rest)) => Some((LayerPosition::Back(back), rest)),
        None => Some((LayerPosition::Back(0), rest)),
    }
}

fn parse_index(text: &str) -> Option<(usize, &str)> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = text.split_at(digits);
    number.parse().ok().map(|n| (n, rest))
}

impl fmt::Display for LayerSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, (first, last)) in self.ranges.iter().enumerate() {
            let comma = if i == 0 { "" } else { "," };
            if first == last {
                write!(f, "{comma}{first}")?;
            } else {
                write!(f, "{comma}{first}-{last}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn members(text: &str, num_layers: usize) -> Vec<usize> {
        let spec = LayerSpec::parse(text).unwrap();
        assert_eq!(LayerSpec::parse(&spec.to_string()).unwrap(), spec);
        (0..num_layers).filter(|l| spec.contains(LayerIdx(*l), num_layers)).collect()
    }

    #[test]
    fn names_from_the_back_run_at_any_depth() {
        assert_eq!(members("last", 8), [7]);
        assert_eq!(members("last-1", 40), [38]);
        assert_eq!(members("0-last-2", 5), [0, 1, 2]);
        assert_eq!(members("last-1-last", 5), [3, 4]);
        assert_eq!(members("0,2-3", 5), [0, 2, 3]);
        assert_eq!(members("all", 3), [0, 1, 2]);
        assert_eq!(members("0-last-2", 1), [0_usize; 0]);
        let largest = usize::MAX;
        assert_eq!(members(&format!("2-{largest}"), 4), [2, 3]);
        assert_eq!(members(&format!("{largest},last-{largest}"), 4), [0_usize; 0]);
        assert_eq!(members(&format!("last-{largest}-last"), 2), [0, 1]);
        for wrong in ["", "x", "3-", "-1", "last+1", "1..2", "0-99999999999999999999"] {
            assert!(LayerSpec::parse(wrong).is_err(), "{wrong}");
        }
    }
}
