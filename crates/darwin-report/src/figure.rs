//! Pictures: plotly figures with transparent backgrounds (the page's script gives them, for
//! light and dark), one pair of axes each, so that the page's grid can lay them out.

use crate::ink::{Ink, cividis};
use crate::words::{four_digits, plain};
use darwin_core::files::Estimate;
use plotly::common::{HoverInfo, Line, Mode};
use plotly::layout::{Axis, DragMode, HoverMode, Margin};
use plotly::{Configuration, HeatMap, Layout, Plot, Scatter};
use serde::Serialize;

/// A picture on the page.
#[derive(Debug, Serialize)]
pub(crate) struct Figure {
    /// Unique on the page.
    pub(crate) id: String,
    /// The heading over it.
    pub(crate) title: String,
    /// What it shows, in words, for those who do not see it.
    pub(crate) label: String,
    /// Height in CSS pixels.
    pub(crate) height: usize,
    /// Plotly's figure, safe inside a script element.
    pub(crate) json: String,
}

/// An entry of a legend.
#[derive(Debug, Serialize)]
pub(crate) struct Swatch {
    /// What it stands for.
    pub(crate) name: String,
    /// CSS colour.
    pub(crate) colour: String,
    /// SVG dash array.
    pub(crate) dash: &'static str,
    /// Stroke width: of a line, or of a band.
    pub(crate) width: f64,
}

impl Swatch {
    /// A line's entry.
    pub(crate) fn line(name: impl Into<String>, ink: Ink) -> Self {
        Self { name: name.into(), colour: ink.solid(), dash: ink.dash_array(), width: 2.5 }
    }

    /// A band's entry.
    pub(crate) fn band(name: impl Into<String>, ink: Ink) -> Self {
        Self { name: name.into(), colour: ink.faint(0.4), dash: "none", width: 9.0 }
    }
}

/// A colour scale's legend.
#[derive(Debug, Serialize)]
pub(crate) struct Scale {
    /// CSS gradient.
    pub(crate) gradient: String,
    /// Labels from left to right.
    pub(crate) ticks: Vec<String>,
    /// What the colour means.
    pub(crate) name: String,
}

/// Pictures that belong together.
#[derive(Debug, Default, Serialize)]
pub(crate) struct Group {
    /// The heading.
    pub(crate) title: String,
    /// What to see and how it was measured.
    pub(crate) text: String,
    /// Lines.
    pub(crate) legend: Vec<Swatch>,
    /// Colours.
    pub(crate) scale: Option<Scale>,
    /// `one`, `two` or `three` pictures side by side where there is room.
    pub(crate) columns: &'static str,
    /// The pictures.
    pub(crate) figures: Vec<Figure>,
}

/// One line over layers, with a band of +- two standard errors.
pub(crate) struct Curve<'a> {
    pub(crate) name: &'a str,
    pub(crate) ink: Ink,
    pub(crate) x: Vec<f64>,
    pub(crate) y: Vec<Estimate>,
}

impl Curve<'_> {
    /// Lowest and highest value with the band, finite ones only.
    pub(crate) fn range(&self) -> (f64, f64) {
        let ends = self.y.iter().flat_map(|e| [e.value - 2.0 * e.se, e.value + 2.0 * e.se]);
        ends.filter(|v| v.is_finite())
            .fold((f64::INFINITY, f64::NEG_INFINITY), |(a, b), v| (a.min(v), b.max(v)))
    }

    /// Adds the band first and the line over it.
    pub(crate) fn draw(&self, plot: &mut Plot) {
        if self.y.iter().any(|e| e.se > 0.0) {
            let edge = |sign: f64| {
                self.y.iter().map(|e| four_digits(e.value + sign * 2.0 * e.se)).collect()
            };
            band(plot, &self.x, edge(-1.0), edge(1.0), self.ink, 0.16);
        }
        let y = self.y.iter().map(|e| four_digits(e.value)).collect();
        let errors = self.y.iter().map(|e| error_text(*e)).collect();
        let line = Line::new().color(self.ink.solid()).dash(self.ink.dash()).width(2.0);
        plot.add_trace(
            Scatter::new(self.x.clone(), y)
                .mode(Mode::Lines)
                .name(plain(self.name))
                .line(line)
                .text_array(errors)
                .hover_template("%{y:.3g}%{text}"),
        );
    }
}

/// The range that holds every curve with its band, padded.
pub(crate) fn common_range<'c, 'a: 'c>(
    drawn: impl IntoIterator<Item = &'c Curve<'a>>,
) -> Option<Vec<f64>> {
    let ends = drawn.into_iter().map(Curve::range);
    let (low, high) = ends.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1)))?;
    let pad = 0.06 * (high - low);
    (low <= high).then(|| vec![four_digits(low - pad), four_digits(high + pad)])
}

fn error_text(e: Estimate) -> String {
    if e.se > 0.0 { format!(" ± {}", four_digits(2.0 * e.se)) } else { String::new() }
}

/// A filled band between two lines.
pub(crate) fn band(
    plot: &mut Plot,
    x: &[f64],
    low: Vec<f64>,
    high: Vec<f64>,
    ink: Ink,
    alpha: f64,
) {
    let edge = |y: Vec<f64>| {
        Scatter::new(x.to_vec(), y)
            .mode(Mode::Lines)
            .line(Line::new().width(0.0).color(ink.faint(0.0)))
            .hover_info(HoverInfo::Skip)
    };
    plot.add_trace(edge(low));
    plot.add_trace(edge(high).fill(plotly::common::Fill::ToNextY).fill_color(ink.faint(alpha)));
}

/// The layout that every picture shares.
pub(crate) fn layout(x: Axis, y: Axis) -> Layout {
    Layout::new()
        .show_legend(false)
        .auto_size(true)
        .drag_mode(DragMode::False)
        .margin(Margin::new().left(52).right(10).top(8).bottom(40))
        .paper_background_color("rgba(0,0,0,0)")
        .plot_background_color("rgba(0,0,0,0)")
        .x_axis(x.fixed_range(true))
        .y_axis(y.fixed_range(true))
}

/// The axis of decoder layers 0 to `layers` - 1.
pub(crate) fn layer_axis(layers: usize) -> Axis {
    let step = layers.div_ceil(12).max(1);
    let step = if step > 2 { step.div_ceil(5) * 5 } else { step };
    Axis::new()
        .title("layer")
        .dtick(step as f64)
        .tick0(0.0)
        .zero_line(false)
        .range(vec![-0.4, layers as f64 - 0.6])
}

/// An axis of values.
pub(crate) fn value_axis(title: &str) -> Axis {
    Axis::new().title(title).auto_margin(true).zero_line(true)
}

/// Curves over layers in one picture.
pub(crate) fn curves(layers: usize, y: Axis, drawn: &[Curve<'_>]) -> Plot {
    let mut plot = Plot::new();
    for curve in drawn {
        curve.draw(&mut plot);
    }
    plot.set_layout(layout(layer_axis(layers), y).hover_mode(HoverMode::XUnified));
    plot
}

/// A heat map in cividis with hover texts of its own.
pub(crate) fn heat_map(
    x: Vec<f64>,
    y: Vec<f64>,
    z: Vec<Vec<f64>>,
    hover: Vec<Vec<String>>,
    range: [f64; 2],
) -> Box<HeatMap<f64, f64, Vec<f64>>> {
    HeatMap::new(x, y, z)
        .color_scale(cividis())
        .show_scale(false)
        .zmin(range[0])
        .zmax(range[1])
        .x_gap(1.0)
        .y_gap(1.0)
        .hover_on_gaps(false)
        .text_matrix(hover)
        .hover_template("%{text}<extra></extra>")
}

/// Turns a plot into a picture of the page.
pub(crate) fn figure(
    id: impl Into<String>,
    title: impl Into<String>,
    label: impl Into<String>,
    height: usize,
    mut plot: Plot,
) -> Figure {
    plot.set_configuration(
        Configuration::new()
            .responsive(true)
            .display_logo(false)
            .display_mode_bar(plotly::configuration::DisplayModeBar::False)
            .double_click(plotly::configuration::DoubleClick::False),
    );
    let json = inside_script(&plot.to_json());
    Figure { id: id.into(), title: title.into(), label: label.into(), height, json }
}

/// JSON that cannot end the script element it stands in.
fn inside_script(json: &str) -> String {
    json.replace('<', "\\u003c")
        .replace('>', "\\u003e")
        .replace('&', "\\u0026")
        .replace('\u{2028}', "\\u2028")
        .replace('\u{2029}', "\\u2029")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_cannot_leave_its_script() {
        let json = inside_script(r#"{"a":"</script><!--"}"#);
        assert!(!json.contains('<') && !json.contains('>'));
        let read: serde_json::Value = serde_json::from_str(&json).expect("still JSON");
        assert_eq!(read["a"], "</script><!--");
    }
}
