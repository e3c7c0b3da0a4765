//! The engine against transformers 5.23 in float32 (tools/oracle/engine.py,
//! engine_families.py), after every layer.

use crate::fixture::{CASES, Everything, about, batch, error, golden, model, rms};
use darwin_core::Cancel;
use darwin_engine::{
    Config, GenerateOptions, Interventions, MlpKind, NoTap, ScoreItem, SharedForm, Site, generate,
    generate_counted, score,
};

const LAYER_LIMIT: f64 = 3e-5;
const LOGITS_LIMIT: f64 = 1e-4;

fn everything(case: &str) -> Everything {
    let (model, batch) = (model(case), batch(&golden(case)));
    let mut state = model.embed(&batch).unwrap();
    let mut tap = Everything::default();
    let layers = 0..model.config().num_hidden_layers;
    model.run(&mut state, layers, &mut tap, &Interventions::new()).unwrap();
    tap
}

/// What the goldens call the sites of a layer.
const SITES: [(Site, &str); 6] = [
    (Site::MixerOut, "mixer_out"),
    (Site::RouterLogits, "router_logits"),
    (Site::ExpertOut, "expert_out"),
    (Site::ExpertOut, "mlp_out"),
    (Site::SharedOut, "shared_out"),
    (Site::ResidOut, "resid_out"),
];

/// How much of a sequence its golden file holds (tools/oracle/engine.py, engine_families.py,
/// parents.py).
#[derive(Clone, Copy, PartialEq, PartialOrd)]
enum Detail {
    /// What leaves each layer, and what its router chooses.
    Outputs,
    /// The mixers' outputs, too.
    Mixers,
    /// Every part, and the final norm.
    Everything,
}

fn detail(case: &str, sequence: usize) -> Detail {
    match case {
        "plain" | "odd" | "bf16" => Detail::Everything,
        "long" => Detail::Mixers,
        "father" | "mother" => Detail::Outputs,
        // engine_families.py keeps the parts of the second sequence alone
        _ if sequence == 1 => Detail::Everything,
        _ => Detail::Outputs,
    }
}

/// The names that a layer's goldens must have, no more and no less.
fn names_of_layer(case: &str, detail: Detail, config: &Config, layer: usize) -> Vec<&'static str> {
    let sparse = config.mlp_types[layer] == MlpKind::Sparse;
    let shared = sparse && config.shared != SharedForm::None;
    let gates = sparse && !matches!(case, "father" | "mother");
    let whole = detail == Detail::Everything;
    let names = [
        ("expert_out", sparse && whole),
        ("experts", sparse),
        ("gates", gates),
        ("mixer_out", detail >= Detail::Mixers),
        ("mlp_out", !sparse && whole),
        ("resid_out", true),
        ("router_logits", sparse),
        ("shared_out", shared && whole),
    ];
    names.into_iter().filter(|(_, there)| *there).map(|(name, _)| name).collect()
}

#[test]
fn every_layer_equals_transformers() {
    for case in CASES {
        let (golden, tap) = (golden(case), everything(case));
        let model = model(case);
        let (config, mut start) = (model.config(), 0);
        let layers = config.num_hidden_layers;
        assert_eq!(golden.len(), 2, "{case}: sequences");
        for (s, g) in golden.iter().enumerate() {
            let rows = start..start + g.ids.len();
            start = rows.end;
            let check = |site: Site, layer: usize, key: &str, limit: f64| {
                let want = g.get(key).unwrap_or_else(|| panic!("{case} seq{s} lacks {key}"));
                let width = want.len() / rows.len();
                let got = tap.values.get(&(site, layer)).unwrap_or_else(|| panic!("{case}: {key}"));
                let error = error(&got[rows.start * width..rows.end * width], want);
                assert!(error <= limit, "{case} seq{s}.{key}: {error:.1e} of the rms");
                error
            };
            let mut worst = 0.0_f64;
            for layer in 0..layers {
                let key = |name: &str| format!("layer_{layer:02}.{name}");
                let names = names_of_layer(case, detail(case, s), config, layer);
                assert_eq!(g.names(&key("")), names, "{case} seq{s} layer {layer}");
                for (site, name) in SITES.into_iter().filter(|(_, name)| names.contains(name)) {
                    worst = worst.max(check(site, layer, &key(name), LAYER_LIMIT));
                }
                if names.contains(&"experts") {
                    check_experts(case, &tap, layer, rows.clone(), g);
                }
            }
            let normed = g.names("").contains(&"final_norm");
            assert_eq!(normed, detail(case, s) == Detail::Everything, "{case} seq{s}: final_norm");
            if normed {
                check(Site::FinalNorm, layers, "final_norm", LOGITS_LIMIT);
            }
            let logits = check(Site::Logits, layers, "logits", LOGITS_LIMIT);
            println!("{case} seq{s}: layers {worst:.1e}, logits {logits:.1e} of the rms");
        }
    }
}

/// The fixtures have no margin below 2e-5, so the selected experts must be equal, gates close.
fn check_experts(
    case: &str,
    tap: &Everything,
    layer: usize,
    rows: std::ops::Range<usize>,
    golden: &crate::fixture::Golden,
) {
    let key = |name: &str| golden.get(&format!("layer_{layer:02}.{name}"));
    let experts: Vec<u32> = key("experts").unwrap().iter().map(|e| *e as u32).collect();
    let k = experts.len() / rows.len();
    let pairs = |experts: Vec<u32>, gates: Vec<f64>| {
        let mut pairs: Vec<_> = experts.into_iter().zip(gates).collect();
        pairs.chunks_mut(k).for_each(|row| row.sort_by_key(|(e, _)| *e));
        pairs
    };
    let as_f64 = |x: &[f32]| x.iter().map(|v| f64::from(*v)).collect();
    let slots = rows.start * k..rows.end * k;
    let gates: Vec<f64> = as_f64(&tap.values[&(Site::TopK, layer)][slots.clone()]);
    assert!(gates.chunks(k).all(|row| row.is_sorted_by(|a, b| a >= b)), "{case}: falling gates");
    let got = pairs(tap.experts[&layer][slots].to_vec(), gates);
    // The parents' goldens hold no gates.
    let gates = key("gates").map_or_else(|| vec![f64::NAN; experts.len()], <[f64]>::to_vec);
    for (got, want) in got.iter().zip(pairs(experts, gates)) {
        assert_eq!(got.0, want.0, "{case} layer {layer}: selected experts");
        assert!(
            want.1.is_nan() || (got.1 - want.1).abs() < 3e-5,
            "{case} layer {layer}: gates {got:?} {want:?}"
        );
    }
}

fn options(n: usize) -> GenerateOptions {
    GenerateOptions { max_new_tokens: n, stop: Vec::new() }
}

#[test]
fn thirty_two_greedy_tokens_equal_transformers() {
    for case in CASES {
        let (model, golden) = (model(case), golden(case));
        let prompts: Vec<_> = golden.iter().map(|g| g.ids.clone()).collect();
        let got = generate(&model, &prompts, &[], &options(32), &Cancel::default()).unwrap();
        for (got, golden) in got.iter().zip(&golden) {
            assert_eq!(*got, golden.greedy, "{case}");
        }
    }
}

/// Decoding with caches chooses what a full pass over the same tokens chooses, and the scores of
/// the greedy answer say so.
#[test]
fn cached_equals_uncached() {
    for case in CASES {
        let (model, golden) = (model(case), golden(case));
        let items: Vec<ScoreItem> = golden
            .iter()
            .map(|g| ScoreItem { prompt: g.ids.clone(), answer: g.greedy.clone() })
            .collect();
        for score in score(&model, &items, &Cancel::default()).unwrap() {
            assert!(score.greedy, "{case}: {:?}", score.first_miss);
        }
    }
}

/// A batch of both sequences gives the same bits as each sequence alone.
#[test]
fn a_batch_equals_its_sequences_alone() {
    for case in CASES {
        let (model, golden) = (model(case), golden(case));
        let layers = model.config().num_hidden_layers;
        let together = everything(case);
        let mut alone = Vec::new();
        for g in &golden {
            let mut state = model.embed(&batch(std::slice::from_ref(g))).unwrap();
            model.run(&mut state, 0..layers, &mut NoTap, &Interventions::new()).unwrap();
            alone.extend(state.hidden);
        }
        assert_eq!(alone, together.values[&(Site::ResidOut, layers - 1)], "{case}");
    }
}

#[test]
fn drafts_change_nothing_but_the_cost() {
    let (model, golden) = (model("plain"), golden("plain"));
    let prompts: Vec<_> = golden.iter().map(|g| g.ids.clone()).collect();
    let never = Cancel::default();
    for stop in [vec![], vec![golden[0].greedy[9]]] {
        let options = GenerateOptions { max_new_tokens: 20, stop };
        let (plain, cost) = generate_counted(&model, &prompts, &[], &options, &never).unwrap();
        for cut in 0..20 {
            let mut drafts = plain.clone();
            for draft in &mut drafts {
                draft.resize(20, 5);
                draft[cut] = (draft[cut] + 1) % 97;
            }
            let drafted = generate(&model, &prompts, &drafts, &options, &never).unwrap();
            assert_eq!(drafted, plain, "drafts wrong from {cut} on");
            drafts.iter_mut().for_each(|d| d.truncate(cut));
            let drafted = generate(&model, &prompts, &drafts, &options, &never).unwrap();
            assert_eq!(drafted, plain, "drafts of {cut} tokens");
        }
        // one draft that ends at once beside a whole one: nothing to feed for it
        let one = GenerateOptions { stop: vec![plain[0][0]], ..options.clone() };
        let short = generate(&model, &prompts, &plain, &one, &never).unwrap();
        assert_eq!(short, generate(&model, &prompts, &[], &one, &never).unwrap());
        let (drafted, with) = generate_counted(&model, &prompts, &plain, &options, &never).unwrap();
        assert_eq!(drafted, plain);
        assert!(with.tokens <= cost.tokens, "{with:?} {cost:?}");
    }
}

/// Scores have the same bits whatever the number of threads and whatever else is scored.
#[test]
fn scores_do_not_depend_on_threads_or_company() {
    let (model, golden) = (model("long"), golden("long"));
    let items: Vec<ScoreItem> = (1..40)
        .flat_map(|n| golden.iter().map(move |g| (n, g)))
        .map(|(n, g)| ScoreItem { prompt: g.ids[..n].to_vec(), answer: g.ids[n..n + 9].to_vec() })
        .collect();
    let with = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| score(&model, &items, &Cancel::default()).unwrap())
    };
    let one = with(1);
    assert_eq!(one, with(2));
    assert_eq!(one, with(5));
    let alone = score(&model, &items[7..8], &Cancel::default()).unwrap();
    assert_eq!(alone[0], one[7]);
    let total: f64 = one[7].logprobs.iter().map(|l| f64::from(*l)).sum();
    assert!((one[7].nll + total).abs() < 1e-4);
}

/// The log-probabilities are those of the golden logits, and of the golden likelihoods.
#[test]
fn scores_equal_the_golden_logits() {
    for case in CASES {
        let (model, golden) = (model(case), golden(case));
        let vocab = model.config().vocab_size;
        for g in &golden {
            let (logits, n) = (g.get("logits").unwrap(), g.ids.len());
            let old = ["plain", "odd", "bf16", "long", "father", "mother"].contains(&case);
            assert_eq!(g.get("nll").is_none(), old, "{case}: nll");
            let item = ScoreItem { prompt: g.ids[..1].to_vec(), answer: g.ids[1..].to_vec() };
            let got = score(&model, &[item], &Cancel::default()).unwrap();
            for t in 1..n {
                let row = &logits[(t - 1) * vocab..t * vocab];
                let want = row[g.ids[t] as usize] - row.iter().map(|x| x.exp()).sum::<f64>().ln();
                let error = (f64::from(got[0].logprobs[t - 1]) - want).abs();
                assert!(error < LOGITS_LIMIT * rms(logits), "{case}: {error}");
                let nll = g.get("nll").map_or(-want, |nll| nll[t - 1]);
                assert!((nll + want).abs() < 1e-5 * rms(logits), "{case}: {nll} {want}");
            }
        }
    }
}

/// bfloat16 weights are run in float32 arithmetic. transformers run in bfloat16 throughout is
/// farther from its own float32 run than the engine is; how far, case.json says.
#[test]
fn float32_arithmetic_is_nearer_than_transformers_in_bfloat16() {
    let mut cases = 0;
    for case in CASES {
        let about = about(case);
        let Some(theirs) = about.get("transformers_bf16_against_float32") else { continue };
        let number = |key: &str| theirs[key].as_f64().unwrap();
        let (tap, golden) = (everything(case), golden(case));
        let logits: Vec<f64> =
            golden.iter().flat_map(|g| g.get("logits").unwrap()).copied().collect();
        let layers = model(case).config().num_hidden_layers;
        let ours = error(&tap.values[&(Site::Logits, layers)], &logits);
        println!("{case}: {ours:.1e} of the rms, transformers in bfloat16: {theirs}");
        assert!(ours < 0.01 * number("logits_max_over_rms"), "{case}: {ours:.1e}");
        cases += 1;
    }
    assert_eq!(cases, 2, "one dense model, one with experts");
}
