//! Conversations as a model was trained to see them.

use super::template::Template;
use super::{Text, damaged};
use crate::Error;
use serde_json::{Map, Value, json};

/// The names that a message's reasoning goes by; templates read the first.
const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

/// Stands in the rendered text where the message to continue ends.
const TAG: &str = "CONTINUE_FINAL_MESSAGE_TAG ";

/// What a chat template is given: the arguments of transformers' `apply_chat_template`.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ChatRequest {
    /// Objects with `role`, `content` and whatever else the template reads: `tool_calls`,
    /// `reasoning_content`.
    pub messages: Vec<Value>,
    /// JSON schemas of functions that the model may call.
    pub tools: Option<Vec<Value>>,
    /// Documents to answer from: objects with `title` and `text`.
    pub documents: Option<Vec<Value>>,
    /// Ends with the header of the assistant's next message.
    pub add_generation_prompt: bool,
    /// Ends within the last message, after this key of it (`content`), for the model to go on.
    pub continue_final_message: Option<String>,
    /// The switch of templates that have one; else the template's own default holds.
    pub enable_thinking: Option<bool>,
    /// Other variables for the template.
    pub extra: Map<String, Value>,
    /// What the caller's clock shows, in seconds since 1970 began on it, for templates that print
    /// the date (`strftime_now`); without it they have no clock.
    pub now: Option<i64>,
}

impl ChatRequest {
    /// A user's message to which the assistant shall answer.
    #[must_use]
    pub fn user(content: &str) -> Self {
        let messages = vec![json!({"role": "user", "content": content})];
        Self { messages, add_generation_prompt: true, ..Self::default() }
    }

    /// Messages with reasoning under the names that templates read, without keys that are null.
    fn normalised(&self) -> Result<Vec<Value>, String> {
        if self.messages.is_empty() {
            return Err("the conversation has no messages".to_owned());
        }
        let mut all = Vec::with_capacity(self.messages.len());
        for (i, message) in self.messages.iter().enumerate() {
            let Some(message) = message.as_object() else {
                return Err(format!("message {i} is not an object with `role` and `content`"));
            };
            let mut message = message.clone();
            message.retain(|_, value| !value.is_null());
            let reasoning = REASONING.iter().find_map(|key| message.get(*key)).cloned();
            if let Some(reasoning) = reasoning {
                if !message.contains_key("thinking") {
                    message.insert("thinking".to_owned(), reasoning.clone());
                }
                message.insert("reasoning_content".to_owned(), reasoning);
            }
            all.push(Value::Object(message));
        }
        Ok(all)
    }

    fn variables(&self, messages: Vec<Value>) -> Map<String, Value> {
        let mut all = Map::new();
        all.insert("messages".to_owned(), messages.into());
        all.insert("tools".to_owned(), json!(self.tools));
        all.insert("documents".to_owned(), json!(self.documents));
        all.insert("add_generation_prompt".to_owned(), self.add_generation_prompt.into());
        if let Some(thinking) = self.enable_thinking {
            all.insert("enable_thinking".to_owned(), thinking.into());
        }
        all.extend(self.extra.clone());
        all
    }
}

impl Text {
    /// A conversation as the model was trained to see it, equal to transformers'
    /// `apply_chat_template(tokenize=False)`.
    ///
    /// # Errors
    /// [`Error::Text`] where there is no chat template, where it fails, refuses the conversation or
    /// does not end, and where the request does not make sense.
    pub fn render(&self, request: &ChatRequest) -> Result<String, Error> {
        let Some(templates) = &self.templates else {
            return Err(damaged(
                &self.tokenizer_path.with_file_name("chat_template.jinja"),
                "the model has no chat template".to_owned(),
            ));
        };
        let template = templates.choose(request.tools.is_some())?;
        let wrong = |reason: String| Error::Chat { path: templates.path.clone(), reason };
        let mut messages = request.normalised().map_err(wrong)?;
        let Some(field) = &request.continue_final_message else {
            return template.render(request.variables(messages), request.now);
        };
        if request.add_generation_prompt {
            let reason = "a message is either continued or followed by a generation prompt";
            return Err(wrong(reason.to_owned()));
        }
        let last = messages.last_mut().and_then(Value::as_object_mut);
        let begun = last
            .map_or(Err(String::new()), |last| mark_end(last, field, &template))
            .map_err(wrong)?;
        let rendered = template.render(request.variables(messages), request.now)?;
        cut_at_mark(rendered, &begun).ok_or_else(|| {
            wrong(format!("the template does not show the `{field}` that is to be continued"))
        })
    }

    /// A user's message as the model was trained to see it, the generation prompt added.
    ///
    /// # Errors
    /// As [`Text::render`].
    pub fn chat(&self, user: &str, thinking: bool) -> Result<String, Error> {
        self.render(&ChatRequest { enable_thinking: Some(thinking), ..ChatRequest::user(user) })
    }
}

/// Marks the end of a key of the last message; what it was.
fn mark_end(
    message: &mut Map<String, Value>,
    field: &str,
    template: &Template<'_>,
) -> Result<String, String> {
    let Some(begun) = message.get(field).cloned() else {
        return Err(format!("the last message has no `{field}` to continue"));
    };
    // reasoning stands there under several names, and the template reads one of them
    let fields: Vec<&str> = if REASONING.contains(&field) {
        REASONING.into_iter().filter(|key| message.get(*key) == Some(&begun)).collect()
    } else {
        vec![field]
    };
    if !fields.iter().any(|key| template.mentions(key)) {
        return Err(format!("the chat template does not read `{field}`"));
    }
    let nothing = || format!("`{field}` of the last message has no text to continue");
    match begun {
        Value::String(text) => {
            for key in fields {
                message.insert(key.to_owned(), format!("{text}{TAG}").into());
            }
            Ok(text)
        }
        Value::Array(mut blocks) => {
            let texts = blocks.iter_mut().rev().filter_map(|block| block.get_mut("text"));
            let block = texts.into_iter().next().ok_or_else(nothing)?;
            let text = block.as_str().ok_or_else(nothing)?.to_owned();
            *block = format!("{text}{TAG}").into();
            message.insert(field.to_owned(), blocks.into());
            Ok(text)
        }
        _ => Err(nothing()),
    }
}

/// The text up to the mark; `None` where text or mark are not in it.
fn cut_at_mark(mut rendered: String, begun: &str) -> Option<String> {
    let at = rendered.rfind(TAG.trim_end())?;
    if !rendered.contains(begun.trim()) {
        return None;
    }
    let whole = rendered[at..].starts_with(TAG);
    rendered.truncate(at);
    if !whole {
        // the template trims messages, and so is what the model goes on from
        rendered.truncate(rendered.trim_end().len());
    }
    Some(rendered)
}
