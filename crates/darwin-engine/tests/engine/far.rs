//! A long input, 20,000 tokens, against both forms of transformers' Gated DeltaNet
//! (tools/oracle/far.py).

use crate::fixture::{batch, error, golden, model};
use darwin_engine::{Interventions, NoTap};

#[test]
fn twenty_thousand_tokens_equal_transformers_recurrent_and_chunked() {
    let (model, golden) = (model("far"), golden("far"));
    let mut state = model.embed(&batch(&golden)).unwrap();
    assert_eq!(state.batch().tokens(), 20_000);
    let layers = model.config().num_hidden_layers;
    model.run(&mut state, 0..layers, &mut NoTap, &Interventions::new()).unwrap();
    let rows: Vec<usize> = golden[0].get("rows").unwrap().iter().map(|r| *r as usize).collect();
    let logits = model.logits(&state, &rows);
    for key in ["logits_rows", "logits_rows_chunked"] {
        let error = error(&logits, golden[0].get(key).unwrap());
        println!("far.{key}: {error:.1e} of the rms");
        assert!(error < 1e-4, "far.{key}: {error:.1e} of the rms");
    }
    let vocab = model.config().vocab_size;
    let nll = golden[0].get("nll_rows").unwrap();
    for ((row, at), nll) in logits.chunks(vocab).zip(&rows).zip(nll) {
        let total: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
        let got = total.ln() - f64::from(row[golden[0].ids[at + 1] as usize]);
        assert!((got - nll).abs() < 1e-4, "after token {at}: {got} {nll}");
    }
}
