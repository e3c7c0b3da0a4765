//! Layers x experts load of father, mother and child (method 1.1), dead experts marked.

use super::{Section, sentences};
use crate::figure::{Figure, Group, Scale, figure, heat_map, layout};
use crate::ink::cividis_css;
use crate::run::{Part, Run};
use crate::words::{four_digits, grouped, model_label};
use darwin_core::files::{Health, Profile};
use plotly::common::{HoverInfo, Line, Marker, MarkerSymbol, Mode};
use plotly::layout::Axis;
use plotly::{Plot, Scatter};

/// The scale ends at 1/32 and 8 times the uniform load.
const RANGE: [f64; 2] = [-5.0, 3.0];

/// One layer's loads.
struct Layer {
    index: usize,
    load: Vec<f64>,
    dead: Vec<usize>,
    /// Tokens needed to call anything dead; 0 = some, number unknown.
    undecidable: Option<u64>,
}

/// Makes the section.
pub(crate) fn loads(run: &Run) -> Section<Group> {
    let child = of_profile(&run.child).or_else(|error| of_health(&run.health).map_err(|_| error));
    let models = [
        ("father", of_profile(&run.father)),
        ("mother", of_profile(&run.mother)),
        ("child", child),
    ];
    let missing = sentences(models.iter().map(|(_, layers)| layers.as_ref().err()));
    let figures: Vec<Figure> =
        models.iter().filter_map(|(name, layers)| panel(name, layers.as_ref().ok()?)).collect();
    let body = (!figures.is_empty()).then(|| Group {
        text: undecidable(models.iter().filter_map(|(n, l)| Some((*n, l.as_ref().ok()?)))),
        scale: Some(Scale {
            gradient: cividis_css(),
            ticks: ["≤ 1/32", "1/8", "1/2", "2", "≥ 8"].map(str::to_owned).to_vec(),
            name: "relative load (1 = uniform)".to_owned(),
        }),
        columns: "three",
        figures,
        ..Group::default()
    });
    Section { missing, body }
}

fn of_profile(profile: &Part<Profile>) -> Part<Vec<Layer>> {
    let profile = profile.as_ref().map_err(Clone::clone)?;
    let layers = profile.layers.iter().filter_map(|layer| {
        let experts = layer.experts.as_ref()?;
        let decided = experts.undecidable.is_none();
        Some(Layer {
            index: layer.layer,
            load: experts.relative_load.clone(),
            dead: if decided { experts.dead.clone() } else { Vec::new() },
            undecidable: experts.undecidable,
        })
    });
    Ok(layers.collect())
}

fn of_health(health: &Part<Health>) -> Part<Vec<Layer>> {
    let health = health.as_ref().map_err(Clone::clone)?;
    let layer = |layer: &darwin_core::files::LayerHealth| Layer {
        index: layer.layer,
        load: layer.relative_load.clone(),
        dead: layer.dead.as_ref().map(|dead| dead[2].clone()).unwrap_or_default(),
        undecidable: layer.dead.is_none().then_some(0),
    };
    Ok(health.layers.iter().filter(|l| !l.relative_load.is_empty()).map(layer).collect())
}

fn panel(name: &str, layers: &[Layer]) -> Option<Figure> {
    let experts = layers.iter().map(|l| l.load.len()).max()?;
    let z = layers.iter().map(|l| l.load.iter().map(|rho| colour(*rho)).collect()).collect();
    let hover = layers.iter().map(|l| {
        let text = |(e, rho): (usize, &f64)| {
            let dead = if l.dead.contains(&e) { "<br>dead" } else { "" };
            format!("layer {}, expert {e}<br>{} x uniform{dead}", l.index, four_digits(*rho))
        };
        l.load.iter().enumerate().map(text).collect()
    });
    let x = (0..experts).map(|e| e as f64).collect();
    let y = layers.iter().map(|l| l.index as f64).collect();
    let mut plot = Plot::new();
    plot.add_trace(heat_map(x, y, z, hover.collect(), RANGE));
    plot.add_trace(dead_marks(layers));
    let last = layers.iter().map(|l| l.index).max()? as f64;
    let across = Axis::new().title("expert").show_grid(false).zero_line(false);
    let down = Axis::new()
        .title("layer")
        .range(vec![last + 0.5, -0.5])
        .dtick(((last as usize + 1).div_ceil(12)) as f64)
        .show_grid(false)
        .zero_line(false);
    plot.set_layout(layout(across.range(vec![-0.5, experts as f64 - 0.5]), down));
    let height = (130 + 16 * layers.len()).clamp(240, 620);
    Some(figure(format!("load-{name}"), title(name, layers), describe(name, layers), height, plot))
}

fn colour(rho: f64) -> f64 {
    four_digits(rho.max(1e-9).log2().clamp(RANGE[0], RANGE[1]))
}

fn dead_marks(layers: &[Layer]) -> Box<Scatter<f64, f64>> {
    let dead = layers.iter().flat_map(|l| l.dead.iter().map(|e| (*e as f64, l.index as f64)));
    let (x, y): (Vec<f64>, Vec<f64>) = dead.unzip();
    let marker = Marker::new()
        .symbol(MarkerSymbol::XThin)
        .size(7)
        .line(Line::new().width(1.6).color("#ffffff"));
    Scatter::new(x, y).mode(Mode::Markers).marker(marker).hover_info(HoverInfo::Skip)
}

fn dead_count(layers: &[Layer]) -> usize {
    layers.iter().map(|l| l.dead.len()).sum()
}

fn title(name: &str, layers: &[Layer]) -> String {
    let open = layers.iter().filter(|l| l.undecidable.is_some()).count();
    let dead = match (open, dead_count(layers)) {
        (0, dead) => format!("{dead} dead"),
        (open, _) if open == layers.len() => "dead: undecidable".to_owned(),
        (open, dead) => format!("{dead} dead, {open} layers undecidable"),
    };
    format!("{} ({dead})", model_label(name))
}

fn describe(name: &str, layers: &[Layer]) -> String {
    let highest = layers
        .iter()
        .flat_map(|l| l.load.iter().enumerate().map(|(e, rho)| (*rho, l.index, e)))
        .max_by(|a, b| a.0.total_cmp(&b.0));
    let highest = highest.map(|(rho, layer, expert)| {
        format!("; the highest load is {rho:.1} times uniform, layer {layer}, expert {expert}")
    });
    let title = title(name, layers);
    format!("Expert loads of {} layers: {title}{}.", layers.len(), highest.unwrap_or_default())
}

/// Where the sample is too small to call anything dead, the page says so and by how much.
fn undecidable<'a>(models: impl Iterator<Item = (&'a str, &'a Vec<Layer>)>) -> String {
    let sentences = models.filter_map(|(name, layers)| {
        let needed = layers.iter().filter_map(|l| l.undecidable).max()?;
        let about = if needed > 0 {
            format!(": needs about {} tokens", grouped(needed))
        } else {
            String::new()
        };
        Some(format!("{}: undecidable in some layers{about}.", model_label(name)))
    });
    sentences.collect::<Vec<_>>().join(" ")
}
