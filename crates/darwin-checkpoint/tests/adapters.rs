//! LoRA adapters against PEFT's own merges (tools/parity/lora.py), and every refusal.

#![allow(clippy::unwrap_used)]
#![allow(clippy::disallowed_methods, reason = "a test may write plainly")]

use darwin_checkpoint::{
    Adapted, Checkpoint, Dtype, HasFiles, HashCache, TensorSource, canonical_name, read_tensor,
};
use darwin_core::{Cancel, Diagnose, NoProgress};
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Tensors = BTreeMap<String, (Dtype, Vec<usize>, Vec<u8>)>;

const CASES: [&str; 16] = [
    "plain",
    "plain-bfloat16",
    "patterns",
    "rslora",
    "embedding",
    "bias",
    "lora_bias",
    "experts",
    "experts-0.18.1",
    "experts-0.19.0",
    "experts-0.19.1",
    "experts-bfloat16",
    "experts-one",
    "square",
    "square-0.18.1",
    "square-0.19.0",
];

fn golden(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../darwin-testkit/fixtures/golden/lora").join(name)
}

fn read(path: &Path) -> Tensors {
    let bytes = std::fs::read(path).unwrap();
    let length = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
    let header: Map<String, Value> = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let entry = |(name, value): (String, Value)| {
        let dtype = Dtype::from_name(value["dtype"].as_str()?)?;
        let shape = value["shape"].as_array()?.iter().map(|d| d.as_u64().unwrap() as usize);
        let at = |i: usize| 8 + length + value["data_offsets"][i].as_u64().unwrap() as usize;
        Some((name, (dtype, shape.collect(), bytes[at(0)..at(1)].to_vec())))
    };
    header.into_iter().filter_map(entry).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let end = data.len() + bytes.len();
        header.insert(
            name.clone(),
            json!({"dtype": dtype.name(), "shape": shape, "data_offsets": [data.len(), end]}),
        );
        data.extend_from_slice(bytes);
    }
    let text = Value::Object(header).to_string();
    let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
    bytes.extend_from_slice(text.as_bytes());
    bytes.extend_from_slice(&data);
    std::fs::write(path, bytes).unwrap();
}

fn base(name: &str) -> Arc<Checkpoint> {
    Arc::new(Checkpoint::open(golden("base").join(name)).unwrap())
}

fn base_of(case: &str) -> Arc<Checkpoint> {
    let about = std::fs::read(golden(case).join("case.json")).unwrap();
    let about: Value = serde_json::from_slice(&about).unwrap();
    base(about["base"].as_str().unwrap())
}

/// PEFT rounds the product for experts to the weights' dtype, so that there a unit is one of the
/// larger of sum and product.
fn close(name: &str, dtype: Dtype, got: &[f32], expected: &[f32], base: &[f32]) {
    assert_eq!(got.len(), expected.len());
    for (i, ((got, expected), base)) in got.iter().zip(expected).zip(base).enumerate() {
        let product = if name.contains(".experts.") { (expected - base).abs() } else { 0.0 };
        let size = expected.abs().max(product);
        let limit = match dtype {
            Dtype::F32 => 1e-6 * size.max(0.1),
            // one unit in the last place
            _ => 2.0_f32.powi(size.max(1e-3).log2().floor() as i32 - 7),
        };
        assert!((got - expected).abs() <= limit, "{name}[{i}]: {got} instead of {expected}");
    }
}

fn values((dtype, _, bytes): &(Dtype, Vec<usize>, Vec<u8>)) -> Vec<f32> {
    let mut values = vec![0.0; bytes.len() / dtype.size()];
    dtype.decode(bytes, &mut values);
    values
}

/// Compares every tensor that PEFT changed, by its place in a base of PEFT's layout.
fn compare(case: &str, like: &Checkpoint, adapted: &Adapted) {
    let merged = read(&golden(case).join("merged.safetensors"));
    let mut touched = Vec::new();
    for (name, tensor) in &merged {
        let stored = like.layout().stored.iter().find(|s| s.name == *name).unwrap();
        let logical = &like.manifest().get(stored.id).name;
        let id = adapted.manifest().find(logical).unwrap();
        let plan = adapted.prepare(id).unwrap();
        let mut got = vec![0.0; stored.rows.len() * plan.cols];
        adapted.read_tile(&plan, stored.rows.clone(), &mut got).unwrap();
        let mut before = vec![0.0; got.len()];
        adapted.base().read_tile(&plan, stored.rows.clone(), &mut before).unwrap();
        close(&format!("{case}: {name}"), plan.dtype, &got, &values(tensor), &before);
        let whole = read_tensor(adapted, id).unwrap();
        for row in 0..plan.rows {
            let mut tile = vec![0.0; plan.cols];
            adapted.read_tile(&plan, row..row + 1, &mut tile).unwrap();
            assert_eq!(tile, whole[row * plan.cols..(row + 1) * plan.cols]);
        }
        assert!(!adapted.read_raw(id, 0..1, &mut Vec::new()).unwrap());
        touched.push(id);
    }
    touched.sort();
    touched.dedup();
    assert_eq!(adapted.num_changed(), touched.len(), "{case}");
    for id in adapted.manifest().ids().filter(|id| !touched.contains(id)) {
        let rows = adapted.manifest().get(id).rows();
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        assert!(adapted.read_raw(id, 0..rows, &mut ours).unwrap());
        adapted.base().read_raw(id, 0..rows, &mut theirs).unwrap();
        assert_eq!(ours, theirs);
    }
}

#[test]
fn merges_as_peft_does() {
    for case in CASES.into_iter().chain(["square-0.19.1", "modules"]) {
        let base = base_of(case);
        let adapted = Adapted::open(Arc::clone(&base), golden(case)).unwrap();
        compare(case, &base, &adapted);
    }
}

/// Experts one by one and fused ones are the same tensors.
#[test]
fn the_layout_of_experts_does_not_matter() {
    let (fused, modules) = (base("fused"), base("modules"));
    compare("modules", &modules, &Adapted::open(Arc::clone(&fused), golden("modules")).unwrap());
    for case in ["experts", "experts-0.18.1", "experts-one"] {
        compare(case, &fused, &Adapted::open(Arc::clone(&modules), golden(case)).unwrap());
    }
}

#[test]
fn the_orientation_of_square_experts_is_the_recorded_one() {
    let read = |case: &str| {
        let adapted = Adapted::open(base("square"), golden(case)).unwrap();
        let id = adapted.manifest().find("layers.0.mlp.experts.down_proj").unwrap();
        read_tensor(&adapted, id).unwrap()
    };
    let (old, new) = (read("square-0.19.0"), read("square-0.19.1"));
    assert_eq!(old, read("square-0.18.1"));
    assert_ne!(old, new);
}

#[test]
fn the_identity_is_of_base_and_adapter() {
    let open = |case: &str| Adapted::open(base("fused"), golden(case)).unwrap();
    let plain = open("plain");
    let of = |model: &dyn HasFiles| {
        HashCache::default().fingerprint(model, &NoProgress, &Cancel::default()).unwrap()
    };
    assert_eq!(of(&plain), of(&open("plain")));
    assert_ne!(of(&plain), of(&open("patterns")));
    assert_ne!(of(&plain), of(plain.base().as_ref()));
    assert_eq!(plain.files().count(), 2);
    let folder = tempfile::tempdir().unwrap();
    let config = golden("plain").join("adapter_config.json");
    std::fs::copy(config, folder.path().join("adapter_config.json")).unwrap();
    let mut tensors = crate::read(&golden("plain").join("adapter_model.safetensors"));
    tensors.first_entry().unwrap().get_mut().2[0] ^= 1;
    write(&folder.path().join("adapter_model.safetensors"), &tensors);
    assert_ne!(of(&Adapted::open(base("fused"), folder.path()).unwrap()), of(&plain));
}

/// The sentences of what is refused when `case` is changed so.
fn refusal(case: &str, edit: impl Fn(&mut Value, &mut Tensors)) -> String {
    let folder = tempfile::tempdir().unwrap();
    let bytes = std::fs::read(golden(case).join("adapter_config.json")).unwrap();
    let mut config = serde_json::from_slice(&bytes).unwrap();
    let mut tensors = read(&golden(case).join("adapter_model.safetensors"));
    edit(&mut config, &mut tensors);
    std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
    write(&folder.path().join("adapter_model.safetensors"), &tensors);
    let error = Adapted::open(base_of(case), folder.path()).expect_err("must be refused");
    assert!(error.hint().is_some());
    assert_eq!(error.fault(), darwin_core::Fault::User);
    error.to_string()
}

#[test]
fn configurations_are_refused_with_a_sentence() {
    let settings = [
        ("use_dora", json!(true), "DoRA"),
        ("use_qalora", json!(true), "QALoRA"),
        ("use_bdlora", json!({"a": 1}), "block-diagonal"),
        ("use_novelty", json!(true), "`use_novelty` is set"),
        ("alora_invocation_tokens", json!([1, 2]), "aLoRA"),
        ("arrow_config", json!({"a": 1}), "Arrow"),
        ("kasa_config", json!({"a": 1}), "KaSA"),
        ("monteclora_config", json!({"a": 1}), "MonteCLoRA"),
        ("velora_config", json!({"a": 1}), "VeLoRA"),
        ("layer_replication", json!([[0, 2]]), "layers of the base are repeated"),
        ("trainable_token_indices", json!([3]), "single rows"),
        ("init_lora_weights", json!("pissa_niter_4"), "changes the base weights"),
        ("init_lora_weights", json!("olora"), "changes the base weights"),
        ("peft_type", json!("LOHA"), "`peft_type` is LOHA"),
        ("r", json!(0), "`r` is 0"),
        ("lora_alpha", json!("much"), "`lora_alpha` is \"much\""),
        ("rank_pattern", json!({"(q": 3}), "no expression"),
        ("rank_pattern", json!({"q_proj": -3}), "`rank_pattern: q_proj` is -3"),
        ("target_parameters", json!("x"), "a list of names"),
        ("r", json!(3), "has rank 3 by adapter_config.json, its A is [4, 8] and its B [8, 4]"),
        ("rank_pattern", json!({"v_proj": 2}), "has rank 2"),
        ("r", json!(u64::MAX), "has rank 18446744073709551615 by"),
        ("r", json!(4.0), "`r` is 4.0"),
        ("lora_alpha", json!(1e39), "allowed is a number that float32 holds"),
        ("alpha_pattern", json!({"q_proj": -1e300}), "`alpha_pattern: q_proj` is -1e+300"),
        ("rank_pattern", json!({"(a{1000}){1000}": 3}), "no expression"),
        ("rank_pattern", json!(vec!["x"; 3]), "a mapping of names"),
        ("target_parameters", json!(vec!["x"; 5000]), "a list of names, at most 4096"),
    ];
    for (key, value, expected) in settings {
        let text = refusal("plain", |config, _| config[key] = value.clone());
        assert!(text.contains(expected), "{key}: {text}");
    }
    let text = refusal("plain", |config, _| {
        config["use_dora"] = json!(true);
        config["peft_type"] = json!("VERA");
    });
    assert_eq!(text.lines().count(), 2, "all at once: {text}");
}

/// The rank of fused experts times their number must not wrap round to what the file has.
#[test]
fn a_rank_that_wraps_is_refused() {
    for rank in [(1_u64 << 62) + 2, (1 << 63) + 2, u64::MAX / 2 + 3] {
        let text = refusal("experts", |config, _| config["r"] = json!(rank));
        assert!(text.contains(&format!("has rank {rank} times")), "{text}");
    }
}

#[test]
fn tensors_are_refused_with_a_sentence() {
    const Q: &str = "base_model.model.model.layers.0.self_attn.q_proj";
    let a = |name: &str| format!("{Q}.{name}");
    let rename = |tensors: &mut Tensors, from: &str, to: &str| {
        let moved = tensors.remove(from).unwrap();
        tensors.insert(to.to_owned(), moved);
    };
    let move_a = |to: &str| refusal("plain", |_, t| rename(t, &a("lora_A.weight"), to));
    assert!(move_a(&a("lora_magnitude_vector")).contains("belongs to DoRA"));
    assert!(move_a(&a("lora_C.weight")).contains("belongs to a variant"));
    assert!(move_a("layers.0.lora_A.weight").contains("does not begin with `base_model.model.`"));
    let text = refusal("plain", |_, t| drop(t.remove(&a("lora_A.weight"))));
    assert!(text.contains("self_attn.q_proj` has no lora_A"), "{text}");
    let text = refusal("plain", |_, t| drop(t.remove(&a("lora_B.weight"))));
    assert!(text.contains("self_attn.q_proj` has no lora_B"), "{text}");
    let text = refusal("plain", |_, t| {
        for layer in [7, 8] {
            for half in ["A", "B"] {
                let kept = t[&a(&format!("lora_{half}.weight"))].clone();
                let name = format!("base_model.model.model.layers.{layer}.self_attn.q_proj");
                t.insert(format!("{name}.lora_{half}.weight"), kept);
            }
        }
    });
    assert!(text.contains("layers.7.self_attn.q_proj`, `model.layers.8.self_attn"), "{text}");
    let text = refusal("plain", |_, t| t.get_mut(&a("lora_A.weight")).unwrap().1 = vec![8, 4]);
    assert!(text.contains("its A is [8, 4]"), "{text}");
    let text = refusal("plain", |_, t| {
        *t.get_mut(&a("lora_A.weight")).unwrap() = (Dtype::F32, vec![4, 6], vec![0; 96]);
    });
    assert!(text.contains("takes A [4, 6] and B [8, 4], the base's tensor is [8, 8]"), "{text}");
    let text = refusal("plain", |_, t| t.get_mut(&a("lora_A.weight")).unwrap().1 = vec![4, 8, 1]);
    assert!(text.contains("is [4, 8, 1]"), "{text}");
    let text = refusal("plain", |_, t| {
        *t.get_mut(&a("lora_A.weight")).unwrap() = (Dtype::I32, vec![4, 8], vec![0; 128]);
    });
    assert!(text.contains("is I32"), "{text}");
    let text = refusal("embedding", |_, t| {
        *t.get_mut("base_model.model.lm_head.weight").unwrap() =
            (Dtype::F32, vec![13, 8], vec![0; 416]);
    });
    assert!(text.contains("is [13, 8], the base's is [12, 8]"), "{text}");
    let text = refusal("plain", |_, t| t.clear());
    assert!(text.contains("holds no tensors"), "{text}");
}

#[test]
fn square_experts_without_a_version_are_refused() {
    for version in [Value::Null, json!("UNKNOWN")] {
        let text = refusal("square", |config, _| config["peft_version"] = version.clone());
        assert!(text.contains("records no `peft_version`"), "{text}");
        assert!(text.contains("layers.0.mlp.experts.down_proj` are square"), "{text}");
    }
    let text = refusal("square", |c, _| c["peft_version"] = json!("0.19.1.dev0@ab12"));
    assert!(text.contains("PEFT 0.19.1.dev0@ab12 does not tell which"), "{text}");
    // Where the shapes decide, no version is needed.
    let folder = tempfile::tempdir().unwrap();
    for case in ["experts", "experts-0.18.1"] {
        let bytes = std::fs::read(golden(case).join("adapter_config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        config["peft_version"] = Value::Null;
        std::fs::write(folder.path().join("adapter_config.json"), config.to_string()).unwrap();
        let weights = "adapter_model.safetensors";
        std::fs::copy(golden(case).join(weights), folder.path().join(weights)).unwrap();
        compare(case, &base("fused"), &Adapted::open(base("fused"), folder.path()).unwrap());
    }
}

#[test]
fn files_are_refused_with_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let refused = || Adapted::open(base("fused"), folder.path()).expect_err("refused").to_string();
    assert!(refused().contains("no adapter_config.json"));
    std::fs::write(folder.path().join("adapter_config.json"), "{").unwrap();
    assert!(refused().contains("not valid JSON"));
    let config = golden("plain").join("adapter_config.json");
    std::fs::copy(config, folder.path().join("adapter_config.json")).unwrap();
    assert!(refused().contains("no adapter_model.safetensors"));
    std::fs::write(folder.path().join("adapter_model.bin"), "").unwrap();
    assert!(refused().contains("pickle"));
    std::fs::write(folder.path().join("adapter_model.safetensors"), "short").unwrap();
    assert!(refused().contains("too few for a safetensors file"));
    let missing = Adapted::open(base("fused"), folder.path().join("x")).expect_err("refused");
    assert!(missing.to_string().contains("no such folder"));
}

/// A weight of the adapter that is no number is named when it is read.
#[test]
fn a_nan_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let config = golden("plain").join("adapter_config.json");
    std::fs::copy(config, folder.path().join("adapter_config.json")).unwrap();
    let mut tensors = read(&golden("plain").join("adapter_model.safetensors"));
    let name = tensors.keys().next().unwrap().clone();
    tensors.get_mut(&name).unwrap().2[..4].copy_from_slice(&f32::NAN.to_le_bytes());
    write(&folder.path().join("adapter_model.safetensors"), &tensors);
    let adapted = Adapted::open(base("fused"), folder.path()).unwrap();
    let module = name.strip_prefix("base_model.model.").unwrap();
    let module = module.rsplit_once(".lora_").unwrap().0;
    let id = adapted.manifest().find(&canonical_name(&format!("{module}.weight"))).unwrap();
    let error = read_tensor(&adapted, id).unwrap_err().to_string();
    assert!(error.contains("adapter_model.safetensors") && error.contains(&name), "{error}");
}
