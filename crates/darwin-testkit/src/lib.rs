//! Tiny models built in code, for the tests of every crate (development only).
//!
//! [`tiny_qwen35`] is a whole Qwen3.5-MoE text model of a few thousand parameters with *every*
//! tensor perturbed (random initialisation hides bugs: centred norms start at 0, `dt_bias` at 1).
//! [`tiny_qwen3_moe`] and [`tiny_llama`] have dense layers and plain attention.
//! [`sibling`] makes a relative of a model, [`edited`] plants a fault, [`write_tiny_text`] writes a
//! byte-level tokenizer with a chat template.
//!
//! ```
//! use darwin_checkpoint::TensorSource;
//! let father = darwin_testkit::tiny_qwen35(1);
//! let mother = darwin_testkit::sibling(&father, "mother", 2, 0.05);
//! assert_eq!(father.manifest(), mother.manifest());
//! ```

mod blend;
mod disk;
mod gguf;
mod sparse;
mod text;
mod tiny;

pub use blend::Blend;
pub use darwin_checkpoint::ExpertLayout;
pub use disk::write_model;
pub use gguf::{GgufFile, GgufTensor, GgufValue};
pub use sparse::{qwen35_35b, write_filled, write_sparse};
pub use text::{TINY_VOCAB, write_tiny_text};
pub use tiny::{Tiny, edited, sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35};
