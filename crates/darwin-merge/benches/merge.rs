//! Time of a merge against its floor: reading every input byte once, writing and syncing every
//! output byte, with the same threads. Makes a bf16 pair of 2 x 0.5 GB in a temporary folder.
//!
//! `cargo bench -p darwin-merge`; to reach: `linear` at most 2x.

#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark")]

use darwin_checkpoint::{
    Checkpoint, Dtype, Error, Layout, Manifest, Stored, TensorId, TensorInfo, TensorPlan,
    TensorSource, WriteOptions, role_of, write_checkpoint,
};
use darwin_core::{Cancel, Density, NoProgress, Share};
use darwin_merge::{LayerSpec, Merge, MergeOptions, Recipe, RouterMode, Sources, merge_to};
use rayon::prelude::*;
use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

const LAYERS: usize = 5;
const ROUNDS: usize = 3;

/// Values that look like weights, made on the fly.
struct Synthetic {
    seed: u64,
    manifest: Manifest,
    config: serde_json::Value,
}

impl Synthetic {
    fn new(seed: u64) -> Self {
        let (h, e, i) = (1024, 32, 512);
        let mut shapes = vec![("embed_tokens.weight".to_owned(), vec![8192, h])];
        for layer in 0..LAYERS {
            for (name, shape) in [
                ("input_layernorm.weight", vec![h]),
                ("post_attention_layernorm.weight", vec![h]),
                ("self_attn.q_proj.weight", vec![h, h]),
                ("mlp.gate.weight", vec![e, h]),
                ("mlp.experts.gate_up_proj", vec![e, 2 * i, h]),
                ("mlp.experts.down_proj", vec![e, h, i]),
            ] {
                shapes.push((format!("layers.{layer}.{name}"), shape));
            }
        }
        let infos = shapes.into_iter().map(|(name, shape)| {
            let (role, layer) = role_of(&name);
            TensorInfo { name, role, layer, dtype: Dtype::Bf16, shape }
        });
        let config = serde_json::json!({"model_type": "qwen3_5_moe_text"});
        Self { seed, manifest: Manifest::new(infos.collect()).unwrap(), config }
    }
}

/// A pseudo-random number in -0.5..0.5.
fn noise(mut x: u64) -> f32 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((x >> 40) as f32) / 16_777_216.0 - 0.5
}

impl TensorSource for Synthetic {
    fn name(&self) -> &'static str {
        "synthetic"
    }

    fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    fn config(&self) -> &serde_json::Value {
        &self.config
    }

    fn prepare(&self, id: TensorId) -> Result<TensorPlan, Error> {
        Ok(TensorPlan::whole(id, self.manifest.get(id)))
    }

    fn read_tile(
        &self,
        plan: &TensorPlan,
        rows: Range<usize>,
        out: &mut [f32],
    ) -> Result<(), Error> {
        let first = (plan.id.index() as u64) << 32 | (rows.start * plan.cols) as u64;
        for (i, v) in out.iter_mut().enumerate() {
            let at = first + i as u64;
            *v = 0.05 * noise(at) + 0.01 * noise(at ^ self.seed << 50);
        }
        plan.dtype.round(out);
        Ok(())
    }

    fn read_raw(&self, _: TensorId, _: Range<usize>, _: &mut Vec<u8>) -> Result<bool, Error> {
        Ok(false)
    }
}

fn generate(seed: u64, out: &Path) -> Checkpoint {
    let source = Synthetic::new(seed);
    let stored = source.manifest.ids().zip(source.manifest.tensors()).map(|(id, info)| Stored {
        name: format!("model.{}", info.name),
        id,
        rows: 0..info.rows(),
        shape: info.shape.clone(),
    });
    let options = WriteOptions {
        max_shard_bytes: 200 << 20,
        memory: 256 << 20,
        side_files: Vec::new(),
        identity: None,
        documents: vec![("config.json".to_owned(), source.config.to_string().into_bytes())],
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    write_checkpoint(&source, &Layout { stored: stored.collect() }, out, &options).unwrap();
    Checkpoint::open(out).unwrap()
}

/// Reads all shards of both inputs once, writes and syncs as many bytes as one of them has.
fn floor(inputs: &[&Path], out: &Path) -> Duration {
    const TILE: u64 = 2 << 20;
    let start = Instant::now();
    for (n, folder) in inputs.iter().enumerate() {
        let mut files: Vec<_> =
            std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
        files.sort();
        for path in files.iter().filter(|path| path.extension().is_some_and(|e| e == "safetensors"))
        {
            let file = File::open(path).unwrap();
            let length = file.metadata().unwrap().len();
            let copy = (n == 0).then(|| File::create(out.join(path.file_name().unwrap())).unwrap());
            (0..length.div_ceil(TILE)).into_par_iter().for_each(|tile| {
                let at = tile * TILE;
                let mut bytes = vec![0; TILE.min(length - at) as usize];
                file.read_exact_at(&mut bytes, at).unwrap();
                if let Some(copy) = &copy {
                    copy.write_all_at(&bytes, at).unwrap();
                }
            });
            if let Some(copy) = copy {
                copy.sync_all().unwrap();
            }
        }
    }
    start.elapsed()
}

fn timed(recipe: &Recipe, sources: &Sources, out: &Path) -> Duration {
    let start = Instant::now();
    let merge = Merge::new(recipe, sources).unwrap();
    let options = MergeOptions {
        max_shard_bytes: 200 << 20,
        memory: 256 << 20,
        documents: Vec::new(),
        progress: &NoProgress,
        cancel: &Cancel::default(),
    };
    merge_to(&merge, out, &options).unwrap();
    start.elapsed()
}

fn recipes() -> Vec<(&'static str, Recipe)> {
    let density = |d| Density::new(d).unwrap();
    let blend = |method: &str| {
        let t = Share::new(0.4).unwrap();
        Recipe::blend(method, "father", "mother")
            .default_share(t)
            .router(LayerSpec::all(), RouterMode::Mother)
    };
    let ties = blend("ties").density(density(1.0), density(0.6));
    let dare = blend("dare_ties").density(density(1.0), density(0.8));
    vec![
        ("linear", blend("linear").build().unwrap()),
        ("slerp", blend("slerp").build().unwrap()),
        ("dare_ties", dare.build().unwrap()),
        ("ties", ties.build().unwrap()),
    ]
}

fn median(mut times: Vec<Duration>) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64()
}

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let (father, mother) = (dir.path().join("father"), dir.path().join("mother"));
    let mut sources = Sources::new();
    let bytes = {
        let opened = Arc::new(generate(1, &father));
        let bytes = opened.tensor_bytes();
        sources.insert_checkpoint("father", opened);
        sources.insert_checkpoint("mother", Arc::new(generate(2, &mother)));
        bytes
    };
    println!(
        "two parents of {:.0} MB (bf16), {} threads, median of {ROUNDS}",
        bytes as f64 / 1e6,
        rayon::current_num_threads()
    );
    let recipes = recipes();
    let mut times = vec![Vec::new(); recipes.len() + 1];
    for _ in 0..ROUNDS {
        let out = dir.path().join("floor");
        std::fs::create_dir(&out).unwrap();
        times[0].push(floor(&[&father, &mother], &out));
        std::fs::remove_dir_all(&out).unwrap();
        for (n, (_, recipe)) in recipes.iter().enumerate() {
            let out = dir.path().join("out");
            times[n + 1].push(timed(recipe, &sources, &out));
            std::fs::remove_dir_all(&out).unwrap();
        }
    }
    let mut times = times.into_iter().map(median);
    let floor = times.next().unwrap();
    println!("{:<12} {floor:>7.2} s", "floor");
    for ((name, _), time) in recipes.iter().zip(times) {
        println!("{name:<12} {time:>7.2} s  {:>5.2} x floor", time / floor);
    }
}
