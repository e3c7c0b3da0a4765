//! Which scripts of a folder a model's configuration names.

use super::{SideFile, SideKind};
use darwin_core::fs::{MAX_JSON_BYTES, MAX_TEXT_BYTES, read_bounded, read_text_bounded};
use regex::Regex;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// Parts the scripts of a folder into those that `auto_map` names (in the config, or in the files of
/// tokenizer and processors), with what they import from beside themselves, and all others.
pub(super) fn named(
    files: &[SideFile],
    config: &Value,
    scripts: Vec<PathBuf>,
) -> (Vec<PathBuf>, Vec<PathBuf>) {
    if scripts.is_empty() {
        return (Vec::new(), scripts);
    }
    let mut wanted = modules(config);
    let kinds = [SideKind::Tokenizer, SideKind::Processor, SideKind::Generation];
    for file in files.iter().filter(|file| kinds.contains(&file.kind)) {
        if file.name().ends_with("_config.json") {
            let bytes = read_bounded(&file.path, MAX_JSON_BYTES).unwrap_or_default();
            wanted.extend(modules(&serde_json::from_slice(&bytes).unwrap_or_default()));
        }
    }
    let mut taken = BTreeSet::new();
    while let Some(module) = wanted.pop_first() {
        let script = scripts.iter().find(|path| stem(path) == module);
        if let Some(script) = script.filter(|_| taken.insert(module)) {
            wanted.extend(imports(script).into_iter().filter(|module| !taken.contains(module)));
        }
    }
    scripts.into_iter().partition(|path| taken.contains(stem(path)))
}

fn stem(path: &Path) -> &str {
    path.file_stem().and_then(OsStr::to_str).unwrap_or("")
}

/// The modules of `auto_map`, whose values are `module.Class`, or lists of them; one of another
/// repository has its name before `--`.
fn modules(config: &Value) -> BTreeSet<String> {
    let mut modules = BTreeSet::new();
    for value in config.get("auto_map").and_then(Value::as_object).into_iter().flatten() {
        let several = value.1.as_array().map_or(std::slice::from_ref(value.1), Vec::as_slice);
        for class in several.iter().filter_map(Value::as_str).filter(|c| !c.contains("--")) {
            modules.extend(class.split_once('.').map(|(module, _)| module.to_owned()));
        }
    }
    modules
}

/// The modules beside a script that it imports.
fn imports(script: &Path) -> BTreeSet<String> {
    let text = read_text_bounded(script, MAX_TEXT_BYTES).unwrap_or_default();
    let pattern = r"(?m)^[ \t]*from[ \t]+\.(\w*)[ \t]+import[ \t]+\(?([\w, \t]*)";
    let pattern = Regex::new(pattern).expect("the pattern is one");
    let mut modules = BTreeSet::new();
    for found in pattern.captures_iter(&text) {
        match &found[1] {
            "" => modules.extend(found[2].split(',').map(|name| name.trim().to_owned())),
            module => {
                modules.insert(module.to_owned());
            }
        }
    }
    modules
}
