//! Darwin's engine crate (see ARCHITECTURE.md).
