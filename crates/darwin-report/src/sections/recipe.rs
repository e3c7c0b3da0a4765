//! The recipe as a picture: the mother's share in every component of every layer.

use crate::figure::{Figure, Group, Scale, figure, heat_map, layer_axis, layout};
use crate::ink::cividis_css;
use crate::run::Run;
use crate::shares::{Names, is_solved, layer_of};
use crate::size::elements;
use crate::words::plain;
use darwin_core::files::{Action, ManifestLine, MergeManifest};
use plotly::common::{Font, HoverInfo, Mode};
use plotly::layout::Axis;
use plotly::{Plot, Scatter};
use serde::Serialize;
use std::collections::BTreeMap;

/// Rows of the picture: name and the manifest's roles in it.
const ROWS: [(&str, &[&str]); 5] = [
    ("mixer", &["linear_attention", "attention"]),
    ("router", &["router"]),
    ("routed", &["routed_expert", "mlp"]),
    ("shared", &["shared_expert"]),
    ("norms", &["norm"]),
];

/// The section.
#[derive(Debug, Serialize)]
pub(crate) struct Recipe {
    pub(crate) group: Option<Group>,
    pub(crate) outside: Vec<Outside>,
    /// Tensors that were solved from activations.
    pub(crate) solved: usize,
    pub(crate) left_out: Vec<String>,
    pub(crate) yaml: Option<String>,
}

/// Tensors that are in no decoder layer.
#[derive(Debug, Serialize)]
pub(crate) struct Outside {
    pub(crate) role: String,
    pub(crate) tensors: usize,
    pub(crate) done: String,
}

/// One cell of the picture.
#[derive(Debug, Default)]
struct Cell {
    weight: f64,
    sum: f64,
    low: f64,
    high: f64,
    methods: Vec<String>,
    copied: bool,
}

/// Makes the section; the YAML is shown even where the manifest is missing.
pub(crate) fn recipe(run: &Run) -> super::Section<Recipe> {
    let yaml = run.recipe.as_ref().ok().cloned();
    let missing = super::sentences([run.manifest.as_ref().err(), run.recipe.as_ref().err()]);
    let Ok(manifest) = &run.manifest else {
        let text_only = |yaml| Recipe {
            group: None,
            outside: vec![],
            solved: 0,
            left_out: vec![],
            yaml: Some(yaml),
        };
        return super::Section { missing, body: yaml.map(text_only) };
    };
    let names = Names::of(manifest);
    let group = picture(manifest, &names, experts(run)).map(|figure| Group {
        scale: Some(Scale {
            gradient: cividis_css(),
            ticks: ["0 father", "0.5", "1 mother"].map(str::to_owned).to_vec(),
            name: "share t of the mother".to_owned(),
        }),
        columns: "one",
        figures: vec![figure],
        ..Group::default()
    });
    let left_out = manifest.left_out.iter().map(|(t, why)| format!("{t}: {why}")).collect();
    let solved = manifest.tensors.iter().filter(|line| is_solved(line)).count();
    let body = Recipe { group, outside: outside(manifest, &names), solved, left_out, yaml };
    super::Section { missing, body: Some(body) }
}

fn experts(run: &Run) -> Option<u64> {
    run.father.as_ref().ok().map(|p| p.num_experts as u64)
}

fn row_of(line: &ManifestLine) -> Option<usize> {
    ROWS.iter().position(|(_, roles)| roles.contains(&line.role.as_str()))
}

fn cells(
    manifest: &MergeManifest,
    names: &Names,
    experts: Option<u64>,
) -> BTreeMap<(usize, usize), Cell> {
    let mut cells: BTreeMap<(usize, usize), Cell> = BTreeMap::new();
    for line in &manifest.tensors {
        let place = row_of(line).zip(layer_of(&line.tensor));
        let known = names.share(line).zip(names.range(line));
        let Some((place, (t, [low, high]))) = place.zip(known) else { continue };
        let cell =
            cells.entry(place).or_insert(Cell { low, high, copied: true, ..Cell::default() });
        let weight = elements(line, experts) as f64;
        cell.weight += weight;
        cell.sum += weight * t;
        cell.low = cell.low.min(low);
        cell.high = cell.high.max(high);
        cell.copied &= line.action != Action::Blend;
        let method = plain(&line.method);
        if !cell.methods.contains(&method) {
            cell.methods.push(method);
        }
    }
    cells
}

impl Cell {
    fn mean(&self) -> f64 {
        if self.weight > 0.0 { self.sum / self.weight } else { f64::NAN }
    }

    /// What stands in the cell: the donor of a copy, or the share.
    fn mark(&self, room: bool) -> String {
        match (self.copied, self.low, self.high) {
            (true, 1.0, 1.0) => "M".to_owned(),
            (true, 0.0, 0.0) => "F".to_owned(),
            _ if room => format!("{:.2}", self.mean()),
            _ => String::new(),
        }
    }

    fn hover(&self, layer: usize, row: &str) -> String {
        let spread = if self.high - self.low > 1e-9 {
            format!(" ({:.3} to {:.3} over tensors and experts)", self.low, self.high)
        } else {
            String::new()
        };
        format!(
            "layer {layer}, {row}<br>t = {:.3}{spread}<br>{}",
            self.mean(),
            self.methods.join(", ")
        )
    }
}

fn picture(manifest: &MergeManifest, names: &Names, experts: Option<u64>) -> Option<Figure> {
    let cells = cells(manifest, names, experts);
    let layers = cells.keys().map(|(_, layer)| layer + 1).max()?;
    let grid = |f: &dyn Fn(&Cell, usize, usize) -> f64| -> Vec<Vec<f64>> {
        let at = |row: usize, layer: usize| {
            cells.get(&(row, layer)).map_or(f64::NAN, |c| f(c, row, layer))
        };
        (0..ROWS.len()).map(|row| (0..layers).map(|layer| at(row, layer)).collect()).collect()
    };
    let z = grid(&|cell, _, _| (1000.0 * cell.mean()).round() / 1000.0);
    let hover = (0..ROWS.len()).map(|row| {
        let text = |layer| {
            cells.get(&(row, layer)).map_or_else(String::new, |c| c.hover(layer, ROWS[row].0))
        };
        (0..layers).map(text).collect()
    });
    let x = (0..layers).map(|l| l as f64).collect();
    let y = (0..ROWS.len()).map(|r| r as f64).collect();
    let mut plot = Plot::new();
    plot.add_trace(heat_map(x, y, z, hover.collect(), [0.0, 1.0]));
    marks(&mut plot, &cells, layers <= 16);
    let names = ROWS.iter().map(|(name, _)| *name).collect();
    let rows = Axis::new()
        .tick_values((0..ROWS.len()).map(|r| r as f64).collect())
        .tick_text(names)
        .range(vec![ROWS.len() as f64 - 0.5, -0.5])
        .zero_line(false)
        .show_grid(false);
    let layer_axis = layer_axis(layers).range(vec![-0.5, layers as f64 - 0.5]).show_grid(false);
    plot.set_layout(layout(layer_axis, rows));
    Some(figure("recipe", "", describe(&cells, layers), 250, plot))
}

/// Letters and numbers over the cells, dark on light cells and light on dark ones.
fn marks(plot: &mut Plot, cells: &BTreeMap<(usize, usize), Cell>, room: bool) {
    for (light, colour) in [(false, "#f4f4f2"), (true, "#1b1b18")] {
        let on = cells.iter().filter(|(_, c)| (c.mean() >= 0.55) == light);
        let (mut x, mut y, mut text) = (Vec::new(), Vec::new(), Vec::new());
        for ((row, layer), cell) in on {
            x.push(*layer as f64);
            y.push(*row as f64);
            text.push(cell.mark(room));
        }
        let marks = Scatter::new(x, y)
            .mode(Mode::Text)
            .text_array(text)
            .text_font(Font::new().color(colour).size(11))
            .hover_info(HoverInfo::Skip);
        plot.add_trace(marks);
    }
}

fn describe(cells: &BTreeMap<(usize, usize), Cell>, layers: usize) -> String {
    let row = |row: usize| {
        let shares: Vec<f64> =
            cells.iter().filter(|((r, _), _)| *r == row).map(|(_, c)| c.mean()).collect();
        let low = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let high = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        (!shares.is_empty()).then(|| format!("{} {low:.2} to {high:.2}", ROWS[row].0))
    };
    let rows: Vec<String> = (0..ROWS.len()).filter_map(row).collect();
    format!("Share of the mother by component over {layers} layers: {}.", rows.join("; "))
}

fn outside(manifest: &MergeManifest, names: &Names) -> Vec<Outside> {
    let mut roles: BTreeMap<&str, Vec<&ManifestLine>> = BTreeMap::new();
    for line in manifest.tensors.iter().filter(|l| row_of(l).zip(layer_of(&l.tensor)).is_none()) {
        roles.entry(&line.role).or_default().push(line);
    }
    let done = |lines: &[&ManifestLine]| {
        let shares: Vec<f64> = lines.iter().filter_map(|l| names.range(l)).flatten().collect();
        let bytes = lines.iter().all(|l| l.action == Action::Passthrough);
        let low = shares.iter().copied().fold(f64::INFINITY, f64::min);
        let high = shares.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        match (shares.is_empty(), bytes, low, high) {
            (true, ..) => "see the manifest".to_owned(),
            (_, true, 0.0, 0.0) => "the father's, byte for byte".to_owned(),
            (_, true, 1.0, 1.0) => "the mother's, byte for byte".to_owned(),
            _ if high - low < 1e-9 => format!("t = {low:.3}"),
            _ => format!("t = {low:.3} to {high:.3}"),
        }
    };
    let outside = roles.into_iter().map(|(role, lines)| Outside {
        role: match role {
            "norm" => "final norm".to_owned(),
            role => role.replace('_', " "),
        },
        tensors: lines.len(),
        done: done(&lines),
    });
    outside.collect()
}
