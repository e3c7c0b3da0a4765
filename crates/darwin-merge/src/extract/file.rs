//! `adapter_model.safetensors` and `adapter_config.json`, as PEFT reads them.

use darwin_checkpoint::Dtype;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

/// The version of PEFT whose orientation of fused experts is written.
const PEFT_VERSION: &str = "0.19.1";

/// Room in the header for one tensor beside its name.
const ENTRY_ROOM: usize = 256;

/// What a tensor of the adapter belongs to.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Owner {
    /// The module's path.
    pub(super) module: String,
    /// The parameter, where it was targeted directly.
    pub(super) parameter: Option<String>,
}

impl Owner {
    /// The name that `rank_pattern` and the targets have for it.
    pub(super) fn key(&self) -> String {
        match &self.parameter {
            Some(parameter) => format!("{}.{parameter}", self.module),
            None => self.module.clone(),
        }
    }
}

/// Tensors are appended as they are computed; the header, for which room was left, comes last.
pub(super) struct AdapterFile {
    file: File,
    data_start: u64,
    offset: u64,
    tensors: Vec<Written>,
}

struct Written {
    owner: Owner,
    end: &'static str,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<u64>,
}

impl AdapterFile {
    /// `names` are those of all tensors that may come, in the checkpoint.
    pub(super) fn create<'a>(
        path: &Path,
        names: impl Iterator<Item = &'a str>,
    ) -> io::Result<Self> {
        let room: usize = names.map(|name| 2 * (name.len() + ENTRY_ROOM)).sum();
        let data_start = (8 + ENTRY_ROOM + room).next_multiple_of(8) as u64;
        let file = File::create(path)?;
        Ok(Self { file, data_start, offset: 0, tensors: Vec::new() })
    }

    /// Appends a tensor; `end` is what its name has behind the module.
    pub(super) fn push(
        &mut self,
        owner: &Owner,
        end: &'static str,
        dtype: Dtype,
        shape: Vec<usize>,
        values: &[f32],
    ) -> io::Result<()> {
        let mut bytes = vec![0; values.len() * dtype.size()];
        dtype.encode(values, &mut bytes);
        self.file.write_all_at(&bytes, self.data_start + self.offset)?;
        let range = self.offset..self.offset + bytes.len() as u64;
        self.offset = range.end;
        self.tensors.push(Written { owner: owner.clone(), end, dtype, shape, bytes: range });
        Ok(())
    }

    /// Writes the header. PEFT wraps a module once for each parameter, `gate_up_proj` innermost.
    pub(super) fn finish(self) -> io::Result<()> {
        let both = |owner: &Owner| {
            self.tensors.iter().any(|Written { owner: other, .. }| {
                other.module == owner.module && other.parameter.as_deref() == Some("down_proj")
            })
        };
        let mut header = Map::new();
        header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
        for Written { owner, end, dtype, shape, bytes } in &self.tensors {
            let inner = owner.parameter.as_deref() == Some("gate_up_proj") && both(owner);
            let wrapper = if inner { ".base_layer" } else { "" };
            let name = format!("base_model.model.{}{wrapper}{end}", owner.module);
            let offsets = [bytes.start, bytes.end];
            header.insert(
                name,
                json!({ "dtype": dtype.name(), "shape": shape, "data_offsets": offsets }),
            );
        }
        let mut text = Value::Object(header).to_string().into_bytes();
        let room = (self.data_start - 8) as usize;
        if text.len() > room {
            return Err(io::Error::other("the header outgrew its room"));
        }
        text.resize(room, b' ');
        self.file.write_all_at(&(room as u64).to_le_bytes(), 0)?;
        self.file.write_all_at(&text, 8)?;
        self.file.set_len(self.data_start + self.offset)?;
        self.file.sync_all()
    }
}

/// What was decomposed and kept, for `adapter_config.json`.
#[derive(Default)]
pub(super) struct Targets {
    /// Owner and rank.
    pub(super) ranks: Vec<(Owner, usize)>,
    /// Modules that are saved whole.
    pub(super) saved: Vec<String>,
}

impl Targets {
    /// PEFT's configuration; alpha is the rank, so that B A is added as it is.
    pub(super) fn config(&self, base: &str) -> Value {
        let r = self.ranks.iter().map(|(_, rank)| *rank).max().unwrap_or(1);
        let others = || self.ranks.iter().filter(|(_, rank)| *rank != r);
        let pattern: Map<String, Value> =
            others().map(|(owner, rank)| (owner.key(), json!(rank))).collect();
        let keys = |of_parameters: bool| -> Vec<String> {
            let fits = self.ranks.iter().filter(|(o, _)| o.parameter.is_some() == of_parameters);
            fits.map(|(owner, _)| owner.key()).collect()
        };
        let parameters = keys(true);
        json!({
            "peft_type": "LORA",
            "peft_version": PEFT_VERSION,
            "base_model_name_or_path": base,
            "r": r,
            "lora_alpha": r,
            "rank_pattern": pattern,
            "alpha_pattern": pattern,
            "target_modules": keys(false),
            "target_parameters": if parameters.is_empty() { Value::Null } else { json!(parameters) },
            "modules_to_save": if self.saved.is_empty() { Value::Null } else { json!(self.saved) },
            "bias": "none",
            "fan_in_fan_out": false,
            "inference_mode": true,
            "init_lora_weights": true,
            "lora_dropout": 0.0,
            "use_dora": false,
            "use_rslora": false,
            "task_type": "CAUSAL_LM",
        })
    }
}
