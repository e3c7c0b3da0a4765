//! `darwin generate MODEL [PROMPT]`

use crate::cli::GenerateArgs;
use crate::preflight;
use crate::ui::Ui;
use darwin_checkpoint::AnyModel;
use darwin_core::{Failure, Fault};
use darwin_engine::{
    ChatRequest, Chosen, Finish, GenerateOptions, Generation, GenerationDefaults, Generator, Model,
    Request, Run, Sampling, Text,
};
use serde_json::{Value, json};
use std::io::{IsTerminal, Read};
use std::path::Path;
use std::process::ExitCode;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

/// New tokens where neither the caller nor the model says how many.
const MAX_NEW_TOKENS: usize = 128;

pub(crate) fn run(arguments: &GenerateArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    super::use_threads(arguments.threads, ui)?;
    let source = AnyModel::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let settings = Settings::of(arguments, &text)?;
    if arguments.verbose {
        ui.note(settings.sources.join(", "));
    }
    let prompt = encode(arguments, &text)?;
    if prompt.is_empty() {
        return Err(Failure::user("the prompt is empty").with_hint("give at least one character"));
    }
    let run = Run::Generate {
        sequences: arguments.n as usize,
        prompt: prompt.len(),
        new_tokens: settings.options.max_new_tokens,
    };
    if preflight::loaded(&source, &run, prompt.len() as u64, arguments.dry_run, ui)? {
        return Ok(ExitCode::SUCCESS);
    }
    let model = Model::load(&source)?;
    let streams = arguments.n == 1 && !arguments.json;
    let (begun, first) = (Instant::now(), OnceLock::new());
    let listener = |chosen: &Chosen<'_>| {
        first.get_or_init(Instant::now);
        if streams {
            ui.stream(chosen.text);
        }
    };
    let requests: Vec<Request<'_>> = (0..u64::from(arguments.n))
        .map(|sequence| Request { prompt: &prompt, draft: &[], sequence })
        .collect();
    let (generations, _) = Generator::new(&model, &settings.options)
        .sampling(settings.sampling)
        .text(&text, &settings.stop_strings, !arguments.special)
        .listener(&listener)
        .run(&requests, ui.cancel())?;
    let prefill = first.get().map_or(begun.elapsed(), |at| at.duration_since(begun));
    show(arguments, ui, &generations, prompt.len());
    ui.note(speed(prompt.len(), &generations, prefill, begun.elapsed()));
    let interrupted = generations.iter().any(|g| g.finish == Finish::Interrupted);
    let code = if interrupted { Fault::Interrupted.exit_code() } else { 0 };
    Ok(ExitCode::from(code))
}

/// What holds for this call.
struct Settings {
    options: GenerateOptions,
    sampling: Sampling,
    stop_strings: Vec<String>,
    /// Each setting and where it comes from.
    sources: Vec<String>,
}

impl Settings {
    /// The caller's, else the model's, else none.
    fn of(arguments: &GenerateArgs, text: &Text) -> Result<Self, Failure> {
        let model = GenerationDefaults::open(&arguments.model)?;
        let filters = arguments.top_k.is_some_and(|k| k > 0)
            || arguments.top_p.is_some()
            || arguments.min_p.is_some();
        let draws = filters || model.do_sample.unwrap_or(false);
        let mut sources = Sources(Vec::new());
        let sampling = Sampling {
            temperature: sources.pick(
                "temperature",
                arguments.temperature,
                model.temperature.filter(|_| draws),
                if draws { 1.0 } else { 0.0 },
            ),
            top_k: sources.pick("top_k", arguments.top_k, model.top_k, 0),
            top_p: sources.pick("top_p", arguments.top_p, model.top_p, 1.0),
            min_p: sources.pick("min_p", arguments.min_p, model.min_p, 0.0),
            repetition_penalty: sources.pick(
                "repetition_penalty",
                arguments.repetition_penalty,
                model.repetition_penalty,
                1.0,
            ),
            seed: arguments.seed,
        };
        sampling.check()?;
        if arguments.n > 1 && sampling.temperature == 0.0 {
            let message = format!("all {} answers would be the same", arguments.n);
            return Err(Failure::user(message).with_hint("draw them: `--temperature 1`"));
        }
        let max_new_tokens = sources.pick(
            "max_new_tokens",
            arguments.max_new_tokens,
            model.max_new_tokens,
            MAX_NEW_TOKENS,
        );
        let mut stop = text.stop_ids();
        let mut stop_strings = Vec::new();
        for string in &arguments.stop {
            // special tokens are left out of the text, and found by their ids
            match text.token_id(string).filter(|id| text.decode(&[*id], true).is_empty()) {
                Some(id) => stop.push(id),
                None => stop_strings.push(string.clone()),
            }
        }
        let seed = arguments.seed;
        sources.0.push(format!("seed {seed}, ends at ids {stop:?} and texts {stop_strings:?}"));
        let options = GenerateOptions { max_new_tokens, stop };
        Ok(Self { options, sampling, stop_strings, sources: sources.0 })
    }
}

/// Settings in words, and where each comes from.
struct Sources(Vec<String>);

impl Sources {
    /// The caller's setting, else the model's, else the default.
    fn pick<T: Copy + std::fmt::Display>(
        &mut self,
        name: &str,
        asked: Option<T>,
        model: Option<T>,
        default: T,
    ) -> T {
        let (value, from) = match (asked, model) {
            (Some(value), _) => (value, "given"),
            (None, Some(value)) => (value, "generation_config.json"),
            (None, None) => (default, "default"),
        };
        self.0.push(format!("{name} {value} ({from})"));
        value
    }
}

/// The prompt as the model gets it.
fn encode(arguments: &GenerateArgs, text: &Text) -> Result<Vec<u32>, Failure> {
    let prompt = read_prompt(arguments.prompt.as_deref())?;
    let chat = arguments.chat
        || arguments.system.is_some()
        || arguments.tools.is_some()
        || arguments.thinking
        || arguments.no_thinking;
    if prompt.is_empty() || arguments.raw || !chat && !text.has_template() {
        return Ok(text.encode_alone(&prompt)?.0);
    }
    let mut request = ChatRequest::user(&prompt);
    if let Some(system) = &arguments.system {
        request.messages.insert(0, json!({"role": "system", "content": system}));
    }
    request.tools = arguments.tools.as_deref().map(read_tools).transpose()?;
    request.enable_thinking = Some(arguments.thinking);
    request.now = i64::try_from(super::seconds_now()).ok();
    Ok(text.encode(&text.render(&request)?)?)
}

fn read_prompt(given: Option<&str>) -> Result<String, Failure> {
    let mut stdin = std::io::stdin();
    match given {
        Some("-") => {}
        Some(prompt) => return Ok(prompt.to_owned()),
        None if stdin.is_terminal() => {
            return Err(Failure::user("there is no prompt")
                .with_hint("give it as an argument, or pipe it into the command"));
        }
        None => {}
    }
    let mut prompt = String::new();
    stdin.read_to_string(&mut prompt).map_err(|e| {
        Failure::new(Fault::of_io(&e), format!("cannot read the prompt from stdin: {e}"))
    })?;
    // the shell's line end belongs to the command, not to the prompt
    Ok(prompt.strip_suffix('\n').unwrap_or(&prompt).to_owned())
}

/// A list of function schemas, or one.
fn read_tools(path: &Path) -> Result<Vec<Value>, Failure> {
    let wrong = |what: String| {
        Failure::user(format!("{}: {what}", path.display())).with_hint(
            "write a list of JSON schemas: [{\"type\": \"function\", \"function\": {...}}]",
        )
    };
    let bytes = std::fs::read(path).map_err(|e| {
        Failure::new(Fault::of_io(&e), format!("cannot read {}: {e}", path.display()))
    })?;
    match serde_json::from_slice(&bytes).map_err(|e| wrong(format!("not valid JSON: {e}")))? {
        Value::Array(tools) if tools.iter().all(Value::is_object) => Ok(tools),
        tool @ Value::Object(_) => Ok(vec![tool]),
        _ => Err(wrong("not a list of objects".to_owned())),
    }
}

/// What was not shown as it came.
fn show(arguments: &GenerateArgs, ui: &Ui, generations: &[Generation], prompt_tokens: usize) {
    for (i, generation) in generations.iter().enumerate() {
        if arguments.json {
            let line = json!({
                "sample": i,
                "text": generation.text,
                "ids": generation.ids,
                "prompt_tokens": prompt_tokens,
                "finish": reason(&generation.finish),
            });
            ui.say(line.to_string());
        } else if generations.len() > 1 {
            ui.say(format!("== {} of {}\n{}", i + 1, generations.len(), generation.text));
        } else if !generation.text.ends_with('\n') {
            ui.stream("\n");
        }
    }
}

fn reason(finish: &Finish) -> Value {
    match finish {
        Finish::StopId(id) => json!({"reason": "stop_id", "id": id}),
        Finish::StopString(text) => json!({"reason": "stop_string", "text": text}),
        Finish::Length => json!({"reason": "length"}),
        Finish::Context => json!({"reason": "context"}),
        Finish::Interrupted => json!({"reason": "interrupted"}),
    }
}

/// `24 prompt tokens in 0.02 s (1200/s), 64 new ones in 0.40 s (160/s), ended by length`
fn speed(prompt: usize, generations: &[Generation], prefill: Duration, all: Duration) -> String {
    let rate = |tokens: usize, time: Duration| {
        let seconds = time.as_secs_f64();
        format!("in {seconds:.2} s ({:.1}/s)", tokens as f64 / seconds.max(1e-9))
    };
    let new: usize = generations.iter().map(|g| g.ids.len()).sum();
    let mut ends: Vec<String> = Vec::new();
    for generation in generations {
        let end = match &generation.finish {
            Finish::StopId(id) => format!("stop id {id}"),
            Finish::StopString(text) => format!("stop text {text:?}"),
            Finish::Length => "max_new_tokens".to_owned(),
            Finish::Context => "the model's context".to_owned(),
            Finish::Interrupted => "interruption".to_owned(),
        };
        if !ends.contains(&end) {
            ends.push(end);
        }
    }
    format!(
        "{prompt} prompt tokens {}, {new} new ones {}, ended by {}",
        rate(prompt, prefill),
        rate(new, all.saturating_sub(prefill)),
        ends.join(", ")
    )
}
