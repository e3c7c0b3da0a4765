//! The MTP head against the float64 reference of tools/oracle/spec.py.

use crate::fixture::{Everything, batch, error, golden, source};
use darwin_core::{Cancel, Diagnose};
use darwin_engine::{Interventions, Model, MtpHead, NoTap, Site, State};

const CASES: [&str; 2] = ["qwen3_5", "qwen3_5_moe_mtp"];

fn head(case: &str) -> (Model, MtpHead) {
    let source = source(case);
    let model = Model::load(&source).unwrap();
    let head = MtpHead::load(&source, &model).unwrap().unwrap();
    (model, head)
}

fn state(case: &str, model: &Model) -> State {
    let mut state = model.embed(&batch(&golden(case))).unwrap();
    let layers = 0..model.config().num_hidden_layers;
    model.run(&mut state, layers, &mut NoTap, &Interventions::new()).unwrap();
    state
}

#[test]
fn states_logits_and_loss_equal_the_reference() {
    for case in CASES {
        let ((model, head), golden) = (head(case), golden(case));
        let mut tap = Everything::default();
        head.run(&model, &state(case, &model), &mut tap).unwrap();
        let ids: Vec<_> = golden.iter().map(|g| g.ids.clone()).collect();
        let scores = head.score(&model, &ids, &Cancel::default()).unwrap();
        let mut start = 0;
        for ((s, g), score) in golden.iter().enumerate().zip(scores) {
            for (site, key) in [(Site::MtpOut, "mtp_hidden"), (Site::MtpLogits, "mtp_logits")] {
                let want = g.get(key).unwrap();
                let width = want.len() / (g.ids.len() - 1);
                let values = &tap.values[&(site, model.config().num_hidden_layers)];
                let (rows, last) = values[start * width..(start + g.ids.len()) * width]
                    .split_at((g.ids.len() - 1) * width);
                let error = error(rows, want);
                println!("{case} seq{s}.{key}: {error:.1e} of the rms");
                assert!(error < 3e-5, "{case} seq{s}.{key}: {error:.1e} of the rms");
                assert!(last.iter().all(|v| *v == 0.0), "nothing follows the last token");
            }
            start += g.ids.len();
            let want = g.get("mtp_nll").unwrap();
            assert_eq!(score.logprobs.len(), want.len());
            for (got, want) in score.logprobs.iter().zip(want) {
                assert!((f64::from(-got) - want).abs() < 1e-4, "{case} seq{s}: {got} {want}");
            }
            let loss = score.nll / want.len() as f64;
            let want = want.iter().sum::<f64>() / want.len() as f64;
            assert!((loss - want).abs() < 1e-5, "{case} seq{s}: loss {loss}, {want}");
        }
    }
}

#[test]
fn company_does_not_change_a_bit() {
    for case in CASES {
        let ((model, head), never) = (head(case), Cancel::default());
        let ids: Vec<_> = golden(case).iter().map(|g| g.ids.clone()).collect();
        let together = head.score(&model, &ids, &never).unwrap();
        for (ids, score) in ids.iter().zip(together) {
            let alone = head.score(&model, std::slice::from_ref(ids), &never).unwrap();
            assert_eq!(alone[0], score, "{case}");
        }
    }
}

#[test]
fn what_cannot_be_computed_is_said() {
    let headless = source("plain");
    let plain = Model::load(&headless).unwrap();
    assert!(MtpHead::load(&headless, &plain).unwrap().is_none(), "it has no head");
    let error = MtpHead::load(&source("qwen3_5"), &plain).unwrap_err();
    assert!(error.to_string().contains("tensor `mtp."), "a head of another model: {error}");

    let (model, head) = head("qwen3_5");
    let error = head.score(&model, &[vec![1, 2, 3], vec![1, 2]], &Cancel::default()).unwrap_err();
    assert!(error.to_string().contains("sequence 1 has 2 tokens, 3 are needed"), "{error}");
    assert!(error.hint().is_some());
    let state = model.embed(&batch(&golden("qwen3_5"))).unwrap();
    let error = head.run(&model, &state, &mut Everything::default()).unwrap_err();
    assert!(error.to_string().contains("that has passed 0"), "{error}");
}
