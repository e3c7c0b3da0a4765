//! The tokenizer that lies in the file, as the `tokenizer.json` that it was converted from: byte
//! pair encoding over bytes (llama.cpp's `gpt2`).

use super::Gguf;
use super::values::Value as Found;
use crate::Error;
use serde_json::{Map, Value, json};

/// Kinds of tokens that stand for themselves in a text, in `tokenizer.ggml.token_type`.
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER_DEFINED: i32 = 4;

/// The last kind there is (bytes).
const LAST_KIND: i32 = 6;

const ELSEWHERE: &str =
    "give a folder that holds the model's tokenizer.json beside the GGUF file, or safetensors";

/// GPT-2's split.
const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";

/// How a text is cut before byte pairs are merged, and framed.
struct PreTokenizer {
    /// Values of `tokenizer.ggml.pre`.
    names: &'static [&'static str],
    /// Each cuts what those before it left.
    splits: &'static [&'static str],
    /// Whether the text is brought into form C first, as its tokenizer does and llama.cpp does not.
    nfc: bool,
    /// Whether a piece that is a token is taken whole.
    ignore_merges: bool,
    /// Whether a text begins with the token for it, where the file does not say.
    add_bos: bool,
}

const PRE_TOKENIZERS: [PreTokenizer; 5] = [
    PreTokenizer {
        names: &["smollm"],
        splits: &[r"\p{N}", GPT2],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["qwen2"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: true,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3"],
        splits: &[
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+",
        ],
        nfc: false,
        ignore_merges: true,
        add_bos: true,
    },
    PreTokenizer {
        names: &["gpt-2"],
        splits: &[GPT2],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
    PreTokenizer {
        names: &["default"],
        splits: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", "[0-9][0-9][0-9]"],
        nfc: false,
        ignore_merges: false,
        add_bos: false,
    },
];

impl Gguf {
    /// The tokenizer as a `tokenizer.json`: special tokens in a text are recognised, and a text
    /// that stands alone gets those that the file asks for.
    ///
    /// # Errors
    /// [`Error::Invalid`] where there is none, it is of a kind that is not read, or its parts do
    /// not fit each other.
    pub fn tokenizer_json(&self) -> Result<Value, Error> {
        let pre = self.pre_tokenizer()?;
        let tokens = self.tokens()?;
        let added = self.added_tokens(tokens)?;
        let mut vocabulary = Map::new();
        for (id, token) in tokens.iter().enumerate() {
            if let Some(first) = vocabulary.insert(token.clone(), json!(id)) {
                return Err(self.wrong("tokens", &format!("has `{token}` as {first} and {id}")));
            }
        }
        let merges = self.merges(&vocabulary)?;
        let mut cuts: Vec<Value> = pre
            .splits
            .iter()
            .map(|regex| {
                let pattern = json!({"Regex": regex});
                json!({"type": "Split", "pattern": pattern, "behavior": "Isolated", "invert": false})
            })
            .collect();
        cuts.push(byte_level(false));
        Ok(json!({
            "version": "1.0",
            "truncation": null,
            "padding": null,
            "added_tokens": added,
            "normalizer": if pre.nfc { json!({"type": "NFC"}) } else { Value::Null },
            "pre_tokenizer": {"type": "Sequence", "pretokenizers": cuts},
            "post_processor": self.frame(tokens, pre.add_bos)?,
            "decoder": byte_level(true),
            "model": {
                "type": "BPE",
                "dropout": null,
                "unk_token": null,
                "continuing_subword_prefix": null,
                "end_of_word_suffix": null,
                "fuse_unk": false,
                "byte_fallback": false,
                "ignore_merges": pre.ignore_merges,
                "vocab": vocabulary,
                "merges": merges,
            },
        }))
    }

    /// The chat template, where there is one.
    ///
    /// # Errors
    /// [`Error::Invalid`] where the key is no text.
    pub fn chat_template(&self) -> Result<Option<&str>, Error> {
        match self.metadata.get("tokenizer.chat_template") {
            None => Ok(None),
            Some(Found::Text(template)) => Ok(Some(template)),
            Some(other) => Err(self.error(
                &format!("key `tokenizer.chat_template` is {other}, needed is a text"),
                "get the file from its source again",
            )),
        }
    }

    /// The text of the token whose id is a key of the config (`bos_token_id`); empty where there is
    /// none.
    #[must_use]
    pub fn token_text(&self, key: &str) -> &str {
        let id = match &self.config[key] {
            Value::Array(ids) => ids.first().and_then(Value::as_u64),
            id => id.as_u64(),
        };
        let tokens = match self.metadata.get("tokenizer.ggml.tokens") {
            Some(Found::Texts(tokens)) => tokens.as_slice(),
            _ => &[],
        };
        id.and_then(|id| tokens.get(id as usize)).map_or("", String::as_str)
    }

    fn pre_tokenizer(&self) -> Result<&'static PreTokenizer, Error> {
        let text = |key: &str| match self.metadata.get(key) {
            Some(Found::Text(text)) => Some(text.as_str()),
            _ => None,
        };
        let shown = |key: &str| {
            self.metadata.get(key).map_or("missing".to_owned(), |value| format!("{value}"))
        };
        let model = "tokenizer.ggml.model";
        if text(model) != Some("gpt2") {
            let text = format!("key `{model}` is {}, supported is `gpt2`", shown(model));
            return Err(self.error(&text, ELSEWHERE));
        }
        let space = "tokenizer.ggml.add_space_prefix";
        if !matches!(self.metadata.get(space), None | Some(Found::Bool(false))) {
            let text = format!("key `{space}` is {}, supported is false", shown(space));
            return Err(self.error(&text, ELSEWHERE));
        }
        let key = "tokenizer.ggml.pre";
        let name = text(key).unwrap_or("");
        PRE_TOKENIZERS.iter().find(|pre| pre.names.contains(&name)).ok_or_else(|| {
            let names: Vec<&str> =
                PRE_TOKENIZERS.iter().flat_map(|pre| pre.names).copied().collect();
            let text = format!("key `{key}` is {}, supported are {}", shown(key), names.join(", "));
            self.error(&text, ELSEWHERE)
        })
    }

    fn tokens(&self) -> Result<&[String], Error> {
        let rows = self.config["vocab_size"].as_u64().unwrap_or(0);
        match self.metadata.get("tokenizer.ggml.tokens") {
            Some(Found::Texts(tokens)) if tokens.len() as u64 == rows => Ok(tokens),
            found => {
                let found = found.map_or("is missing".to_owned(), |found| format!("is {found}"));
                Err(self.wrong("tokens", &format!("{found}, needed are {rows} texts")))
            }
        }
    }

    /// The tokens that stand for themselves in a text.
    fn added_tokens(&self, tokens: &[String]) -> Result<Vec<Value>, Error> {
        let kinds = match self.metadata.get("tokenizer.ggml.token_type") {
            Some(Found::Integers(kinds)) if kinds.len() == tokens.len() => kinds,
            found => {
                let found = found.map_or("is missing".to_owned(), |found| format!("is {found}"));
                let needed = format!("{found}, needed are {} numbers", tokens.len());
                return Err(self.wrong("token_type", &needed));
            }
        };
        let mut added = Vec::new();
        for (id, (token, kind)) in tokens.iter().zip(kinds).enumerate() {
            let special = match *kind {
                UNKNOWN | CONTROL => true,
                USER_DEFINED => false,
                1..=LAST_KIND => continue,
                other => {
                    let text = format!("has {other} for token {id}, known are 1 to {LAST_KIND}");
                    return Err(self.wrong("token_type", &text));
                }
            };
            if token.is_empty() {
                return Err(self.wrong("tokens", &format!("has an empty special token, {id}")));
            }
            added.push(json!({
                "id": id,
                "content": token,
                "single_word": false,
                "lstrip": false,
                "rstrip": false,
                "normalized": false,
                "special": special,
            }));
        }
        Ok(added)
    }

    /// The tokens around a text that stands alone, as a post-processor.
    fn frame(&self, tokens: &[String], add_bos: bool) -> Result<Value, Error> {
        let mut specials = Map::new();
        let mut around = [Vec::new(), Vec::new()];
        for (i, (end, default)) in [("bos", add_bos), ("eos", false)].into_iter().enumerate() {
            let added = match self.metadata.get(&format!("tokenizer.ggml.add_{end}_token")) {
                None => default,
                Some(Found::Bool(added)) => *added,
                Some(other) => {
                    let text = format!("is {other}, needed is true or false");
                    return Err(self.wrong(&format!("add_{end}_token"), &text));
                }
            };
            if !added {
                continue;
            }
            let key = format!("{end}_token_id");
            let id = self.metadata.get(&format!("tokenizer.ggml.{key}")).and_then(Found::as_u64);
            let Some((id, token)) = id.and_then(|id| Some((id, tokens.get(id as usize)?))) else {
                return Err(self.wrong(&key, "is missing, and is to be added to every text"));
            };
            specials.insert(token.clone(), json!({"id": token, "ids": [id], "tokens": [token]}));
            around[i].push(json!({"SpecialToken": {"id": token, "type_id": 0}}));
        }
        if specials.is_empty() {
            return Ok(Value::Null);
        }
        let text = |name: &str| json!({"Sequence": {"id": name, "type_id": 0}});
        let [before, after] = around;
        let framed = |texts: Vec<Value>| [before.clone(), texts, after.clone()].concat();
        Ok(json!({
            "type": "TemplateProcessing",
            "single": framed(vec![text("A")]),
            "pair": framed(vec![text("A"), text("B")]),
            "special_tokens": specials,
        }))
    }

    /// Pairs of tokens in the order in which they are merged.
    fn merges(&self, vocabulary: &Map<String, Value>) -> Result<Vec<Value>, Error> {
        let Some(Found::Texts(merges)) = self.metadata.get("tokenizer.ggml.merges") else {
            return Err(self.wrong("merges", "is missing or no list of texts"));
        };
        let mut pairs = Vec::with_capacity(merges.len());
        for (i, merge) in merges.iter().enumerate() {
            let pair = merge.split_once(' ').filter(|(left, right)| {
                [*left, *right, &format!("{left}{right}")]
                    .into_iter()
                    .all(|token| vocabulary.contains_key(token))
            });
            let Some((left, right)) = pair else {
                let shown: String = merge.chars().take(60).collect();
                let text =
                    format!("has `{shown}` at {i}, which does not merge two tokens to a third");
                return Err(self.wrong("merges", &text));
            };
            pairs.push(json!([left, right]));
        }
        Ok(pairs)
    }

    fn wrong(&self, key: &str, found: &str) -> Error {
        self.error(
            &format!("key `tokenizer.ggml.{key}` {found}"),
            "the file was written by a broken program: get it from its source again",
        )
    }

    fn error(&self, found: &str, hint: &str) -> Error {
        Error::one(format!("{}: {found}", self.name), hint)
    }
}

fn byte_level(decoder: bool) -> Value {
    json!({
        "type": "ByteLevel",
        "add_prefix_space": decoder,
        "trim_offsets": true,
        "use_regex": decoder,
    })
}
