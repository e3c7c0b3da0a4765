//! Darwin's evolve crate (see ARCHITECTURE.md).
