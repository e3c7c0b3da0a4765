//! Darwin's profile crate (see ARCHITECTURE.md).
