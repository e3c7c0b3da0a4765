//! A source that remembers: the values of the source, read no more often than must be.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

use darwin_checkpoint::{Dtype, Memo, MemorySource, TensorSource, read_tensor};
use darwin_testkit::Tiny;
use rayon::prelude::*;
use std::sync::Arc;

fn source(dtype: Dtype) -> MemorySource {
    Tiny { hidden: 96, vocab: 5000, dtype, ..Tiny::default() }.build("tiny", 3)
}

fn bytes_of(source: &dyn TensorSource) -> u64 {
    let tensors = source.manifest().tensors().iter();
    tensors.map(|t| (t.elements() * t.dtype.size()) as u64).sum()
}

#[test]
fn what_is_remembered_is_what_was_read() {
    for dtype in [Dtype::Bf16, Dtype::F16, Dtype::F32] {
        let source = Arc::new(source(dtype));
        let all = bytes_of(source.as_ref());
        for (limit, times) in [(u64::MAX, 1), (0, 2), (all / 3, 2)] {
            let memo = Memo::new(source.clone(), limit);
            for _ in 0..2 {
                memo.manifest().ids().for_each(|id| {
                    let (got, want) = (read_tensor(&memo, id), read_tensor(&*source, id));
                    assert!(got.unwrap() == want.unwrap());
                });
            }
            assert_eq!(memo.bytes_read(), times * all, "limit {limit}");
        }
    }
}

#[test]
fn readers_at_once_read_once() {
    let source = Arc::new(source(Dtype::Bf16));
    let memo = Memo::new(source.clone(), u64::MAX);
    let ids: Vec<_> = (0..8).flat_map(|_| memo.manifest().ids()).collect();
    ids.par_iter().for_each(|id| drop(read_tensor(&memo, *id).unwrap()));
    assert_eq!(memo.bytes_read(), bytes_of(source.as_ref()));
}
