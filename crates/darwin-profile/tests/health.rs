//! The health check finds planted faults and clears clean children.

#![allow(clippy::unwrap_used, reason = "tests may be plain")]

mod common;

use common::{Tiny, encoded_of, fingerprint};
use darwin_checkpoint::{MemorySource, Tapped, TensorSource, read_tensor};
use darwin_core::files::{Finding, Health, Severity, Verdict};
use darwin_core::{Cancel, NoProgress};
use darwin_engine::Text;
use darwin_profile::{
    CheckOptions, Family, Loaded, Subject, Weights, check, health_summary, model_ref, preflight,
};
use darwin_testkit::{edited, sibling, tiny_llama, tiny_qwen3_moe, tiny_qwen35, write_tiny_text};
use std::sync::atomic::{AtomicUsize, Ordering};

fn parents() -> (MemorySource, MemorySource) {
    // A common direction in the stream, so that a router row can be made unreachable.
    let father = edited(&tiny_qwen35(1), "father", |info, values| {
        if info.name == "embed_tokens.weight" {
            values.iter_mut().step_by(32).for_each(|v| *v = 8.0);
        }
    });
    let mother = sibling(&father, "mother", 2, 0.05);
    (father, mother)
}

fn average(father: &MemorySource, mother: &MemorySource) -> MemorySource {
    edited(father, "average", |info, values| {
        let id = mother.manifest().find(&info.name).unwrap();
        let other = read_tensor(mother, id).unwrap();
        values.iter_mut().zip(other).for_each(|(v, o)| *v = f32::midpoint(*v, o));
    })
}

fn checked(child: MemorySource, father: &MemorySource, mother: &MemorySource) -> Health {
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let (father, mother) =
        (Tiny::new("father", father.clone()), Tiny::new("mother", mother.clone()));
    let child = Tiny::new("child", child);
    let family = Family {
        child: child.subject(),
        father: father.subject(),
        mother: mother.subject(),
        weights: [&child.weights, &father.weights, &mother.weights],
    };
    let options = CheckOptions { generate: 0, ..CheckOptions::default() };
    let items = encoded_of(0..30, 24);
    check(&family, &items, &text, &options, &NoProgress, &Cancel::default()).unwrap()
}

fn found<'h>(health: &'h Health, check: &str) -> Vec<&'h Finding> {
    health.findings.iter().filter(|f| f.check == check).collect()
}

#[test]
fn children_of_dense_parents_pass() {
    for father in [tiny_llama(3), tiny_qwen3_moe(3)] {
        let mother = sibling(&father, "mother", 2, 0.05);
        let health = checked(average(&father, &mother), &father, &mother);
        assert_ne!(health.verdict, Verdict::Fail, "{:?}", health.findings);
        assert!(health_summary(&health).contains("same top token"));
    }
}

#[test]
fn the_father_himself_passes() {
    let (father, mother) = parents();
    let health = checked(father.clone(), &father, &mother);
    assert_eq!(health.verdict, Verdict::Pass, "{}", health_summary(&health));
    assert!(health.kl[0].value < 1e-9);
    assert!(health.layers.iter().all(|l| l.off_segment < 1e-6));
}

#[test]
fn a_plain_average_of_close_parents_is_not_interference() {
    let (father, mother) = parents();
    let health = checked(average(&father, &mother), &father, &mother);
    assert!(found(&health, "interference").is_empty(), "{}", health_summary(&health));
    assert!(found(&health, "new_dead").is_empty());
    assert_eq!(health.verdict, Verdict::Pass, "{}", health_summary(&health));
}

#[test]
fn an_overgrown_mixer_is_named() {
    let (father, mother) = parents();
    for (layer, tensor) in [(1, "linear_attn.out_proj"), (3, "self_attn.o_proj")] {
        let name = format!("layers.{layer}.{tensor}.weight");
        let child = edited(&average(&father, &mother), "child", |info, values| {
            if info.name == name {
                values.iter_mut().for_each(|v| *v *= 6.0);
            }
        });
        let health = checked(child, &father, &mother);
        assert_eq!(health.verdict, Verdict::Fail);
        let interference = found(&health, "interference");
        let named = interference
            .iter()
            .find(|f| f.layer == Some(layer) && f.component.as_deref() == Some("mixer"))
            .unwrap_or_else(|| panic!("{}", health_summary(&health)));
        assert_eq!(named.severity, Severity::Fail);
        assert!(named.text.starts_with(&format!("L{layer} interference: child importance")));
        assert_eq!(named.text.contains("attention heads"), layer == 3, "{}", named.text);
        assert!(found(&health, "norm_drift").iter().any(|f| f.text.contains(&name)));
    }
}

#[test]
fn an_expert_that_nobody_reaches_is_named() {
    let (father, mother) = parents();
    let child = edited(&average(&father, &mother), "child", |info, values| {
        if info.name == "layers.2.mlp.gate.weight" {
            // Away from what all tokens share.
            values[4 * 32..5 * 32].fill(0.0);
            values[4 * 32] = -200.0;
        }
    });
    let health = checked(child, &father, &mother);
    let dead = found(&health, "new_dead");
    assert!(
        dead.iter().any(|f| f.layer == Some(2) && f.text.contains(" 4")),
        "{}",
        health_summary(&health)
    );
}

#[test]
fn a_weight_that_is_not_a_number_is_named() {
    let (father, _) = parents();
    let child = edited(&father, "child", |info, values| {
        if info.name == "layers.2.mlp.shared_expert.up_proj.weight" {
            values[5] = f32::NAN;
        }
    });
    let findings = preflight(&child, &father).unwrap().err().unwrap();
    assert_eq!(findings.len(), 1);
    assert_eq!((findings[0].layer, findings[0].check.as_str()), (Some(2), "nan"));
    assert_eq!(findings[0].component.as_deref(), Some("shared"));
    assert!(preflight(&father, &father).unwrap().is_ok());
}

#[test]
fn every_weight_is_read_once() {
    let (father, mother) = parents();
    let dir = tempfile::tempdir().unwrap();
    write_tiny_text(dir.path()).unwrap();
    let text = Text::open(dir.path()).unwrap();
    let family = [average(&father, &mother), father, mother];
    // The values that are read of each tensor.
    let counts = family
        .each_ref()
        .map(|s| s.manifest().ids().map(|_| AtomicUsize::new(0)).collect::<Vec<_>>());
    let sources: [_; 3] = std::array::from_fn(|i| {
        let counts = &counts[i];
        Tapped::new(&family[i], move |plan, _, read| {
            counts[plan.id.index()].fetch_add(read.unwrap().len(), Ordering::Relaxed);
        })
    });
    let refs = sources.each_ref().map(|s| model_ref(s.name(), s, None, fingerprint(s.name())));
    let child = preflight(&sources[0], &sources[1]).unwrap().ok().unwrap();
    let models = [child, Loaded::open(&sources[1]).unwrap(), Loaded::open(&sources[2]).unwrap()];
    let subject =
        |i: usize| Subject { model: &models[i].model, source: &sources[i], reference: &refs[i] };
    let weights = models.each_ref().map(|m| &m.weights);
    let family = Family { child: subject(0), father: subject(1), mother: subject(2), weights };
    let options = CheckOptions { generate: 0, ..CheckOptions::default() };
    let items = encoded_of(0..30, 24);
    check(&family, &items, &text, &options, &NoProgress, &Cancel::default()).unwrap();
    for (source, counts) in sources.iter().zip(&counts) {
        for (info, values) in source.manifest().tensors().iter().zip(counts) {
            let name = format!("{} of {}", info.name, source.name());
            assert_eq!(values.load(Ordering::Relaxed), info.elements(), "{name}");
        }
    }
    for (source, model) in sources.iter().zip(&models) {
        let again = Weights::read(source).unwrap();
        for id in source.manifest().ids() {
            let (a, b) = (model.weights.norm(id).unwrap(), again.norm(id).unwrap());
            assert!((a - b).abs() <= 1e-12 * b, "{a} is not {b}");
        }
    }
}
