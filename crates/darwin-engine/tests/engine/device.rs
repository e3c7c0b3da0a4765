//! Products on candle's CPU device: the path that accelerators take.

use crate::fixture::{CASES, batch, error, golden, source};
use darwin_engine::{Device, Interventions, Model, NoTap};

#[test]
fn products_elsewhere_give_the_golden_logits() {
    for case in CASES {
        let device = Device::open("candle-cpu").unwrap();
        let model = Model::load_on(&source(case), &device).unwrap();
        let golden = golden(case);
        let mut state = model.embed(&batch(&golden)).unwrap();
        let layers = model.config().num_hidden_layers;
        model.run(&mut state, 0..layers, &mut NoTap, &Interventions::new()).unwrap();
        let positions: Vec<usize> = (0..state.batch().tokens()).collect();
        let logits = model.logits(&state, &positions);
        let want: Vec<f64> =
            golden.iter().flat_map(|g| g.get("logits").unwrap()).copied().collect();
        assert!(error(&logits, &want) < 1e-4, "{case}: {:.1e}", error(&logits, &want));
        let (done, failed) = device.products();
        assert_eq!(failed, 0);
        assert_eq!(done > 0, positions.len() >= 32, "{case}: {done} products");
    }
}

#[test]
fn devices_that_are_not_there_are_named() {
    for name in ["tpu", "cuda:x"] {
        let error = Device::open(name).unwrap_err().to_string();
        assert!(error.contains(name), "{error}");
    }
}
