//! Numbers and names as the reader sees them.

use darwin_core::files::{Estimate, Scored};
use darwin_core::stats::{Interval, Z95, wilson};

/// A share in per cent, one decimal: `62.4`.
pub(crate) fn percent(share: f64) -> String {
    if share.is_finite() { format!("{:.1}", 100.0 * share) } else { "-".to_owned() }
}

/// A difference of shares in points, with its sign: `+4.2`.
pub(crate) fn points(difference: f64) -> String {
    let rounded = (1000.0 * difference).round() / 10.0;
    if rounded == 0.0 { "0.0".to_owned() } else { format!("{rounded:+.1}") }
}

/// Wilson's 95 % interval of a score.
pub(crate) fn interval(score: Scored) -> Interval {
    wilson(score.correct as u64, score.n as u64, Z95)
}

/// A p value as the reader wants it.
pub(crate) fn p_value(p: f64) -> String {
    match p {
        p if p < 0.001 => "p < 0.001".to_owned(),
        p if p < 0.1 => format!("p = {p:.3}"),
        p => format!("p = {p:.2}"),
    }
}

/// `1.234 ± 0.056`, at a number of decimals that fits the error; words where it is no number.
pub(crate) fn estimate(e: Estimate) -> String {
    if !e.value.is_finite() {
        return "not finite".to_owned();
    }
    let decimals =
        if e.se > 0.0 { (1.0 - e.se.log10().floor()).clamp(0.0, 6.0) as usize } else { 3 };
    format!("{:.decimals$} ± {:.decimals$}", e.value, e.se)
}

/// A whole number with thin groups of three: `16,000`.
pub(crate) fn grouped(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(digit);
    }
    out
}

/// A large number in words: `5.0 M`, `35 B`.
pub(crate) fn magnitude(n: u64) -> String {
    let x = n as f64;
    let (scaled, unit) = match x {
        x if x >= 999.5e6 => (x / 1e9, " B"),
        x if x >= 999.5e3 => (x / 1e6, " M"),
        x if x >= 1e4 => (x / 1e3, " k"),
        _ => return grouped(n),
    };
    if scaled < 9.95 { format!("{scaled:.1}{unit}") } else { format!("{scaled:.0}{unit}") }
}

/// Four significant digits: what a picture needs, and no more bytes than that.
pub(crate) fn four_digits(x: f64) -> f64 {
    format!("{x:.3e}").parse().unwrap_or(x)
}

/// The name of an arm or model for a heading.
pub(crate) fn model_label(name: &str) -> String {
    match name {
        "line" => "Best of the line".to_owned(),
        _ => arm_label(name),
    }
}

/// The name of an arm of the search.
pub(crate) fn arm_label(name: &str) -> String {
    match name {
        "v4" => "V4".to_owned(),
        "regmean" => "RegMean".to_owned(),
        _ => {
            let mut letters = name.chars();
            letters.next().map_or_else(String::new, |c| c.to_uppercase().chain(letters).collect())
        }
    }
}

/// `a, b and c`.
pub(crate) fn list(items: &[String]) -> String {
    match items {
        [] => String::new(),
        [one] => one.clone(),
        [init @ .., last] => format!("{} and {last}", init.join(", ")),
    }
}

/// A text that stands for itself in HTML and in plotly's labels.
pub(crate) fn plain(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_well() {
        assert_eq!(percent(0.62449), "62.4");
        assert_eq!(points(0.0421), "+4.2");
        assert_eq!(points(-0.0001), "0.0");
        assert_eq!(grouped(1_234_567), "1,234,567");
        assert_eq!(magnitude(5_012_345), "5.0 M");
        assert_eq!(magnitude(35_000_000_000), "35 B");
        assert_eq!(magnitude(999), "999");
        assert_eq!(four_digits(0.123_456), 0.123_5);
        assert_eq!(estimate(Estimate { value: 1.234_56, se: 0.0456 }), "1.235 ± 0.046");
        assert_eq!(estimate(Estimate { value: f64::NAN, se: f64::NAN }), "not finite");
        assert_eq!(p_value(0.000_2), "p < 0.001");
    }

    #[test]
    fn lists_read_well() {
        let items = ["a", "b", "c"].map(str::to_owned);
        assert_eq!(list(&items), "a, b and c");
        assert_eq!(list(&items[..1]), "a");
        assert_eq!(list(&[]), "");
    }
}
