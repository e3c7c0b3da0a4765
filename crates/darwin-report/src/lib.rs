//! Darwin's report crate (see ARCHITECTURE.md).
