//! `darwin score MODEL items.jsonl`: one JSON line per item, as soon as its block is done.

use crate::cli::ScoreArgs;
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::Failure;
use darwin_engine::{Batch, Interventions, Model, Record, Sequence, Site, Tap, Text, score};
use darwin_eval::score_items::{self, Scorable};
use serde_json::{Map, Value, json};
use std::process::ExitCode;

/// Items scored between two moments of output.
const BLOCK: usize = 256;

pub(crate) fn run(arguments: &ScoreArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let items = score_items::read(&arguments.items, || Text::open(&arguments.model))?;
    let model = Model::load(&checkpoint)?;
    ui.progress().start("score", items.len() as u64, "items");
    for block in items.chunks(BLOCK) {
        let asked: Vec<_> = block.iter().map(|s| s.item.clone()).collect();
        let scores = score(&model, &asked, ui.cancel())?;
        for (scorable, score) in block.iter().zip(scores) {
            let mut line = Map::new();
            line.insert("id".to_owned(), scorable.id.clone().unwrap_or(json!(scorable.line)));
            line.insert("nll".to_owned(), json!(score.nll));
            line.insert("logprobs".to_owned(), json!(score.logprobs));
            line.insert("greedy".to_owned(), json!(score.greedy));
            if arguments.taps {
                line.insert("experts".to_owned(), selected_experts(&model, scorable)?);
            }
            ui.say(Value::Object(line).to_string());
        }
        ui.progress().advance(block.len() as u64);
    }
    ui.progress().finish();
    Ok(ExitCode::SUCCESS)
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
