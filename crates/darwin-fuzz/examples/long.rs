//! Mutates the corpus for as long as it is told to, two inputs at a time:
//! `cargo run --release -p darwin-fuzz --example long -- --minutes M [--commit C] [--out DIR] [TARGET...]`.
//!
//! A worker process reads the inputs, so that an abort, a hang or memory above the limit is a
//! finding and not the end. Findings are kept in the folder, with the table as `fuzz.txt`.

#![allow(clippy::print_stdout, clippy::print_stderr, reason = "a program says what it found")]

use darwin_core::fs::write_atomic;
use darwin_core::keyed::{Key, Rng};
use darwin_fuzz::{TARGETS, Target, mutate, scratch_in, target};
use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

/// The most processor time that one input may take; other work on the machine does not count.
const TIME: Duration = Duration::from_secs(10);

/// The longest that one input may take where it uses no processor.
const WAITING: Duration = Duration::from_secs(300);

/// The most memory of a worker, bytes of address space.
const MEMORY: u64 = 2 << 30;

/// How long a worker reads inputs of one target at a time.
const SLICE: Duration = Duration::from_secs(15);

#[derive(Default)]
struct Row {
    executions: u64,
    seconds: f64,
    findings: BTreeMap<String, u64>,
}

fn corpus(target: &Target) -> Vec<Vec<u8>> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(target.name);
    let mut paths: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a corpus").flatten().map(|entry| entry.path()).collect();
    paths.sort();
    paths.iter().map(|path| std::fs::read(path).expect("readable")).collect()
}

/// Reads mutations of a target until its time is over. The number and the bytes of the input that
/// is being read stand in `DIR/current`.
fn worker(name: &str, first: u64, folder: &Path) {
    let limit = libc::rlimit { rlim_cur: MEMORY, rlim_max: MEMORY };
    // SAFETY: the structure lives for the call, which only reads it.
    let set = unsafe { libc::setrlimit(libc::RLIMIT_AS, &raw const limit) };
    assert_eq!(set, 0, "the limit of memory can be set");
    scratch_in(folder);
    let target = target(name).expect("a target");
    let seeds = corpus(target);
    let begun = Instant::now();
    let mut i = first;
    while begun.elapsed() < SLICE {
        let mut rng = Rng::new(Key::new(i, &["long", name]), 0);
        let input = mutate(target.form, &seeds, &mut rng);
        let current = [&i.to_le_bytes()[..], &input].concat();
        let written = File::create(folder.join("current")).and_then(|mut f| f.write_all(&current));
        written.expect("the folder can be written");
        target.run(&input);
        i += 1;
    }
    write_atomic(&folder.join("done"), i.to_string().as_bytes())
        .expect("the folder can be written");
}

/// The number and the bytes of the input that a worker reads.
fn current(folder: &Path) -> Option<(u64, Vec<u8>)> {
    let bytes = std::fs::read(folder.join("current")).ok()?;
    let (number, input) = bytes.split_first_chunk::<8>()?;
    Some((u64::from_le_bytes(*number), input.to_vec()))
}

/// What a process has used of its processors; zero where the system does not say.
fn processor_time(process: u32) -> Duration {
    let text = std::fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold anything; user and system time are the 12th and 13th after.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    let ticks: u64 = fields.filter_map(|field| field.parse::<u64>().ok()).sum();
    // SAFETY: the call takes a number and gives one.
    let rate = unsafe { libc::sysconf(libc::_SC_CLK_TCK) };
    Duration::from_secs_f64(ticks as f64 / rate.max(1) as f64)
}

/// Runs a worker once: the next number, and what was found with its input.
fn slice(target: &Target, first: u64) -> (u64, Option<(String, Vec<u8>)>) {
    let root =
        if Path::new("/dev/shm").is_dir() { "/dev/shm".into() } else { std::env::temp_dir() };
    let folder = tempfile::tempdir_in(root).expect("a folder for temporary files");
    let errors = folder.path().join("stderr");
    let mut child = Command::new(std::env::current_exe().expect("this program"))
        .args(["--worker", target.name, &first.to_string()])
        .arg(folder.path())
        .env("RAYON_NUM_THREADS", "1")
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(File::create(&errors).expect("the folder can be written"))
        .spawn()
        .expect("this program can be started");
    let (mut seen, mut since, mut used) = (None, Instant::now(), Duration::ZERO);
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break Some(status);
        }
        let now = current(folder.path()).map(|(number, _)| number);
        let processor = processor_time(child.id());
        if now != seen {
            (seen, since, used) = (now, Instant::now(), processor);
        } else if processor.saturating_sub(used) > TIME || since.elapsed() > WAITING {
            let _ = child.kill();
            let _ = child.wait();
            break None;
        }
        std::thread::sleep(Duration::from_millis(50));
    };
    let done = std::fs::read_to_string(folder.path().join("done")).ok();
    if let (Some(status), Some(done)) = (status, done)
        && status.success()
    {
        return (done.parse().unwrap_or(first), None);
    }
    let (number, input) = current(folder.path()).unwrap_or((first, Vec::new()));
    let text = std::fs::read(&errors).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().filter(|line| !line.trim().is_empty()).take(2).collect();
    let ended = status.map_or_else(|| "hangs".to_owned(), |status| status.to_string());
    (number + 1, Some((format!("{ended}: {}", lines.join(" ")), input)))
}

fn table(commit: &str, rows: &BTreeMap<&'static str, Row>) -> String {
    let mut text = format!("commit {commit}\ntarget\texecutions\tminutes\tfindings\n");
    for (name, row) in rows {
        let (minutes, found) = (row.seconds / 60.0, row.findings.len());
        text += &format!("{name}\t{}\t{minutes:.1}\t{found}\n", row.executions);
    }
    for (name, row) in rows {
        for (what, times) in &row.findings {
            text += &format!("finding in {name}, {times} times: {what}\n");
        }
    }
    text
}

struct Options {
    minutes: f64,
    commit: String,
    out: PathBuf,
    targets: Vec<&'static Target>,
}

fn options(mut args: impl Iterator<Item = String>) -> Options {
    let mut options = Options {
        minutes: 1.0,
        commit: "unknown".to_owned(),
        out: PathBuf::from("runs/fuzz"),
        targets: Vec::new(),
    };
    while let Some(arg) = args.next() {
        let mut value = || args.next().expect("a value behind the option");
        match arg.as_str() {
            "--minutes" => options.minutes = value().parse().expect("a number of minutes"),
            "--commit" => options.commit = value(),
            "--out" => options.out = value().into(),
            name => options.targets.push(target(name).expect("the name of a target")),
        }
    }
    if options.targets.is_empty() {
        options.targets = TARGETS.iter().collect();
    }
    options
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if let [flag, name, first, folder] = &args[..]
        && flag == "--worker"
    {
        return worker(name, first.parse().expect("a number"), Path::new(folder));
    }
    let options = options(args.into_iter());
    std::fs::create_dir_all(&options.out).expect("the folder of findings can be made");
    let queue: Mutex<VecDeque<(&'static Target, u64)>> =
        Mutex::new(options.targets.iter().map(|target| (*target, 0)).collect());
    let rows = Mutex::new(BTreeMap::<&'static str, Row>::new());
    let end = Instant::now() + Duration::from_secs_f64(60.0 * options.minutes);
    let work = || {
        while Instant::now() < end {
            let Some((target, first)) = queue.lock().expect("no panic").pop_front() else { return };
            let begun = Instant::now();
            let (next, found) = slice(target, first);
            let mut rows = rows.lock().expect("no panic");
            let row = rows.entry(target.name).or_default();
            row.executions += next - first;
            row.seconds += begun.elapsed().as_secs_f64();
            if let Some((what, input)) = found {
                println!("{}, input {}: {what}", target.name, next - 1);
                let times = row.findings.entry(what).or_default();
                *times += 1;
                if *times == 1 {
                    let name = format!("{}-{}", target.name, next - 1);
                    write_atomic(&options.out.join(name), &input).expect("it can be written");
                }
            }
            queue.lock().expect("no panic").push_back((target, next));
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(work);
        }
    });
    let text = table(&options.commit, &rows.lock().expect("no panic"));
    write_atomic(&options.out.join("fuzz.txt"), text.as_bytes()).expect("it can be written");
    print!("{text}");
}
