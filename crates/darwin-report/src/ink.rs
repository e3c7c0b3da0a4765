//! Colours: mid-tones that can be read on light and on dark ground, apart for colour-blind eyes
//! too; every line has its own dash besides.

use plotly::common::{ColorScale, ColorScaleElement, DashType};

/// The colour and dash of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ink {
    rgb: [u8; 3],
    dash: Stroke,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stroke {
    Solid,
    Dotted,
    Dashed,
    Long,
    Mixed,
}

const fn ink(rgb: [u8; 3], dash: Stroke) -> Ink {
    Ink { rgb, dash }
}

/// The father, everywhere.
pub(crate) const FATHER: Ink = ink([58, 127, 193], Stroke::Dashed);
/// The mother, everywhere.
pub(crate) const MOTHER: Ink = ink([213, 134, 42], Stroke::Dotted);
/// The child, everywhere.
pub(crate) const CHILD: Ink = ink([21, 154, 114], Stroke::Solid);
/// What stands in the background: null bands, reference lines.
pub(crate) const GREY: Ink = ink([138, 143, 152], Stroke::Dotted);

/// Components of a layer: mixer, routed, shared.
pub(crate) const COMPONENTS: [Ink; 3] = [
    ink([140, 107, 184], Stroke::Dashed),
    ink([194, 86, 122], Stroke::Mixed),
    ink([74, 163, 181], Stroke::Long),
];

/// Father, mother, child.
pub(crate) const FAMILY: [(&str, Ink); 3] =
    [("father", FATHER), ("mother", MOTHER), ("child", CHILD)];

const ARMS: [(&str, Ink); 12] = [
    ("guided", CHILD),
    ("blind", ink([140, 107, 184], Stroke::Dashed)),
    ("line", ink([138, 143, 152], Stroke::Dotted)),
    ("card", ink([194, 86, 122], Stroke::Mixed)),
    ("placebo", ink([74, 163, 181], Stroke::Long)),
    ("blind-wide", ink([96, 125, 139], Stroke::Mixed)),
    ("random-mother", ink([121, 85, 72], Stroke::Dashed)),
    ("inverted", ink([160, 138, 44], Stroke::Dotted)),
    ("v4", ink([179, 99, 58], Stroke::Long)),
    ("random", ink([107, 142, 35], Stroke::Mixed)),
    ("regmean", ink([63, 81, 181], Stroke::Long)),
    ("card-v5", ink([173, 20, 87], Stroke::Dashed)),
];

/// The ink of an arm; arms without a fixed one share the last three colours.
pub(crate) fn arm(name: &str, position: usize) -> Ink {
    let named = ARMS.iter().find(|(arm, _)| *arm == name);
    named.map_or(ARMS[9 + position % 3].1, |(_, ink)| *ink)
}

impl Ink {
    /// `rgb(…)`.
    pub(crate) fn solid(self) -> String {
        let [r, g, b] = self.rgb;
        format!("rgb({r},{g},{b})")
    }

    /// `rgba(…)` for bands.
    pub(crate) fn faint(self, alpha: f64) -> String {
        let [r, g, b] = self.rgb;
        format!("rgba({r},{g},{b},{alpha})")
    }

    /// The dash in plotly's words.
    pub(crate) fn dash(self) -> DashType {
        match self.dash {
            Stroke::Solid => DashType::Solid,
            Stroke::Dotted => DashType::Dot,
            Stroke::Dashed => DashType::Dash,
            Stroke::Long => DashType::LongDash,
            Stroke::Mixed => DashType::DashDot,
        }
    }

    /// The dash in SVG's words, for legends.
    pub(crate) fn dash_array(self) -> &'static str {
        match self.dash {
            Stroke::Solid => "none",
            Stroke::Dotted => "2 3",
            Stroke::Dashed => "6 3",
            Stroke::Long => "10 4",
            Stroke::Mixed => "7 3 2 3",
        }
    }
}

/// Cividis (Nuñez, Anderton, Renslow, PLOS ONE 2018), nine stops: ordered in lightness and alike
/// for readers with and without colour vision deficiency.
const CIVIDIS: [&str; 9] = [
    "#00224e", "#123570", "#3b496c", "#575d6d", "#707173", "#8a8678", "#a59c74", "#c3b369",
    "#fee838",
];

/// The scale for plotly.
pub(crate) fn cividis() -> ColorScale {
    let last = (CIVIDIS.len() - 1) as f64;
    let stops = CIVIDIS.iter().enumerate();
    ColorScale::Vector(
        stops.map(|(i, c)| ColorScaleElement(i as f64 / last, (*c).to_owned())).collect(),
    )
}

/// The scale as a CSS gradient, for legends.
pub(crate) fn cividis_css() -> String {
    format!("linear-gradient(90deg,{})", CIVIDIS.join(","))
}
