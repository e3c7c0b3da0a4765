//! Makes the corpus: `cargo run -p darwin-fuzz --example seed`. What real writers write, the
//! example files, and inputs that are hostile in a way of their own.

#![allow(clippy::print_stdout, reason = "a program says what it wrote")]

#[path = "../../darwin-report/tests/fixture/mod.rs"]
mod fixture;

#[path = "seed/hostile.rs"]
mod hostile;

use darwin_checkpoint::ExpertLayout;
use darwin_core::files::Chain;
use darwin_core::fs::write_atomic;
use darwin_testkit::{GgufFile, GgufTensor, GgufValue, tiny_llama, tiny_qwen3_moe, tiny_qwen35};
use darwin_testkit::{write_model, write_tiny_text};
use flate2::Compression;
use flate2::write::GzEncoder;
use std::io::Write;
use std::path::{Path, PathBuf};

fn here() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).to_owned()
}

/// Writes a seed.
pub(crate) fn put(target: &str, name: &str, bytes: impl AsRef<[u8]>) {
    let folder = here().join("corpus").join(target);
    std::fs::create_dir_all(&folder).expect("the corpus can be written");
    write_atomic(&folder.join(name), bytes.as_ref()).expect("the corpus can be written");
}

/// A safetensors file.
pub(crate) fn safetensors(tensors: &[(&str, &str, &[u64], &[u8])]) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    for (name, dtype, shape, bytes) in tensors {
        let at = [data.len(), data.len() + bytes.len()];
        header.insert(
            (*name).to_owned(),
            serde_json::json!({"dtype": dtype, "shape": shape, "data_offsets": at}),
        );
        data.extend_from_slice(bytes);
    }
    let header = serde_json::to_vec(&header).expect("JSON");
    [&(header.len() as u64).to_le_bytes()[..], &header, &data].concat()
}

/// Every tensor of the Llama that stands beside the files under test, of one value.
pub(crate) fn llama_tensors() -> Vec<(String, Vec<u64>)> {
    let shapes: [(&str, &[u64]); 12] = [
        ("embed_tokens.weight", &[12, 8]),
        ("norm.weight", &[8]),
        ("lm_head.weight", &[12, 8]),
        ("layers.0.input_layernorm.weight", &[8]),
        ("layers.0.post_attention_layernorm.weight", &[8]),
        ("layers.0.self_attn.q_proj.weight", &[8, 8]),
        ("layers.0.self_attn.k_proj.weight", &[4, 8]),
        ("layers.0.self_attn.v_proj.weight", &[4, 8]),
        ("layers.0.self_attn.o_proj.weight", &[8, 8]),
        ("layers.0.mlp.gate_proj.weight", &[12, 8]),
        ("layers.0.mlp.up_proj.weight", &[12, 8]),
        ("layers.0.mlp.down_proj.weight", &[8, 12]),
    ];
    let stored = |name: &str| match name {
        "lm_head.weight" => name.to_owned(),
        _ => format!("model.{name}"),
    };
    shapes.iter().map(|(name, shape)| (stored(name), shape.to_vec())).collect()
}

fn weights() {
    let all = llama_tensors();
    for (dtype, size) in [("F32", 4), ("BF16", 2), ("F16", 2)] {
        let bytes: Vec<Vec<u8>> = all
            .iter()
            .map(|(_, shape)| vec![0x3c; size * shape.iter().product::<u64>() as usize])
            .collect();
        let tensors: Vec<(&str, &str, &[u64], &[u8])> = all
            .iter()
            .zip(&bytes)
            .map(|((name, shape), bytes)| (&name[..], dtype, &shape[..], &bytes[..]))
            .collect();
        put("safetensors", dtype, safetensors(&tensors));
    }
    let experts: Vec<String> = (0..3)
        .flat_map(|e| ["gate_proj", "up_proj", "down_proj"].map(move |part| (e, part)))
        .map(|(e, part)| format!("model.layers.0.mlp.experts.{e}.{part}.weight"))
        .collect();
    let tensors: Vec<(&str, &str, &[u64], &[u8])> =
        experts.iter().map(|name| (&name[..], "BF16", &[2, 2][..], &[0x3c; 8][..])).collect();
    put("safetensors", "experts", safetensors(&tensors));
    let fp8: [(&str, &str, &[u64], &[u8]); 3] = [
        ("model.layers.0.self_attn.q_proj.weight", "F8_E4M3", &[8, 8], &[0x38; 64]),
        ("model.layers.0.self_attn.q_proj.weight_scale_inv", "F32", &[1, 1], &[0, 0, 0, 0x3f]),
        ("ids", "I64", &[1], &[1; 8]),
    ];
    put("safetensors", "fp8", safetensors(&fp8));
    let mxfp4: [(&str, &str, &[u64], &[u8]); 2] = [
        ("model.layers.0.mlp.experts.gate_up_proj_blocks", "U8", &[2, 4, 1, 16], &[0x21; 128]),
        ("model.layers.0.mlp.experts.gate_up_proj_scales", "U8", &[2, 4, 1], &[0x7f; 8]),
    ];
    put("safetensors", "mxfp4", safetensors(&mxfp4));

    let share = |t: f64, count: usize| t.to_le_bytes().repeat(count);
    let groups: [(&str, &str, &[u64], &[u8]); 4] = [
        ("layers.0.mlp.experts.gate_up_proj", "F64", &[6], &share(0.25, 6)),
        ("layers.1.mlp.experts.down_proj", "F64", &[6], &share(-0.5, 6)),
        ("layers.1.mlp.gate.weight", "F64", &[6], &share(1.5, 6)),
        ("lm_head.weight", "F64", &[1], &share(0.0, 1)),
    ];
    put("shares", "experts", safetensors(&groups));

    let files = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
    // Every second tensor lies in the other shard, in the order of their names in the file.
    for odd in [0, 1] {
        let map: serde_json::Map<String, serde_json::Value> = all
            .iter()
            .enumerate()
            .map(|(i, (name, _))| {
                let name = name.replace("model.", "model.language_model.");
                (name, files[(i + odd) % 2].into())
            })
            .collect();
        let index = serde_json::json!({"metadata": {"total_size": 3000}, "weight_map": map});
        put("index", &format!("order-{odd}.json"), index.to_string());
    }
}

fn gguf() {
    put("gguf", "embedding", GgufFile::llama().to_bytes());
    let h = 4;
    let tensor = |name: &str, dims: &[u64]| {
        let n = dims.iter().product::<u64>() as usize;
        GgufTensor::f32(name, dims, &vec![0.25; n])
    };
    let mut whole = GgufFile::llama();
    for (name, dims) in [
        ("output_norm.weight", &[h][..]),
        ("output.weight", &[h, 3]),
        ("blk.0.attn_norm.weight", &[h]),
        ("blk.0.ffn_norm.weight", &[h]),
        ("blk.0.attn_q.weight", &[h, h]),
        ("blk.0.attn_k.weight", &[h, h]),
        ("blk.0.attn_v.weight", &[h, h]),
        ("blk.0.attn_output.weight", &[h, h]),
        ("blk.0.ffn_gate.weight", &[h, 8]),
        ("blk.0.ffn_up.weight", &[h, 8]),
        ("blk.0.ffn_down.weight", &[8, h]),
    ] {
        whole = whole.and(tensor(name, dims));
    }
    let texts = |list: &[&str]| GgufValue::Texts(list.iter().map(|s| (*s).to_owned()).collect());
    whole = whole
        .with("tokenizer.ggml.model", GgufValue::Text("gpt2".to_owned()))
        .with("tokenizer.ggml.pre", GgufValue::Text("smollm".to_owned()))
        .with("tokenizer.ggml.tokens", texts(&["a", "b", "ab"]))
        .with("tokenizer.ggml.token_type", GgufValue::I32s(vec![1, 1, 1]))
        .with("tokenizer.ggml.merges", texts(&["a b"]))
        .with("tokenizer.ggml.eos_token_id", GgufValue::U32(2))
        .with("tokenizer.ggml.add_bos_token", GgufValue::Bool(false))
        .with("tokenizer.chat_template", GgufValue::Text("{{ messages[0].content }}".to_owned()));
    put("gguf", "whole", whole.to_bytes());
    for (kind, bytes) in [(2, 18), (3, 20), (8, 34), (1, 64), (30, 64)] {
        let tensor = GgufTensor {
            name: "token_embd.weight".to_owned(),
            dims: vec![32, 3],
            kind,
            bytes: vec![0x2c; 3 * bytes],
            offset: None,
        };
        let mut file = GgufFile::llama().with("llama.embedding_length", GgufValue::U32(32));
        file.tensors = vec![tensor];
        put("gguf", &format!("kind-{kind}"), file.to_bytes());
    }
    let nested = [&9_u32.to_le_bytes()[..], &1_u64.to_le_bytes()].concat().repeat(2000);
    put("gguf", "nested-lists", GgufFile::llama().with("x", GgufValue::Raw(9, nested)).to_bytes());
}

fn configs(temporary: &Path) {
    let pretty = |source: &dyn darwin_checkpoint::TensorSource| {
        serde_json::to_vec_pretty(source.config()).expect("JSON")
    };
    put("config", "qwen35.json", pretty(&tiny_qwen35(1)));
    put("config", "qwen3_moe.json", pretty(&tiny_qwen3_moe(1)));
    let small = temporary.join("llama");
    write_model(&small, &tiny_llama(1), ExpertLayout::Fused, 1 << 30);
    let mut llama = tiny_config();
    put("config", "llama.json", llama.to_string());
    llama["rope_scaling"] = serde_json::json!({"rope_type": "llama3", "factor": 8.0,
        "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 32});
    put("config", "llama3.json", llama.to_string());
    llama["rope_scaling"] = serde_json::json!({"rope_type": "yarn", "factor": 4.0});
    put("config", "yarn.json", llama.to_string());
    let engine = here().join("../darwin-testkit/fixtures/golden/engine");
    let mut folders: Vec<PathBuf> = std::fs::read_dir(engine)
        .expect("fixtures")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.join("config.json").is_file())
        .collect();
    folders.sort();
    for folder in folders {
        let name = folder.file_name().expect("a name").to_string_lossy().into_owned();
        let text = std::fs::read(folder.join("config.json")).expect("readable");
        put("config", &format!("golden-{name}.json"), text);
    }
}

fn tiny_config() -> serde_json::Value {
    serde_json::json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "head_dim": 4,
        "num_hidden_layers": 1, "hidden_act": "silu", "max_position_embeddings": 64,
        "tie_word_embeddings": false, "vocab_size": 12, "hidden_size": 8,
        "intermediate_size": 12, "num_attention_heads": 2, "num_key_value_heads": 1,
        "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "dtype": "float32",
    })
}

fn adapters() {
    let config = serde_json::json!({
        "peft_type": "LORA", "peft_version": "0.19.1", "r": 2, "lora_alpha": 4,
        "target_modules": ["q_proj"], "rank_pattern": {}, "alpha_pattern": {"q_proj": 8},
        "use_rslora": true, "bias": "none", "base_model_name_or_path": "base",
    });
    put("adapter", "config", format!("0{config}"));
    let regex = config.to_string().replace(r#"["q_proj"]"#, r#"".*\\.(q|k)_proj""#);
    put("adapter", "config-regex", format!("0{regex}"));
    let name = "base_model.model.model.layers.0.self_attn.q_proj.lora_";
    let tensors: [(&str, &str, &[u64], &[u8]); 2] = [
        (&format!("{name}A.weight"), "F32", &[2, 8], &[0x3d; 64]),
        (&format!("{name}B.weight"), "F32", &[8, 2], &[0x3d; 64]),
    ];
    put("adapter", "weights", [&b"1"[..], &safetensors(&tensors)].concat());
    let tensors: [(&str, &str, &[u64], &[u8]); 2] = [
        (&format!("{name}A.weight"), "BF16", &[2, 8], &[0x3d; 32]),
        (&format!("{name}B.weight"), "BF16", &[8, 2], &[0x3d; 32]),
    ];
    put("adapter", "weights-bf16", [&b"1"[..], &safetensors(&tensors)].concat());
}

/// Names of models in recipes of the repository, and those beside the recipe under test.
const RENAMED: [(&str, &str); 2] =
    [("examples/parents/father", "father"), ("examples/parents/mother", "mother")];

fn yaml() {
    let examples = here().join("../../examples");
    let read = |path: PathBuf| std::fs::read_to_string(path).expect("an example");
    for name in ["card-v4", "card-v5-composed", "card-v5-override"] {
        let mut text = read(examples.join(format!("{name}.yaml")));
        RENAMED.iter().for_each(|(from, to)| text = text.replace(from, to));
        put("recipe", &format!("{name}.yaml"), text);
    }
    for name in ["mergekit-gradient", "mergekit-slices", "typos"] {
        let path = format!("../darwin-testkit/fixtures/recipes/{name}.yaml");
        put("recipe", &format!("{name}.yaml"), read(here().join(path)));
    }
    for (name, text) in hostile::RECIPES {
        put("recipe", &format!("{name}.yaml"), text);
    }
    put("run_config", "first-light.yaml", read(examples.join("first-light.yaml")));
    put("run_config", "json.json", hostile::RUN);
}

fn texts(temporary: &Path) {
    let folder = temporary.join("text");
    std::fs::create_dir_all(&folder).expect("a folder for temporary files");
    write_tiny_text(&folder).expect("a folder for temporary files");
    let read = |name: &str| std::fs::read(folder.join(name)).expect("written above");
    put("tokenizer", "bytes.json", read("tokenizer.json"));
    put("template", "tiny.jinja", read("chat_template.jinja"));
    for name in ["a", "base"] {
        let path = format!("../darwin-testkit/fixtures/golden/vocabulary/{name}/tokenizer.json");
        put(
            "tokenizer",
            &format!("vocabulary-{name}.json"),
            std::fs::read(here().join(path)).expect("a fixture"),
        );
    }
    let templates = here().join("../darwin-testkit/fixtures/golden/templates");
    let mut paths: Vec<PathBuf> = std::fs::read_dir(templates)
        .expect("fixtures")
        .flatten()
        .map(|entry| entry.path())
        .filter(|path| path.metadata().is_ok_and(|m| m.len() < 9_000))
        .collect();
    paths.sort();
    for path in paths.iter().take(8) {
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        put("template", &name, std::fs::read(path).expect("readable"));
    }
    for (name, line) in [("items", hostile::ITEMS), ("score", hostile::SCORE)] {
        put("items", &format!("{name}.jsonl"), line);
        let mut zipped = GzEncoder::new(Vec::new(), Compression::best());
        zipped.write_all(line.as_bytes()).expect("memory");
        put("items", &format!("{name}.jsonl.gz"), zipped.finish().expect("memory"));
    }
}

fn kept(temporary: &Path) {
    let run = temporary.join("run");
    fixture::write(&run, &fixture::Names::default()).expect("a folder for temporary files");
    let files = [
        "father.profile.json",
        "comparison.json",
        "health.json",
        "child/manifest.json",
        "scores.json",
        "journal.jsonl",
        "best.yaml",
        "run.json",
        "diagnosis.json",
    ];
    for (i, file) in files.iter().enumerate() {
        let text = std::fs::read(run.join(file)).expect("written above");
        // Without the blanks of pretty JSON, and the first layers of a long list.
        let text = match serde_json::from_slice::<serde_json::Value>(&text) {
            Ok(mut value) => {
                for key in ["layers", "tensors", "findings", "parts"] {
                    if let Some(list) = value.get_mut(key).and_then(|v| v.as_array_mut()) {
                        list.truncate(2);
                    }
                }
                value.to_string().into_bytes()
            }
            Err(_) => text.split_inclusive(|b| *b == b'\n').take(8).collect::<Vec<_>>().concat(),
        };
        let digit = u8::try_from(i).expect("few files") + b'0';
        put("kept", &file.replace('/', "-"), [&[digit][..], &text].concat());
        if *file == "journal.jsonl" {
            put("journal", "chained.jsonl", sealed(&text));
            put("journal", "torn.jsonl", &sealed(&text)[..1000]);
        }
    }
}

/// The lines of a journal with their chain.
fn sealed(text: &[u8]) -> Vec<u8> {
    let mut chain = Chain::default();
    let seal = |line: &[u8]| {
        let mut value: serde_json::Map<String, serde_json::Value> =
            serde_json::from_slice(line).expect("a line of JSON");
        value.remove("chain");
        chain.seal(&value).expect("an object")
    };
    text.split(|b| *b == b'\n').filter(|line| !line.is_empty()).flat_map(seal).collect()
}

fn main() {
    let temporary = tempfile::tempdir().expect("a folder for temporary files");
    weights();
    gguf();
    configs(temporary.path());
    adapters();
    yaml();
    texts(temporary.path());
    kept(temporary.path());
    hostile::write();
    println!("the corpus is in {}", here().join("corpus").display());
}
