//! Sites, their shapes and identities; interventions.

use crate::fixture::Everything;
use darwin_core::ExpertIdx;
use darwin_engine::{
    Batch, Config, Error, Interventions, Model, NoTap, Sequence, Site, State, Tap,
};
use darwin_testkit::tiny_qwen35;

fn model() -> Model {
    Model::load(&tiny_qwen35(1)).unwrap()
}

/// 5 sequences of 1 to 120 tokens: more than one group.
fn batch() -> Batch {
    let ids = |n: u32| (0..n).map(|i| (i * 37 + n) % 250).collect();
    Batch::new([120, 3, 119, 1, 90].into_iter().map(|n| Sequence::new(ids(n))).collect())
}

fn run(model: &Model, tap: &mut dyn Tap, interventions: &Interventions) -> Result<State, Error> {
    let mut state = model.embed(&batch())?;
    model.run(&mut state, 0..model.config().num_hidden_layers, tap, interventions)?;
    Ok(state)
}

fn width(site: Site, config: &Config) -> usize {
    match site {
        Site::MixerHeads => config.num_attention_heads,
        Site::RouterLogits => config.num_experts,
        Site::TopK | Site::ExpertNorms => config.num_experts_per_tok,
        Site::SharedGate => 1,
        Site::Logits => config.vocab_size,
        _ => config.hidden_size,
    }
}

#[test]
fn every_site_has_its_shape() {
    let model = model();
    let mut tap = Everything::default();
    run(&model, &mut tap, &Interventions::new()).unwrap();
    let (config, layers) = (model.config(), model.config().num_hidden_layers);
    for site in Site::ALL {
        let seen: Vec<usize> =
            tap.values.keys().filter(|(s, _)| *s == site).map(|(_, layer)| *layer).collect();
        let expected = match site {
            Site::FinalNorm | Site::Logits => vec![layers],
            Site::MixerHeads => vec![3],
            Site::MtpOut | Site::MtpLogits => vec![], // of the MTP head alone
            _ => (0..layers).collect(),
        };
        assert_eq!(seen, expected, "{site:?}");
        for layer in seen {
            let values = &tap.values[&(site, layer)];
            assert_eq!(values.len(), batch().tokens() * width(site, config), "{site:?}");
        }
    }
}

fn close(a: &[f32], b: impl Iterator<Item = f32>) {
    for (a, b) in a.iter().zip(b) {
        assert!((a - b).abs() <= 2e-6 * (1.0 + a.abs()), "{a} {b}");
    }
}

#[test]
fn the_stream_is_the_sum_of_what_is_added() {
    let model = model();
    let mut tap = Everything::default();
    let state = run(&model, &mut tap, &Interventions::new()).unwrap();
    let layers = model.config().num_hidden_layers;
    for layer in 0..layers {
        let at = |site| tap.values[&(site, layer)].iter().copied();
        let mid = &tap.values[&(Site::ResidMid, layer)];
        close(mid, at(Site::ResidIn).zip(at(Site::MixerOut)).map(|(a, b)| a + b));
        let moe = at(Site::ExpertOut).zip(at(Site::SharedOut)).map(|(a, b)| a + b);
        close(&tap.values[&(Site::ResidOut, layer)], mid.iter().zip(moe).map(|(a, b)| a + b));
        for gates in tap.values[&(Site::TopK, layer)].chunks(2) {
            assert!(gates[0] >= gates[1] && (gates[0] + gates[1] - 1.0).abs() < 1e-6);
        }
    }
    assert_eq!(state.hidden, tap.values[&(Site::ResidOut, layers - 1)]);
    let positions = [0, 5, 200];
    let logits = model.logits(&state, &positions);
    let vocab = model.config().vocab_size;
    for (row, p) in logits.chunks(vocab).zip(positions) {
        assert_eq!(row, &tap.values[&(Site::Logits, layers)][p * vocab..(p + 1) * vocab]);
    }
}

/// Looking changes nothing, and layers one by one are the layers all at once.
#[test]
fn taps_and_stops_do_not_change_the_result() {
    let model = model();
    let seen = run(&model, &mut Everything::default(), &Interventions::new()).unwrap();
    let unseen = run(&model, &mut NoTap, &Interventions::new()).unwrap();
    assert_eq!(seen.hidden, unseen.hidden);
    let mut state = model.embed(&batch()).unwrap();
    for layer in 0..model.config().num_hidden_layers {
        state = state.clone();
        model.run(&mut state, layer..layer + 1, &mut NoTap, &Interventions::new()).unwrap();
    }
    assert_eq!(state.hidden, unseen.hidden);
}

#[test]
fn a_masked_expert_is_never_selected() {
    let model = model();
    let mut masked = Interventions::new();
    masked.mask_expert(1, ExpertIdx(2)).mask_expert(1, ExpertIdx(5));
    let mut tap = Everything::default();
    run(&model, &mut tap, &masked).unwrap();
    assert!(tap.experts[&1].iter().all(|e| *e != 2 && *e != 5));
    assert!(tap.experts[&0].contains(&2) && tap.experts[&2].contains(&5));
    assert!(tap.values[&(Site::RouterLogits, 1)].iter().all(|l| l.is_finite()));
}

#[test]
fn a_replaced_site_goes_on_with_the_given_values() {
    let model = model();
    let mut before = Everything::default();
    run(&model, &mut before, &Interventions::new()).unwrap();
    let zeros = vec![0.0; batch().tokens() * model.config().hidden_size];
    let mut without = Interventions::new();
    without.replace(Site::ExpertOut, 2, zeros.clone());
    let mut after = Everything::default();
    run(&model, &mut after, &without).unwrap();
    assert_eq!(after.values[&(Site::ExpertOut, 2)], zeros);
    assert_eq!(after.values[&(Site::ResidOut, 1)], before.values[&(Site::ResidOut, 1)]);
    let at = |site| after.values[&(site, 2)].iter().copied();
    let sum = at(Site::ResidMid).zip(at(Site::SharedOut)).map(|(a, b)| a + b);
    close(&after.values[&(Site::ResidOut, 2)], sum);

    let mut same = Interventions::new();
    same.replace(Site::RouterLogits, 0, before.values[&(Site::RouterLogits, 0)].clone());
    same.replace(Site::ResidIn, 3, before.values[&(Site::ResidIn, 3)].clone());
    let mut again = Everything::default();
    run(&model, &mut again, &same).unwrap();
    assert_eq!(again.values, before.values);
}

#[test]
fn interventions_that_do_not_fit_are_refused() {
    let model = model();
    let check = |build: &dyn Fn(&mut Interventions)| {
        let mut interventions = Interventions::new();
        build(&mut interventions);
        let error = run(&model, &mut NoTap, &interventions).unwrap_err();
        assert!(matches!(error, Error::Intervention { .. }), "{error}");
        error.to_string()
    };
    let says = check(&|i| _ = i.mask_expert(0, ExpertIdx(6)));
    assert_eq!(says, "intervention at TopK of layer 0: expert 6 masked, the layer has 6");
    check(&|i| (0..5).for_each(|e| _ = i.mask_expert(0, ExpertIdx(e))));
    check(&|i| _ = i.mask_expert(4, ExpertIdx(0)));
    check(&|i| _ = i.replace(Site::MixerOut, 0, vec![0.0; 7]));
    check(&|i| _ = i.replace(Site::Logits, 0, vec![0.0; 7]));
}
