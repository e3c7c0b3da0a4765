//! Darwin's merge crate (see ARCHITECTURE.md).
