//! GGUF files built in memory, right or wrong.

/// A value of the metadata.
#[derive(Clone, Debug)]
pub enum GgufValue {
    /// A whole number.
    U32(u32),
    /// A number.
    F32(f32),
    /// true or false.
    Bool(bool),
    /// A text.
    Text(String),
    /// A list of texts.
    Texts(Vec<String>),
    /// A list of whole numbers.
    I32s(Vec<i32>),
    /// A type's number and the bytes of a value.
    Raw(u32, Vec<u8>),
}

/// A tensor: name, dimensions as in the file (columns first), ggml's type number, bytes.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the format's")]
pub struct GgufTensor {
    pub name: String,
    pub dims: Vec<u64>,
    pub kind: u32,
    pub bytes: Vec<u8>,
    /// Where it begins in the data; behind the one before where it is `None`.
    pub offset: Option<u64>,
}

impl GgufTensor {
    /// A tensor of float32 numbers.
    #[must_use]
    pub fn f32(name: &str, dims: &[u64], values: &[f32]) -> Self {
        Self {
            name: name.to_owned(),
            dims: dims.to_vec(),
            kind: 0,
            bytes: values.iter().flat_map(|v| v.to_le_bytes()).collect(),
            offset: None,
        }
    }
}

/// A GGUF file.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "the fields are the format's")]
pub struct GgufFile {
    pub version: u32,
    pub keys: Vec<(String, GgufValue)>,
    pub tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// The smallest Llama model that can be opened: 2 heads of width 2, a vocabulary of 3, an
    /// embedding alone.
    #[must_use]
    pub fn llama() -> Self {
        let number = |key: &str, n: u32| (format!("llama.{key}"), GgufValue::U32(n));
        let epsilon = "llama.attention.layer_norm_rms_epsilon".to_owned();
        Self {
            version: 3,
            keys: vec![
                ("general.architecture".to_owned(), GgufValue::Text("llama".to_owned())),
                number("block_count", 1),
                number("context_length", 64),
                number("embedding_length", 4),
                number("feed_forward_length", 8),
                number("attention.head_count", 2),
                (epsilon, GgufValue::F32(1e-5)),
            ],
            tensors: vec![GgufTensor::f32("token_embd.weight", &[4, 3], &[0.5; 12])],
        }
    }

    /// With a key set to a value; it is replaced where it is there.
    #[must_use]
    pub fn with(mut self, key: &str, value: GgufValue) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.to_owned(), value));
        self
    }

    /// Without a key.
    #[must_use]
    pub fn without(mut self, key: &str) -> Self {
        self.keys.retain(|(name, _)| name != key);
        self
    }

    /// With another tensor.
    #[must_use]
    pub fn and(mut self, tensor: GgufTensor) -> Self {
        self.tensors.push(tensor);
        self
    }

    /// The file's bytes; tensors lie at multiples of 32.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((self.tensors.len() as u64).to_le_bytes());
        out.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut out, key);
            put(&mut out, value);
        }
        let mut data = Vec::new();
        for tensor in &self.tensors {
            text(&mut out, &tensor.name);
            out.extend((tensor.dims.len() as u32).to_le_bytes());
            tensor.dims.iter().for_each(|d| out.extend(d.to_le_bytes()));
            out.extend(tensor.kind.to_le_bytes());
            out.extend(tensor.offset.unwrap_or(data.len() as u64).to_le_bytes());
            data.extend(&tensor.bytes);
            data.resize(data.len().next_multiple_of(32), 0);
        }
        out.resize(out.len().next_multiple_of(32), 0);
        out.extend(data);
        out
    }
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

fn put(out: &mut Vec<u8>, value: &GgufValue) {
    let mut kind = |number: u32| out.extend(number.to_le_bytes());
    match value {
        GgufValue::U32(n) => {
            kind(4);
            out.extend(n.to_le_bytes());
        }
        GgufValue::F32(x) => {
            kind(6);
            out.extend(x.to_le_bytes());
        }
        GgufValue::Bool(b) => {
            kind(7);
            out.push(u8::from(*b));
        }
        GgufValue::Text(s) => {
            kind(8);
            text(out, s);
        }
        GgufValue::Texts(list) => {
            kind(9);
            out.extend(8_u32.to_le_bytes());
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|s| text(out, s));
        }
        GgufValue::I32s(list) => {
            kind(9);
            out.extend(5_u32.to_le_bytes());
            out.extend((list.len() as u64).to_le_bytes());
            list.iter().for_each(|n| out.extend(n.to_le_bytes()));
        }
        GgufValue::Raw(number, bytes) => {
            kind(*number);
            out.extend(bytes);
        }
    }
}
