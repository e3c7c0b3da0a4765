//! Before the work: what a command will hold in memory, read and write, against what the machine
//! has. Too much is refused before a weight is read.

use crate::cli::{ExtractLoraArgs, MergeArgs};
use crate::machine::{Available, Machine, disk_room};
use crate::table::human_bytes;
use crate::ui::Ui;
use darwin_checkpoint::{Checkpoint, TensorInfo, TensorSource};
use darwin_core::{Failure, Fault};
use darwin_engine::{
    Batch, Error as EngineError, LayerSource, NoTap, Resident, Run, Sequence, Speed, Stream,
};
use darwin_eval::score_items::Scorable;
use darwin_evolve::{RunConfig, Takes, takes};
use darwin_merge::Merge;
use darwin_regmean::Outlook;
use std::path::{Path, PathBuf};

/// What the process holds beside what is counted: its code, tables of names, output.
const BESIDE: u64 = 8 << 20;

/// Tokens that are measured with, for each thread.
const MEASURED_TOKENS: usize = 128;

/// Tokens of a batch and of a sample of a health check, and the most values of residual streams
/// that it keeps of each model.
const BATCH_TOKENS: usize = 4096;
const SAMPLE_TOKENS: usize = 512;
const KEPT_VALUES: usize = 1 << 25;

/// Most that a merge keeps of masks and of segments on their way to the disk, and a thread of
/// tiles.
const MERGE_MOST: u64 = 168 << 20;
const MERGE_THREAD: u64 = 2 << 20;
const MERGE_LEAST: u64 = 1 << 20;

/// The memory of a merge for tiles where nobody says how much.
const MERGE_MEMORY: u64 = 512 << 20;

/// What a command takes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Need {
    /// Bytes in memory.
    pub(crate) resident: Resident,
    /// Bytes that are read.
    pub(crate) read: u64,
    /// Bytes that are written, and where.
    pub(crate) written: Option<(PathBuf, u64)>,
    /// Seconds, about, where something was measured.
    pub(crate) seconds: Option<f64>,
    /// What to do where the memory is too little.
    pub(crate) advice: &'static str,
}

impl Need {
    /// Refuses what the machine does not have, or, in a dry run, also prints the table. True where
    /// the command ends here.
    pub(crate) fn settle(&self, dry_run: bool, ui: &Ui) -> Result<bool, Failure> {
        let machine = Machine::here();
        if dry_run {
            ui.say(self.table(machine.memory().as_ref()));
        }
        self.check_memory(machine.memory())?;
        self.check_disk(disk_room)?;
        Ok(dry_run)
    }

    fn check_memory(&self, available: Option<Available>) -> Result<(), Failure> {
        let Some(Available { bytes, bound }) = available else { return Ok(()) };
        let needed = self.resident.bytes().saturating_add(BESIDE);
        if needed <= bytes {
            return Ok(());
        }
        let Resident { weights, caches, buffers } = self.resident;
        let text = format!(
            "not enough memory: {} are needed (weights {}, caches {}, buffers {}), the machine \
             has {} ({bound})",
            human_bytes(needed),
            human_bytes(weights),
            human_bytes(caches),
            human_bytes(buffers),
            human_bytes(bytes),
        );
        Err(Failure::new(Fault::Environment, text).with_hint(self.advice))
    }

    fn check_disk(&self, room: impl Fn(&Path) -> Option<u64>) -> Result<(), Failure> {
        let Some((path, bytes)) = &self.written else { return Ok(()) };
        let Some(free) = room(path) else { return Ok(()) };
        // What an interrupted write left aside is used again.
        let aside = bytes_of(&darwin_core::fs::partial_path(path));
        if *bytes <= free.saturating_add(aside) {
            return Ok(());
        }
        let text = format!(
            "not enough room on the disk of {}: {} are needed, {} are free",
            path.display(),
            human_bytes(*bytes),
            human_bytes(free)
        );
        let failure = Failure::new(Fault::Environment, text);
        Err(failure.with_hint("free some space or choose another output folder"))
    }

    /// What is resident, read, written, and how long it takes.
    pub(crate) fn table(&self, available: Option<&Available>) -> String {
        let Resident { weights, caches, buffers } = self.resident;
        let mut lines = vec![format!(
            "memory  at most {}: weights {}, caches {}, buffers {}",
            human_bytes(self.resident.bytes()),
            human_bytes(weights),
            human_bytes(caches),
            human_bytes(buffers)
        )];
        if let Some(Available { bytes, bound }) = available {
            lines.push(format!("machine {} ({bound})", human_bytes(*bytes)));
        }
        lines.push(format!("reads   {}", human_bytes(self.read)));
        lines.push(match &self.written {
            Some((path, bytes)) => format!("writes  {} to {}", human_bytes(*bytes), path.display()),
            None => "writes  nothing".to_owned(),
        });
        if let Some(seconds) = self.seconds {
            lines.push(format!("time    about {seconds:.1} s"));
        }
        lines.join("\n")
    }
}

/// What commands do about too little memory that load a model whole.
const FOR_LOADED: &str = "use fewer threads (-j), shorter or fewer sequences, or a machine with \
                          more memory; `profile` and `compare` read a model layer by layer";

/// Settles a command that loads a model and runs it: true where it ends here. `tokens` go through
/// its layers.
pub(crate) fn loaded(
    source: &dyn TensorSource,
    run: &Run,
    tokens: u64,
    dry_run: bool,
    ui: &Ui,
) -> Result<bool, Failure> {
    let stream = Stream::open(source)?;
    let resident = stream.resident(run, rayon::current_num_threads());
    let read = stream.footprint().stored;
    let seconds = if dry_run { Some(seconds(&stream, tokens)?) } else { None };
    Need { resident, read, seconds, advice: FOR_LOADED, ..Need::default() }.settle(dry_run, ui)
}

/// Settles `darwin score`.
pub(crate) fn score(
    source: &dyn TensorSource,
    items: &[Scorable],
    dry_run: bool,
    ui: &Ui,
) -> Result<bool, Failure> {
    let lengths = || items.iter().map(|s| s.item.prompt.len() + s.item.answer.len());
    let (tokens, longest) = (lengths().sum(), lengths().max().unwrap_or(0));
    loaded(source, &Run::Score { tokens, longest }, tokens as u64, dry_run, ui)
}

/// Settles `darwin check`: a child and its parents are loaded, and one of them runs at a time. A
/// child that cannot be loaded is refused later, with all that is wrong with it.
pub(crate) fn check(models: &[Checkpoint; 3], dry_run: bool, ui: &Ui) -> Result<bool, Failure> {
    let mut need = Need { advice: FOR_LOADED, ..Need::default() };
    for (i, model) in models.iter().enumerate() {
        let stream = match Stream::open(model) {
            Err(_) if i == 0 => continue,
            stream => stream?,
        };
        let run = Run::Passes { batch: BATCH_TOKENS, longest: SAMPLE_TOKENS, tapped: true };
        let config = stream.config();
        let kept = BATCH_TOKENS * config.hidden_size * (config.num_hidden_layers + 1);
        let mut resident = stream.resident(&run, rayon::current_num_threads());
        resident.caches = 4 * kept.min(KEPT_VALUES) as u64;
        need.resident = Resident {
            caches: need.resident.caches + resident.caches,
            ..need.resident.and(resident)
        };
        need.read += model.tensor_bytes();
    }
    need.settle(dry_run, ui)
}

/// Settles `darwin merge`: tiles and masks within `--memory` or what the machine has, if that is
/// less, and the child at `out`. The memory to work in.
pub(crate) fn merge(
    arguments: &MergeArgs,
    merge: &Merge,
    out: Option<&Path>,
    solving: Option<&Outlook>,
    ui: &Ui,
) -> Result<u64, Failure> {
    let (plan, threads) = (merge.plan(), rayon::current_num_threads() as u64);
    let machine = Machine::here().memory().map_or(u64::MAX, |available| available.bytes);
    let room =
        (machine.saturating_sub(BESIDE) / 4 * 3).max(MERGE_LEAST + threads * MERGE_THREAD / 8);
    let memory = arguments.memory.unwrap_or(MERGE_MEMORY).min(room);
    let most = memory.min(MERGE_MOST + threads * MERGE_THREAD);
    let beside = solving.map_or(0, |solving| solving.solved);
    let need = Need {
        resident: Resident { buffers: most, ..Resident::default() },
        read: plan.read_bytes() + solving.map_or(0, |solving| solving.plan.read),
        written: out.map(|path| (path.to_owned(), plan.written_bytes() + beside)),
        seconds: None,
        advice: "use less `--memory` or fewer threads (-j)",
    };
    need.settle(arguments.dry_run && !arguments.json, ui)?;
    Ok(memory)
}

/// Settles `darwin extract-lora`: the largest matrix of differences and its factors.
pub(crate) fn extract_lora(
    arguments: &ExtractLoraArgs,
    models: [&Checkpoint; 2],
    ui: &Ui,
) -> Result<bool, Failure> {
    let tensors = || models[0].manifest().tensors().iter();
    let matrix = |t: &TensorInfo| match *t.shape.as_slice() {
        [.., rows, cols] => Some((rows as u64, cols as u64)),
        _ => None,
    };
    let rank = arguments.rank as u64;
    let work = |(rows, cols): (u64, u64)| {
        let rank = rank.min(rows).min(cols);
        4 * rows * cols + 32 * (rows + cols) * (rank + 10)
    };
    let buffers = tensors().filter_map(matrix).map(work).max().unwrap_or(0);
    let need = Need {
        resident: Resident { buffers, ..Resident::default() },
        read: models.iter().map(|model| model.tensor_bytes()).sum(),
        // What is equal in both is not written, which only the weights show.
        written: None,
        seconds: None,
        advice: "use a smaller `--rank`, or leave the largest tensors out (`--exclude`)",
    };
    need.settle(false, ui)
}

/// Settles `darwin evolve`; its dry run shows more than this.
pub(crate) fn evolve(config: &RunConfig, ui: &Ui) -> Result<bool, Failure> {
    evolution(config, &takes(config, rayon::current_num_threads())?).settle(false, ui)
}

/// What a run takes.
pub(crate) fn evolution(config: &RunConfig, takes: &Takes) -> Need {
    let Resident { weights, caches, buffers } = takes.models;
    Need {
        resident: Resident { weights: weights.saturating_add(takes.tensors), caches, buffers },
        read: takes.read,
        written: Some((config.out.join("child"), takes.written)),
        seconds: None,
        advice: "use fewer threads (-j), smaller parents, or a machine with more memory: both \
                 parents and a candidate are loaded",
    }
}

/// Reading the model, and so many tokens through its layers, by a layer of each kind that is tried.
fn seconds(stream: &Stream<'_>, tokens: u64) -> Result<f64, EngineError> {
    let speed = speed(stream, tokens)?;
    Ok(speed.reading(stream.footprint().stored) + speed.running(tokens))
}

/// How fast a model is read and run, by a layer of each kind that is tried on at most so many tokens.
pub(crate) fn speed(stream: &Stream<'_>, tokens: u64) -> Result<Speed, EngineError> {
    let measured = MEASURED_TOKENS * rayon::current_num_threads();
    let measured = measured.min(usize::try_from(tokens).unwrap_or(usize::MAX)).max(1);
    let longest = MEASURED_TOKENS.min(measured).min(stream.config().max_position_embeddings);
    let sequences =
        (0..measured.div_ceil(MEASURED_TOKENS)).map(|_| Sequence::new(vec![0; longest])).collect();
    stream.measure(&Batch::new(sequences), |_, _| NoTap)
}

/// The limit of the machine as an error of the environment, where nobody gave one: too little
/// memory is the user's doing only if they said how much.
pub(crate) fn by_machine(error: Failure, given: bool) -> Failure {
    if given || !error.to_string().contains(" of memory are not enough") {
        return error;
    }
    let bound = Machine::here().memory().map_or("", |available| available.bound);
    let failure = Failure::new(Fault::Environment, format!("{error} ({bound})"));
    failure.with_hint("allow fewer threads (-j), name a `--scratch` folder, or free some memory")
}

/// Refuses a plan whose peak the machine does not have, though `--memory` allows it.
pub(crate) fn allows(peak: u64) -> Result<(), Failure> {
    let machine = Machine::here();
    let Some(Available { bytes, bound }) = machine.memory() else { return Ok(()) };
    let all = bytes.saturating_add(machine.held());
    if peak <= all {
        return Ok(());
    }
    let text = format!(
        "not enough memory: up to {} are planned with this `--memory`, the machine has {} ({bound})",
        human_bytes(peak),
        human_bytes(all)
    );
    Err(Failure::new(Fault::Environment, text).with_hint("give a smaller `--memory`, or none"))
}

/// Bytes of the files of a folder that may not be there.
fn bytes_of(folder: &Path) -> u64 {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|about| about.len()).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn need(bytes: u64) -> Need {
        let resident = Resident { weights: bytes, caches: 1 << 20, buffers: 2 << 20 };
        Need { resident, advice: "take less", ..Need::default() }
    }

    #[test]
    fn too_much_memory_is_refused_with_its_parts_and_the_bound() {
        let available = |bytes| Some(Available { bytes, bound: "the memory that is free" });
        let failure = need(1 << 30).check_memory(available(1 << 30)).unwrap_err();
        assert_eq!(failure.fault(), Fault::Environment);
        assert_eq!(failure.hint(), Some("take less"));
        assert_eq!(
            failure.to_string(),
            "not enough memory: 1.01 GiB are needed (weights 1.00 GiB, caches 1.00 MiB, buffers \
             2.00 MiB), the machine has 1.00 GiB (the memory that is free)"
        );
        assert!(need(1 << 30).check_memory(available(2 << 30)).is_ok());
        assert!(need(u64::MAX).check_memory(available(1 << 60)).is_err(), "sums do not wrap");
        assert!(need(u64::MAX).check_memory(None).is_ok(), "a system that does not say");
    }

    #[test]
    fn too_little_room_on_the_disk_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let out = folder.path().join("out");
        let need = Need { written: Some((out.clone(), 5000)), ..Need::default() };
        let failure = need.check_disk(|_| Some(4000)).unwrap_err();
        assert_eq!(failure.fault(), Fault::Environment);
        assert!(failure.to_string().ends_with("4.88 KiB are needed, 3.91 KiB are free"));
        assert!(need.check_disk(|_| Some(5000)).is_ok());
        assert!(need.check_disk(|_| None).is_ok());
        let aside = darwin_core::fs::partial_path(&out);
        std::fs::create_dir(&aside).unwrap();
        std::fs::File::create(aside.join("shard")).unwrap().set_len(1000).unwrap();
        assert!(need.check_disk(|_| Some(4000)).is_ok(), "what lies aside is used again");
    }
}
