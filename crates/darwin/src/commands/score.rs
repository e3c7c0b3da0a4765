//! `darwin score MODEL items.jsonl`

use crate::cli::ScoreArgs;
use crate::preflight;
use crate::table::table;
use crate::ui::Ui;
use darwin_checkpoint::AnyModel;
use darwin_core::stats::{Estimate, Z95, mean_se};
use darwin_core::{Diagnose, Failure, Fault};
use darwin_engine::{
    Batch, Error, Interventions, ItemScore, Model, Record, Sequence, Site, Tap, Text, score,
};
use darwin_eval::score_items::{self, Scorable};
use serde_json::{Map, Value, json};
use std::f64::consts::LN_2;
use std::process::ExitCode;

/// Items scored between two moments of output.
const BLOCK: usize = 256;

pub(crate) fn run(arguments: &ScoreArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.threads, ui)?;
    let source = AnyModel::open(&arguments.model)?;
    let items = score_items::read(&arguments.items, || Text::open(&arguments.model))?;
    if preflight::score(&source, &items, arguments.dry_run, ui)? {
        return Ok(ExitCode::SUCCESS);
    }
    let model = Model::load(&source)?;
    let (mut summary, mut rows) = (Summary::default(), vec![head()]);
    ui.progress().start("score", items.len() as u64, "items");
    for block in items.chunks(BLOCK) {
        let asked: Vec<_> = block.iter().map(|s| s.item.clone()).collect();
        let scores =
            score(&model, &asked, ui.cancel()).map_err(|error| of_item(error, arguments, block))?;
        for (scorable, score) in block.iter().zip(scores) {
            if ui.cancel().is_cancelled() {
                return Err(Failure::new(Fault::Interrupted, "interrupted"));
            }
            summary.add(scorable, &score);
            if arguments.json {
                ui.say(line(arguments, &model, scorable, score)?.to_string());
            } else {
                rows.push(row(scorable, &score));
            }
        }
        ui.progress().advance(block.len() as u64);
    }
    ui.progress().finish();
    if arguments.json {
        ui.say(json!({"summary": summary.json()}).to_string());
    } else {
        ui.say(table(&rows));
        ui.say(summary.text());
    }
    Ok(ExitCode::SUCCESS)
}

/// Says of which item a value is that is not finite.
fn of_item(error: Error, arguments: &ScoreArgs, block: &[Scorable]) -> Failure {
    let hint = error.hint().unwrap_or_default();
    match error {
        Error::NotFinite(found) => {
            let (model, item) = (arguments.model.display(), &block[found.sequence]);
            let what = format!("{model} computes values that are not finite: {found}");
            Failure::user(format!("{what} of item {} (line {})", id(item), item.line))
                .with_hint(hint)
        }
        other => other.into(),
    }
}

fn head() -> Vec<String> {
    ["item", "tokens", "nll", "nll/token", "greedy"].map(str::to_owned).to_vec()
}

fn id(scorable: &Scorable) -> Value {
    scorable.id.clone().unwrap_or(json!(scorable.line))
}

fn row(scorable: &Scorable, score: &ItemScore) -> Vec<String> {
    let name = match id(scorable) {
        Value::String(name) => name,
        other => other.to_string(),
    };
    let tokens = scorable.item.answer.len();
    vec![
        name,
        tokens.to_string(),
        format!("{:.4}", score.nll),
        format!("{:.4}", score.nll / tokens as f64),
        if score.greedy { "yes" } else { "no" }.to_owned(),
    ]
}

fn line(
    arguments: &ScoreArgs,
    model: &Model,
    scorable: &Scorable,
    score: ItemScore,
) -> Result<Value, Failure> {
    let mut line = Map::new();
    line.insert("id".to_owned(), id(scorable));
    line.insert("nll".to_owned(), json!(score.nll));
    line.insert("tokens".to_owned(), json!(scorable.item.answer.len()));
    if let Some(bytes) = scorable.bytes {
        line.insert("bytes".to_owned(), json!(bytes));
    }
    line.insert("greedy".to_owned(), json!(score.greedy));
    if arguments.tokens {
        line.insert("logprobs".to_owned(), json!(score.logprobs));
    }
    if arguments.taps {
        line.insert("experts".to_owned(), selected_experts(model, scorable)?);
    }
    Ok(Value::Object(line))
}

/// What all items come to.
#[derive(Default)]
struct Summary {
    nlls: Vec<f64>,
    tokens: usize,
    greedy: usize,
    /// Nats and bytes of the items that are text.
    nats: f64,
    bytes: usize,
}

impl Summary {
    fn add(&mut self, scorable: &Scorable, score: &ItemScore) {
        self.nlls.push(score.nll);
        self.tokens += scorable.item.answer.len();
        self.greedy += usize::from(score.greedy);
        if let Some(bytes) = scorable.bytes {
            self.nats += score.nll;
            self.bytes += bytes;
        }
    }

    fn mean(&self) -> Estimate {
        mean_se(&self.nlls)
    }

    fn per_token(&self) -> f64 {
        self.nlls.iter().sum::<f64>() / self.tokens as f64
    }

    fn bits_per_byte(&self) -> Option<f64> {
        (self.bytes > 0).then(|| self.nats / LN_2 / self.bytes as f64)
    }

    fn json(&self) -> Value {
        let (mean, interval) = (self.mean(), self.mean().interval(Z95));
        json!({
            "n": mean.n,
            "nll": mean.value,
            "nll_se": Some(mean.se).filter(|se| se.is_finite()),
            "nll_low": Some(interval.low).filter(|x| x.is_finite()),
            "nll_high": Some(interval.high).filter(|x| x.is_finite()),
            "tokens": self.tokens,
            "nll_per_token": self.per_token(),
            "bytes": self.bytes,
            "bits_per_byte": self.bits_per_byte(),
            "greedy": self.greedy,
        })
    }

    /// The means over items, with the 95 % interval of the mean (normal, over items).
    fn text(&self) -> String {
        let (mean, interval) = (self.mean(), self.mean().interval(Z95));
        let range = if mean.n > 1 {
            format!(", 95 % interval {:.4} to {:.4}", interval.low, interval.high)
        } else {
            String::new()
        };
        let mut text = format!(
            "nll {:.4} nats an item (n = {}{range}), {:.4} nats a token (n = {}), greedy {} of {}",
            mean.value,
            mean.n,
            self.per_token(),
            self.tokens,
            self.greedy,
            mean.n
        );
        if let Some(bits) = self.bits_per_byte() {
            text.push_str(&format!(", {bits:.4} bits a byte (n = {})", self.bytes));
        }
        text
    }
}

/// For each layer, for each token, the ids of the selected experts in falling order of their gates.
fn selected_experts(model: &Model, scorable: &Scorable) -> Result<Value, Failure> {
    let ids = [scorable.item.prompt.as_slice(), &scorable.item.answer].concat();
    let batch = Batch::new(vec![Sequence { ids, sample_id: 0, domain: None }]);
    let layers = model.config().num_hidden_layers;
    let mut tap = Selected(vec![Vec::new(); layers]);
    let mut state = model.embed(&batch)?;
    model.run(&mut state, 0..layers, &mut tap, &Interventions::default())?;
    Ok(json!(tap.0))
}

/// Per layer, per token, the selected experts.
struct Selected(Vec<Vec<Vec<u32>>>);

impl Tap for Selected {
    fn wants(&self, site: Site, _: usize) -> bool {
        site == Site::TopK
    }

    fn record(&mut self, record: &Record<'_>) {
        let k = record.shape[1].max(1);
        for token in record.experts.unwrap_or(&[]).chunks(k) {
            self.0[record.layer].push(token.to_vec());
        }
    }
}
