//! Darwin's eval crate (see ARCHITECTURE.md).
