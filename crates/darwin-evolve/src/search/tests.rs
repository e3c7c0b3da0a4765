//! The search against answers that are made up: budgets, order, what the derivatives are worth.

use super::plan::PHASES;
use super::*;
use crate::job::{RANDOM_MOTHER, Slope, Slopes, Tally};
use crate::solver::Solvable;
use crate::{Prior, RunConfig};
use darwin_core::files::Estimate;
use darwin_core::{ExpertIdx, Group, LayerIdx, Part, Share, Split};
use darwin_merge::RegMean;
use std::collections::BTreeSet;

const LAYERS: usize = 3;
const EXPERTS: usize = 4;

fn groups() -> Vec<Group> {
    let mut groups = Vec::new();
    let mut push = |layer: Option<usize>, part, tensor: String, experts: usize| {
        let of = |expert: Option<usize>| Group {
            part,
            layer: layer.map(LayerIdx),
            tensor: tensor.as_str().into(),
            expert: expert.map(ExpertIdx),
        };
        if experts == 0 {
            groups.push(of(None));
        }
        groups.extend((0..experts).map(|expert| of(Some(expert))));
    };
    push(None, Part::Embed, "embed_tokens.weight".to_owned(), 0);
    push(None, Part::Norm, "norm.weight".to_owned(), 0);
    push(None, Part::Head, "lm_head.weight".to_owned(), 0);
    for l in 0..LAYERS {
        for tensor in ["q_proj", "k_proj"] {
            push(Some(l), Part::Mixer, format!("layers.{l}.self_attn.{tensor}.weight"), 0);
        }
        push(Some(l), Part::Routed, format!("layers.{l}.mlp.experts.down_proj"), EXPERTS);
        push(Some(l), Part::Router, format!("layers.{l}.mlp.gate.weight"), EXPERTS);
    }
    groups
}

/// The best share of each group: the layers differ, and so do the experts.
fn optimum(group: &Group) -> f64 {
    let layer = group.layer.map_or(0.0, |layer| layer.0 as f64);
    let expert = group.expert.map_or(0.0, |expert| expert.0 as f64);
    0.8 - 0.4 * layer + 0.3 * expert * if group.part == Part::Router { -1.0 } else { 1.0 }
}

/// The father's and mother's scores are nearly equal, as those of siblings are.
fn tensors() -> Vec<TensorShare> {
    let mut tensors: Vec<TensorShare> = Vec::new();
    for group in groups() {
        if tensors.last().is_none_or(|last| *last.tensor != *group.tensor) {
            let tensor = group.tensor.to_string();
            tensors.push(TensorShare { tensor, part: group.part, share: 0.51 });
        }
    }
    tensors
}

fn setup(arms: &str, steps: usize, seeds: usize) -> Setup {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("run.yaml");
    let text = format!(
        "title: t\nfather: f\nmother: m\nitems: i\nout: o\nseeds: {seeds}\nmerge: {{ method: linear }}\n\
         goal: {{ protected: {{ language: 0.02 }} }}\ncalibration: {{ per_domain: 4 }}\n\
         proxy: {{ per_domain: 6, steps: {steps}, final_per_domain: 40 }}\n\
         real: {{ per_domain: 20, steps: 3 }}\nselection: {{ per_domain: 20, top: 2 }}\n\
         test: {{ per_domain: 4 }}\narms: [{arms}]\n"
    );
    darwin_core::fs::write_atomic(&path, text.as_bytes()).expect("written");
    let domain = |name: &str| name.parse::<Domain>().expect("a domain");
    let items = |n: usize| -> Vec<(Domain, u64)> {
        let of = |i: usize| (domain(["math", "language", "code"][i % 3]), 20 + (i % 7) as u64);
        (0..n).map(of).collect()
    };
    let mut config = RunConfig::read(&path).expect("valid");
    config.goal.weights.insert(domain("code"), 0.0);
    Setup {
        config: Arc::new(config),
        shape: Shape { linear: vec![false; LAYERS], groups: groups().into() },
        card: Prior::ignorant(),
        items: [items(600), items(300), items(300)],
        profile_tokens: 100,
        tensor_shares: tensors().into(),
        solvable: Some(Solvable { settings: RegMean::default(), measured: 60, tokens: 50 }),
    }
}

/// The share of each group in a recipe.
fn shares(ask: &Ask) -> Vec<f64> {
    let recipe = &ask.recipe;
    let of = |group: &Group| {
        let place = group.expert.map_or(0, |expert| expert.0);
        let own = recipe.groups().and_then(|groups| groups.get(&group.tensor));
        own.map_or_else(
            || {
                let layer = group.layer.map(|layer| (layer, LAYERS));
                let shares = recipe.darwin().t.as_ref().expect("a blend");
                shares.resolve(group.part.into(), layer).0.get()
            },
            |shares: &[Share]| shares[if shares.len() > 1 { place } else { 0 }].get(),
        )
    };
    groups().iter().map(of).collect()
}

/// Math is best at the optimum; the language suffers from the mother's head alone.
fn answer(setup: &Setup, job: &Job) -> Answer {
    let (ask, groups) = (&job.ask, groups());
    let shares = shares(ask);
    let empty = ask.recipe.models().contains(&RANDOM_MOTHER);
    let n = groups.len() as f64;
    let loss: f64 =
        shares.iter().zip(&groups).map(|(c, g)| (c - optimum(g)).powi(2) / n).sum::<f64>();
    let at_father: f64 = groups.iter().map(|g| optimum(g).powi(2) / n).sum();
    let gain = |domain: &Domain| match domain.as_str() {
        _ if empty => 0.0,
        "math" => 0.3 * (at_father - loss),
        _ => -0.1 * shares[2],
    };
    let set = &setup.items[match ask.items.split {
        Split::Proxy => 0,
        Split::Search => 1,
        _ => 2,
    }];
    let mut domains: std::collections::BTreeMap<Domain, Tally> = Default::default();
    let mut tokens = 0;
    for index in &ask.items.indices {
        let (domain, cost) = &set[*index as usize];
        tokens += cost;
        let gain = gain(domain);
        let tally = domains.entry(domain.clone()).or_insert(Tally {
            n: 0,
            score: 0.5 + gain,
            gain: Estimate { value: gain, se: 0.001 },
        });
        tally.n += 1;
    }
    let slope = |domain: &Domain| Slope {
        value: (0..groups.len())
            .map(|i| match domain.as_str() {
                _ if empty => 0.0,
                "math" => (-0.6 * (shares[i] - optimum(&groups[i])) / n) as f32,
                _ => {
                    if i == 2 {
                        -0.1
                    } else {
                        0.0
                    }
                }
            })
            .collect(),
        se: vec![1e-4; groups.len()],
    };
    let slopes = (ask.work == Work::Slopes).then(|| {
        let domains = domains.keys().map(|d| (d.clone(), slope(d))).collect();
        Arc::new(Slopes { domains })
    });
    if ask.work == Work::Slopes {
        tokens = slopes_cost(tokens);
    }
    if ask.items.split == Split::Proxy && ask.recipe.needs_activations() {
        tokens += 50;
    }
    Answer { tokens, outcome: Ok(Scored { domains, slopes }) }
}

/// Runs a search to its end; gives its jobs with their fitness.
fn run(setup: &Setup) -> (Search, Vec<(Job, f64)>) {
    let mut search = Search::new(setup.clone());
    let mut done = Vec::new();
    loop {
        let jobs = search.next_jobs().expect("asks").to_vec();
        if jobs.is_empty() {
            return (search, done);
        }
        let mut answers = Vec::new();
        for job in jobs {
            let answer = answer(setup, &job);
            let scored = answer.outcome.clone().expect("scored");
            let fitness = search.fitness(&job, &scored).expect("judged");
            // Whoever does the jobs takes a candidate without a finite fitness for failed.
            assert!(fitness.is_finite(), "job {} ({}): {fitness}", job.id, job.asker.name());
            answers.push(answer);
            done.push((job, fitness));
        }
        search.tell(&answers).expect("told");
    }
}

#[test]
fn every_arm_spends_the_same_and_derivatives_find_what_is_to_be_found() {
    let all = "line, blind, blind-wide, guided, regmean, placebo, random-mother, inverted, \
               random, card, card-v5, v4";
    let setup = setup(all, 400, 1);
    let (search, jobs) = run(&setup);
    for (i, (job, _)) in jobs.iter().enumerate() {
        assert_eq!(job.id, i as u64);
    }
    let champions = search.champions();
    assert_eq!(champions.len(), 12);
    let budget = search.setting.as_ref().expect("walked").plan.proxy;
    for champion in champions {
        let spent = champion.tokens[0];
        let name = champion.arm.name();
        assert!(spent <= budget, "{name}: {spent} of {budget}");
        assert!(spent as f64 > 0.99 * budget as f64, "{name}: {spent} of {budget}");
        assert_eq!(champion.steps[1], 3);
    }
    let of = |arm| champions.iter().find(|c| c.arm == arm).expect("it ran").fitness;
    let (guided, line) = (of(ArmName::Guided), of(ArmName::Line));
    assert!(guided > line + 0.05, "{guided} {line}");
    for other in [ArmName::Blind, ArmName::BlindWide, ArmName::Placebo, ArmName::V4] {
        assert!(guided > of(other) + 0.01, "{}: {guided} {}", other.name(), of(other));
    }
    // The derivatives along the ascent foretell what it gains; the made-up goal is a parabola.
    let found = champions.iter().find(|c| c.arm == ArmName::Guided).expect("it ran");
    let (foretold, measured) = found.foretold.zip(found.over_line).expect("it ascended");
    assert!((foretold - measured).abs() < 0.1 * measured, "{foretold} {measured}");
    // Nothing is won with another mother than the user's, and the father's level is kept.
    assert!((of(ArmName::RandomMother) - line).abs() < 0.02);
    assert!(champions.iter().any(|c| c.permuted.is_some_and(|changed| changed > 0.05)));
    // The optimum's head is the mother's; the language pays for it and the floor holds.
    let best = champions.iter().find(|c| c.arm == ArmName::Guided).expect("it ran");
    let head = best.recipe.groups().and_then(|g| g.get("lm_head.weight")).expect("a share")[0];
    assert!(head.get() < 0.25, "{}", head.get());
    // Both parents' fitness is their own, in every phase.
    for phase in [Phase::Proxy, Phase::Real, Phase::Selection] {
        let labelled = |label: &str| {
            let found = jobs
                .iter()
                .find(|(job, _)| job.phase == phase && job.ask.label.as_deref() == Some(label));
            found.expect("a baseline").1
        };
        assert!((labelled("father") - 0.5).abs() < 1e-12);
        assert!((labelled("mother") - 0.5).abs() > 0.01);
    }
}

#[test]
fn a_search_is_a_function_of_what_it_is_told() {
    let setup = setup("guided, blind", 300, 1);
    let [(_, a), (_, b)] = [run(&setup), run(&setup)];
    let text = |jobs: &[(Job, f64)]| -> Vec<String> {
        let of = |(job, fitness): &(Job, f64)| {
            format!("{} {:?} {} {fitness}", job.id, job.ask.items, job.ask.recipe.logical_yaml())
        };
        jobs.iter().map(of).collect()
    };
    assert_eq!(text(&a), text(&b));
}

#[test]
fn replicates_have_items_and_numbers_of_their_own() {
    let setup = setup("line, guided", 300, 2);
    let (search, jobs) = run(&setup);
    assert_eq!(search.champions().len(), 4);
    assert_eq!(search.diagnoses().len(), 2);
    for split in PHASES {
        let of = |replicate: usize| -> BTreeSet<u32> {
            let own = jobs
                .iter()
                .filter(|(job, _)| job.replicate == replicate && job.ask.items.split == split);
            own.flat_map(|(job, _)| job.ask.items.indices.clone()).collect()
        };
        let (a, b) = (of(0), of(1));
        assert!(!a.is_empty() && !b.is_empty() && a.is_disjoint(&b));
    }
}

#[test]
fn generations_get_new_items_and_their_best_more_of_them() {
    let setup = setup("blind", 400, 1);
    let (_, jobs) = run(&setup);
    let arm: Vec<&Job> = jobs
        .iter()
        .map(|(job, _)| job)
        .filter(|job| job.asker == Asker::Arm(ArmName::Blind) && job.phase == Phase::Proxy)
        .collect();
    let of = |generation: usize| -> Vec<&Job> {
        arm.iter().copied().filter(|job| job.ask.generation == generation).take(40).collect()
    };
    let (first, second) = (of(1), of(2));
    assert!(first.len() > 8 && second.len() > 8);
    let window = |job: &Job| job.ask.items.indices.clone();
    assert_eq!(window(first[0]), window(first[1]));
    assert!(window(first[0]).iter().all(|i| !window(second[0]).contains(i)));
    // 6 of math, 24 of the protected language; then 18 more of math for the best quarter.
    assert_eq!(window(first[0]).len(), 30);
    let race = first.iter().find(|job| window(job).len() != 30).expect("a race");
    assert_eq!(window(race).len(), 18);
}

#[test]
fn a_budget_that_diagnostics_exceed_is_refused() {
    let mut setup = setup("guided", 20, 1);
    let mut search = Search::new(setup.clone());
    let error = loop {
        match search.next_jobs().map(<[Job]>::to_vec) {
            Err(error) => break error,
            Ok(jobs) => {
                assert!(!jobs.is_empty());
                let mut answers = Vec::new();
                for job in jobs {
                    let answer = answer(&setup, &job);
                    let scored = answer.outcome.clone().expect("scored");
                    search.fitness(&job, &scored).expect("judged");
                    answers.push(answer);
                }
                search.tell(&answers).expect("told");
            }
        }
    };
    assert!(matches!(error, Error::Budget { arm: ArmName::Guided, .. }), "{error}");
    Arc::make_mut(&mut setup.config).proxy.steps = 400;
    assert_eq!(run(&setup).0.champions().len(), 1);
}
