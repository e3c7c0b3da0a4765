//! Darwin's testkit crate (see ARCHITECTURE.md).
