//! Buffers of forward passes, kept from pass to pass: fresh memory is dear.

use crate::layer::Workspace;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Workspaces that no pass uses at the moment.
#[derive(Debug, Default)]
pub(crate) struct Workspaces {
    idle: Mutex<Vec<Workspace>>,
}

impl Workspaces {
    /// A workspace for one pass.
    pub(crate) fn borrow(&self) -> Borrowed<'_> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        Borrowed { from: self, workspace: idle.pop().unwrap_or_default() }
    }
}

/// A workspace that goes back when it is dropped.
#[derive(Debug)]
pub(crate) struct Borrowed<'a> {
    from: &'a Workspaces,
    workspace: Workspace,
}

impl Deref for Borrowed<'_> {
    type Target = Workspace;

    fn deref(&self) -> &Workspace {
        &self.workspace
    }
}

impl DerefMut for Borrowed<'_> {
    fn deref_mut(&mut self) -> &mut Workspace {
        &mut self.workspace
    }
}

impl Drop for Borrowed<'_> {
    fn drop(&mut self) {
        let mut idle = self.from.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.push(std::mem::take(&mut self.workspace));
    }
}
