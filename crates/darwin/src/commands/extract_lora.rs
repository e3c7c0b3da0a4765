//! `darwin extract-lora FINETUNED BASE OUT`

use crate::cli::ExtractLoraArgs;
use crate::table::{human_bytes, table};
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::Failure;
use darwin_merge::{ExtractOptions, Extracted, Extraction, extract_lora};
use std::process::ExitCode;

pub(crate) fn run(arguments: &ExtractLoraArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.threads, ui)?;
    let finetuned = Checkpoint::open(&arguments.finetuned)?;
    let base = Checkpoint::open(&arguments.base)?;
    crate::preflight::extract_lora(arguments, [&finetuned, &base], ui)?;
    let options = ExtractOptions {
        max_rank: arguments.rank,
        epsilon: arguments.epsilon,
        include: arguments.include.clone(),
        exclude: arguments.exclude.clone(),
        save_modules: arguments.save_modules.clone(),
        embed_lora: arguments.embed_lora,
        progress: ui.progress(),
        cancel: ui.cancel(),
    };
    let result = extract_lora(&finetuned, &base, &arguments.out, &options)?;
    let all = result.squared_norm();
    let mut rows: Vec<Vec<String>> =
        vec![["tensor", "shape", "rank", "error", "share"].map(str::to_owned).to_vec()];
    rows.extend(result.tensors.iter().map(|tensor| row(tensor, all, &result.lost)));
    ui.say(table(&rows));
    if !result.lost.is_empty() {
        ui.warn(format!(
            "no low-rank form for the difference of {}; `--save-module` keeps it whole: {}",
            count(result.lost.len(), "tensor"),
            result.lost.join(", ")
        ));
    }
    if !result.missing.is_empty() {
        ui.warn(format!(
            "the base alone has {}, which the adapter leaves as they are: {}",
            count(result.missing.len(), "tensor"),
            result.missing.join(", ")
        ));
    }
    ui.say(format!("{}: {}", arguments.out.display(), summary(&result)));
    Ok(ExitCode::SUCCESS)
}

fn row(tensor: &Extracted, all: f64, lost: &[String]) -> Vec<String> {
    let rank = match tensor.rank {
        Some(rank) => rank.to_string(),
        None if lost.contains(&tensor.tensor) => "-".to_owned(),
        None => "whole".to_owned(),
    };
    vec![
        tensor.tensor.clone(),
        format!("{:?}", tensor.shape),
        rank,
        format!("{:.2e}", tensor.error),
        format!("{:.2}%", 100.0 * tensor.squared_norm / all),
    ]
}

fn summary(result: &Extraction) -> String {
    let mut text = format!(
        "{} in {}; relative error {:.2e} of all differences; {} equal in both",
        count(result.tensors.len() - result.lost.len(), "tensor"),
        human_bytes(result.bytes),
        result.error(),
        count(result.equal, "tensor"),
    );
    if result.left_out > 0 {
        text.push_str(&format!("; {} left out", count(result.left_out, "tensor")));
    }
    text
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
