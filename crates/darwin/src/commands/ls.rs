//! `darwin ls methods|families`

use crate::cli::{LsArgs, LsTable};
use crate::ui::Ui;
use darwin_checkpoint::{ExpertNaming, FAMILIES, Family};
use darwin_core::Failure;
use darwin_merge::{METHODS, Method, Parameter};
use std::fmt::Write as _;
use std::process::ExitCode;

pub(crate) fn run(arguments: &LsArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    match arguments.table {
        LsTable::Methods => ui.say(methods(arguments.json)),
        LsTable::Families => ui.say(families(arguments.json)),
    }
    Ok(ExitCode::SUCCESS)
}

fn families(json: bool) -> String {
    if json {
        return FAMILIES.iter().map(|family| format!("{}\n", family_as_json(family))).collect();
    }
    let mut text = String::new();
    for family in &FAMILIES {
        let classes: Vec<&str> = family.types.iter().map(|(_, class)| *class).collect();
        let _ = writeln!(text, "{}\n  classes  {}", family.name, classes.join(", "));
        let _ = writeln!(text, "  experts  {}", experts(family));
        let parts = if family.parts.is_empty() { "a plain decoder" } else { family.parts };
        let _ = writeln!(text, "  with     {parts}\n");
    }
    text + "Any other model is merged tensor by tensor, where the parents agree."
}

fn experts(family: &Family) -> &'static str {
    match family.experts {
        ExpertNaming::Dense => "none",
        ExpertNaming::Projections | ExpertNaming::Mixtral => "fused, per-expert",
        ExpertNaming::FusedOnly => "fused",
    }
}

fn family_as_json(family: &Family) -> serde_json::Value {
    let types = family.types.iter().map(
        |(model_type, class)| serde_json::json!({"model_type": model_type, "architecture": class}),
    );
    serde_json::json!({
        "name": family.name,
        "types": types.collect::<Vec<_>>(),
        "experts": experts(family),
        "parts": family.parts,
    })
}

fn methods(json: bool) -> String {
    if json {
        return METHODS.iter().map(|method| format!("{}\n", as_json(method))).collect();
    }
    METHODS.iter().map(as_text).collect::<Vec<String>>().join("\n")
}

fn as_json(method: &Method) -> serde_json::Value {
    let parameters = method.parameters.iter().map(|p| {
        serde_json::json!({
            "name": p.name,
            "per_model": p.per_model,
            "default": default(p),
        })
    });
    serde_json::json!({
        "name": method.name,
        "about": method.about,
        "needs_base": method.needs_base(),
        "mergekit_numerics": method.follows_mergekit(),
        "parameters": parameters.collect::<Vec<_>>(),
        "source": method.source,
    })
}

fn default(parameter: &Parameter) -> serde_json::Value {
    match parameter.default {
        None => serde_json::Value::Null,
        Some(value) if parameter.switch => (value != 0.0).into(),
        Some(value) => value.into(),
    }
}

fn as_text(method: &Method) -> String {
    let parameters: Vec<String> = method.parameters.iter().map(parameter).collect();
    let parameters = if parameters.is_empty() { "none".to_owned() } else { parameters.join(", ") };
    format!(
        "{}\n  {}\n  base        {}\n  parameters  {parameters}\n  numerics    {}\n  source      {}\n",
        method.name,
        method.about,
        if method.needs_base() { "needed" } else { "not needed" },
        if method.follows_mergekit() { "native, mergekit" } else { "native" },
        method.source,
    )
}

/// `NAME DEFAULT`, a star where each model has its own.
fn parameter(parameter: &Parameter) -> String {
    let star = if parameter.per_model { "*" } else { "" };
    match default(parameter) {
        serde_json::Value::Null => format!("{}{star} (required)", parameter.name),
        default => format!("{}{star} {default}", parameter.name),
    }
}
