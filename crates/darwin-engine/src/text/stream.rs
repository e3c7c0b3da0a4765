//! Text as its tokens come.

use super::Text;

/// Tokens after which a run that is no whole character is not waited for any longer.
const MAX_PENDING: usize = 64;

/// Turns tokens into text one by one. What is not a whole character yet, and what may be the
/// beginning of a stop string, is held back; what was handed out is never taken back.
#[derive(Clone, Debug)]
pub struct TextStream<'a> {
    text: &'a Text,
    skip_special: bool,
    stop: &'a [String],
    /// The last tokens: some that are text already, for decoders look back, then those that are not.
    window: Vec<u32>,
    /// How many of them are text already.
    whole: usize,
    /// Bytes of the window's text that were taken over.
    taken: usize,
    /// Text that may be the beginning of a stop string.
    held: String,
    stopped: Option<usize>,
}

impl<'a> TextStream<'a> {
    /// A stream without tokens. Special tokens are left out where `skip_special` says so; the text
    /// ends before the first of the stop strings.
    #[must_use]
    pub fn new(text: &'a Text, skip_special: bool, stop: &'a [String]) -> Self {
        let (window, held) = (Vec::new(), String::new());
        Self { text, skip_special, stop, window, whole: 0, taken: 0, held, stopped: None }
    }

    /// Which stop string has come, if any.
    #[must_use]
    pub fn stopped(&self) -> Option<usize> {
        self.stopped
    }

    /// The text that a token makes certain.
    pub fn push(&mut self, id: u32) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        self.window.push(id);
        let text = self.text.decode(&self.window, self.skip_special);
        let pending = self.window.len() - self.whole;
        let certain = match text.ends_with(char::REPLACEMENT_CHARACTER) && pending < MAX_PENDING {
            true => text.trim_end_matches(char::REPLACEMENT_CHARACTER),
            false => &text,
        };
        if let Some(new) = certain.get(self.taken..) {
            self.held.push_str(new);
            self.taken += new.len();
        }
        if certain.len() == text.len() {
            self.window.drain(..self.whole);
            self.whole = self.window.len();
            self.taken = self.text.decode(&self.window, self.skip_special).len();
        }
        self.release()
    }

    /// The text that was held back: nothing follows.
    pub fn finish(&mut self) -> String {
        if self.stopped.is_some() {
            return String::new();
        }
        let text = self.text.decode(&self.window, self.skip_special);
        self.window.clear();
        self.whole = 0;
        let rest = text.get(std::mem::take(&mut self.taken)..).unwrap_or_default();
        std::mem::take(&mut self.held) + rest
    }

    /// Takes out of `held` what cannot belong to a stop string.
    fn release(&mut self) -> String {
        let found = self.stop.iter().enumerate().filter_map(|(i, s)| Some((self.held.find(s)?, i)));
        if let Some((at, which)) = found.min() {
            self.stopped = Some(which);
            self.held.truncate(at);
            return std::mem::take(&mut self.held);
        }
        let begins = |at: &usize| self.stop.iter().any(|s| s.starts_with(&self.held[*at..]));
        let starts = self.held.char_indices().map(|(at, _)| at);
        let kept = { starts }.find(begins).unwrap_or(self.held.len());
        let rest = self.held.split_off(kept);
        std::mem::replace(&mut self.held, rest)
    }
}
