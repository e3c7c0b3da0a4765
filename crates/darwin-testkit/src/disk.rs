//! Tiny models on disk, in either expert layout.

use crate::write_tiny_text;
use darwin_checkpoint::{
    ExpertLayout, ExpertNaming, Layout, MemorySource, Stored, TensorSource, WriteOptions,
    write_checkpoint,
};
use darwin_core::{Cancel, NoProgress};
use std::path::Path;

/// Writes a model as a checkpoint folder with tokenizer and chat template, prefix
/// `model.language_model.`, in shards of at most `max_shard_bytes`.
///
/// # Panics
/// Where the folder cannot be written.
pub fn write_model(
    folder: &Path,
    model: &MemorySource,
    layout: ExpertLayout,
    max_shard_bytes: u64,
) {
    let layout = layout_of(model, layout);
    let config = serde_json::to_vec_pretty(model.config()).expect("JSON");
    let cancel = Cancel::default();
    let options = WriteOptions {
        max_shard_bytes,
        memory: 1 << 26,
        side_files: Vec::new(),
        identity: None,
        documents: vec![("config.json".to_owned(), config)],
        progress: &NoProgress,
        cancel: &cancel,
    };
    write_checkpoint(model, &layout, folder, &options).expect("a test folder can be written");
    write_tiny_text(folder).expect("a test folder can be written");
}

fn layout_of(model: &MemorySource, layout: ExpertLayout) -> Layout {
    let manifest = model.manifest();
    let tensors = manifest.ids().zip(manifest.tensors());
    let stored = tensors.map(|(id, info)| Stored {
        name: disk_name(&info.name),
        id,
        rows: 0..info.rows(),
        shape: info.shape.clone(),
    });
    let whole = Layout { stored: stored.collect() };
    whole.with_experts(manifest, layout, ExpertNaming::Projections)
}

fn disk_name(canonical: &str) -> String {
    if canonical.starts_with("lm_head.") || canonical.starts_with("mtp.") {
        canonical.to_owned()
    } else if canonical.starts_with("visual.") {
        format!("model.{canonical}")
    } else {
        format!("model.language_model.{canonical}")
    }
}
