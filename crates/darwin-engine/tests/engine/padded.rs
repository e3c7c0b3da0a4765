//! Padded batches against transformers' padded runs (tools/oracle/padded.py).

use crate::fixture::{error, model, read_tensors};
use darwin_core::Diagnose;
use darwin_engine::{Batch, Interventions, Record, Site, Tap};

/// The final norm's output.
#[derive(Default)]
struct FinalNorm(Vec<f32>);

impl Tap for FinalNorm {
    fn wants(&self, site: Site, _: usize) -> bool {
        site == Site::FinalNorm
    }

    fn record(&mut self, record: &Record<'_>) {
        self.0.extend(record.values);
    }
}

#[test]
fn padding_on_either_side_equals_transformers() {
    let (model, golden) = (model("plain"), read_tensors("padded.safetensors"));
    let layers = model.config().num_hidden_layers;
    for side in ["left", "right"] {
        let get = |key: &str| &golden[&format!("{side}.{key}")];
        let ids: Vec<u32> = get("input_ids").iter().map(|id| *id as u32).collect();
        let mask: Vec<bool> = get("attention_mask").iter().map(|m| *m == 1.0).collect();
        let batch = Batch::from_padded(&ids, &mask, ids.len() / 2).unwrap();
        let mut tap = FinalNorm::default();
        let mut state = model.embed(&batch).unwrap();
        model.run(&mut state, 0..layers, &mut tap, &Interventions::new()).unwrap();
        // the golden rows have every fourth column, masked rows too
        let width = model.config().hidden_size / 4;
        let rows = get("last_hidden_state").chunks(width).zip(&mask);
        let wanted: Vec<f64> =
            rows.filter(|(_, m)| **m).flat_map(|(row, _)| row.to_vec()).collect();
        let found: Vec<f32> = tap.0.iter().copied().step_by(4).collect();
        let error = error(&found, &wanted);
        assert!(error < 3e-5, "{side}: {error:.1e} of the rms");
        println!("{side}: {error:.1e} of the rms");
    }
}

#[test]
fn masks_with_holes_are_refused() {
    let refused = |ids: &[u32], mask: &[u8], length: usize, words: &str| {
        let mask: Vec<bool> = mask.iter().map(|m| *m == 1).collect();
        let error = Batch::from_padded(ids, &mask, length).unwrap_err();
        assert!(error.to_string().contains(words), "{error}");
        assert!(error.hint().is_some());
    };
    refused(&[1, 2, 3, 4], &[1, 1, 1, 0], 3, "4 ids and 4 mask values are no whole rows of 3");
    refused(&[1, 2], &[1], 2, "2 ids and 1 mask values");
    refused(&[1, 2], &[1, 1], 0, "no whole rows of 0");
    refused(
        &[1, 2, 3, 4, 5, 6],
        &[1, 1, 0, 1, 0, 1],
        3,
        "sequence 1: its attention mask has a hole at position 1",
    );
    refused(&[1, 2], &[0, 0], 1, "sequence 0: its attention mask has no token");
    let batch = Batch::from_padded(&[0, 7, 8, 9, 5, 0], &[false, true, true, true, true, false], 3);
    let ids: Vec<Vec<u32>> = batch.unwrap().sequences().iter().map(|s| s.ids.clone()).collect();
    assert_eq!(ids, [vec![7, 8], vec![9, 5]]);
}
