//! `darwin inspect MODEL`

use crate::cli::InspectArgs;
use crate::table::{human_bytes, human_count, table};
use crate::ui::Ui;
use darwin_checkpoint::{AnyModel, Inspection, TensorSource, inspect};
use darwin_core::Failure;
use std::process::ExitCode;

pub(crate) fn run(arguments: &InspectArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let model = AnyModel::open(&arguments.model)?;
    let inspection = inspect(&model)?;
    if arguments.json {
        let json = serde_json::to_string_pretty(&inspection)
            .map_err(|e| Failure::user(format!("cannot print JSON: {e}")))?;
        ui.say(json);
    } else {
        ui.say(summary(&inspection));
        ui.say(roles(&inspection));
    }
    if arguments.tensors {
        ui.say(tensors(&model));
    }
    Ok(ExitCode::SUCCESS)
}

fn summary(i: &Inspection) -> String {
    let kinds: Vec<String> = i.layer_kinds.iter().map(|(k, n)| format!("{n} {k}")).collect();
    let layers = if kinds.is_empty() { String::new() } else { format!(" ({})", kinds.join(", ")) };
    let experts = i
        .experts
        .map(|(e, k)| format!("\nexperts       {e} per layer, {k} per token, {} on disk", i.layout))
        .unwrap_or_default();
    let unknown = match i.unknown.len() {
        0 => String::new(),
        n => format!("\nunknown       {n} tensors, the first `{}`", i.unknown[0]),
    };
    format!(
        "{}\narchitecture  {} ({})\nlayers        {}{layers}{experts}\nparameters    {} total, {} active per text token\nsize          {} in {} shard{}, mostly {}\nside files    {}{unknown}\n",
        i.model,
        i.architecture,
        i.model_type,
        i.num_layers,
        human_count(i.parameters),
        human_count(i.active_parameters),
        human_bytes(i.bytes),
        i.shards,
        if i.shards == 1 { "" } else { "s" },
        i.dtype,
        i.side_files.join(" "),
    )
}

fn roles(i: &Inspection) -> String {
    let head = ["role", "tensors", "parameters", "bytes", "dtypes"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for (role, summary) in &i.roles {
        let dtypes: Vec<String> =
            summary.dtypes.iter().map(|(d, n)| format!("{n} x {d}")).collect();
        rows.push(vec![
            role.name().to_owned(),
            summary.tensors.to_string(),
            human_count(summary.parameters),
            human_bytes(summary.bytes),
            dtypes.join(", "),
        ]);
    }
    table(&rows)
}

fn tensors(model: &AnyModel) -> String {
    let head = ["tensor", "role", "dtype", "shape"].map(str::to_owned).to_vec();
    let mut rows = vec![head];
    for stored in model.stored() {
        rows.push(vec![
            stored.name.to_owned(),
            model.manifest().get(stored.id).role.name().to_owned(),
            stored.dtype.to_owned(),
            format!("{:?}", stored.shape),
        ]);
    }
    table(&rows)
}
