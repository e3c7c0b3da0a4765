//! `darwin generate MODEL "prompt"`

use crate::cli::GenerateArgs;
use crate::ui::Ui;
use darwin_checkpoint::Checkpoint;
use darwin_core::Failure;
use darwin_engine::{GenerateOptions, Model, Text, generate};
use std::process::ExitCode;

pub(crate) fn run(arguments: &GenerateArgs, ui: &Ui) -> Result<ExitCode, Failure> {
    let checkpoint = Checkpoint::open(&arguments.model)?;
    let text = Text::open(&arguments.model)?;
    let model = Model::load(&checkpoint)?;
    let prompt = if arguments.raw {
        arguments.prompt.clone()
    } else {
        text.chat(&arguments.prompt, arguments.think)?
    };
    let options =
        GenerateOptions { max_new_tokens: arguments.max_new_tokens, stop: text.stop_ids() };
    let prompts = [text.encode(&prompt)?];
    let answers = generate(&model, &prompts, &[Vec::new()], &options, ui.cancel())?;
    let answer = answers.first().map_or(&[][..], Vec::as_slice);
    let ended = answer.last().is_some_and(|id| options.stop.contains(id));
    let shown = if ended && !arguments.special { &answer[..answer.len() - 1] } else { answer };
    ui.say(text.decode(shown, false));
    Ok(ExitCode::SUCCESS)
}
