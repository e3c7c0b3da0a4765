//! Hugging Face checkpoints in and out, as tensor sources.
//!
//! A [`Checkpoint`] is a folder of safetensors shards with a raw `config.json`. Its [`Manifest`]
//! lists *logical* tensors: canonical names without the family's prefix, routed experts always
//! fused (`…experts.gate_up_proj` of shape (E, 2I, H)) whatever the files hold, so that fused and
//! per-expert layouts are one and the same to the rest of the program. Its [`Layout`] remembers
//! the names and pieces on disk, and [`write_checkpoint`] writes any [`TensorSource`] in it.
//! A [`Gguf`] file is a tensor source too; [`AnyModel`] opens whichever of the two a path is.
//!
//! Nothing is mapped: tiles come by `pread` into own buffers.

mod adapter;
mod any;
mod checkpoint;
mod dtype;
mod error;
mod families;
mod fingerprint;
mod gguf;
mod header;
mod inspect;
mod layout;
mod license;
mod manifest;
mod memo;
mod memory;
mod mxfp4;
mod names;
mod quantised;
mod resume;
mod shard;
mod shards;
mod side;
mod source;
mod tapped;
mod unchanged;
mod whole;
mod write;

pub use adapter::Adapted;
pub use any::{AnyModel, StoredTensor, gguf_file};
pub use checkpoint::Checkpoint;
pub use dtype::Dtype;
pub use error::{Error, Problem};
pub use families::{ExpertNaming, FAMILIES, Family};
pub use fingerprint::{HasFiles, HashCache};
pub use gguf::Gguf;
pub use header::{MAX_HEADER_BYTES, MAX_TENSORS};
pub use inspect::{Inspection, RoleSummary, inspect};
pub use layout::{ExpertLayout, Layout, Stored};
pub use manifest::{Manifest, TensorId, TensorInfo};
pub use memo::Memo;
pub use memory::MemorySource;
pub use names::{MAX_NUMBER, Role, canonical_name, part_of, role_of, text_only_name};
pub use side::{SideFile, SideFiles, SideKind};
pub use source::{TensorPlan, TensorSource, Unit, read_tensor};
pub use tapped::Tapped;
pub use whole::{WholeTensor, whole_tensors, whole_tensors_of};
pub use write::{WriteOptions, Written, open_output, write_checkpoint, write_into};
