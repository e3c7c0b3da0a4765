//! Per-sample counters as a safetensors file (interface 5): arrays (samples, layers, …), names and
//! settings in the header's `__metadata__`.

use crate::Error;
use crate::profile::counters::{LayerRow, MARGIN_BINS, SUMS, SampleRow, Samples, Setting};
use crate::profile::probes::ProbeRow;
use darwin_core::Domain;
use darwin_core::files::Origin;
use darwin_core::fs::write_atomic;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::path::Path;

/// Everything in the header that is not an array.
#[derive(Serialize, Deserialize)]
struct Head {
    schema: u32,
    setting: Setting,
    forward_tokens: u64,
    ids: Vec<String>,
    domains: Vec<Domain>,
    probes: Vec<(String, String)>,
}

/// The only key of `__metadata__`, whose values are strings by the format's rule.
const HEAD: &str = "darwin_samples";

impl Samples {
    /// Writes the counters.
    ///
    /// # Errors
    /// [`Error::Io`].
    pub fn save(&self, path: &Path) -> Result<(), Error> {
        write_atomic(path, &self.encode()).map_err(|source| Error::Io {
            doing: "write",
            path: path.to_owned(),
            source,
        })
    }

    /// Reads counters that [`Samples::save`] wrote.
    ///
    /// # Errors
    /// [`Error::Io`], [`Error::Counters`].
    pub fn load(path: &Path) -> Result<Self, Error> {
        let bytes = std::fs::read(path).map_err(|source| Error::Io {
            doing: "read",
            path: path.to_owned(),
            source,
        })?;
        decode(&bytes)
            .map_err(|what| Error::Counters { path: path.to_owned(), what: what.to_owned() })
    }

    /// What the counters in a file were made from; `None` where the file is missing, damaged or of
    /// another version.
    #[must_use]
    pub fn origin_of(path: &Path) -> Option<Origin> {
        Self::load(path).ok().map(|samples| samples.origin())
    }

    fn encode(&self) -> Vec<u8> {
        let head = Head {
            schema: darwin_core::files::SCHEMA,
            setting: self.setting.clone(),
            forward_tokens: self.forward_tokens,
            ids: self.rows.iter().map(|r| r.id.clone()).collect(),
            domains: self.rows.iter().map(|r| r.domain.clone()).collect(),
            probes: self.probes.iter().map(|p| (p.set.clone(), p.id.clone())).collect(),
        };
        let text = serde_json::to_string(&head).expect("a head is plain data");
        let mut out = Writer::default();
        out.header.insert("__metadata__".to_owned(), json!({ HEAD: text }));
        let s = &self.setting;
        let (n, l, e) = (self.rows.len(), s.layer_kinds.len(), s.num_experts);
        let layers = || self.rows.iter().flat_map(|r| &r.layers);
        let f64s = |v: f64| v.to_le_bytes();
        out.put("tokens", "U32", &[n], self.rows.iter().map(|r| r.tokens.to_le_bytes()));
        out.put("nll", "F64", &[n], self.rows.iter().map(|r| f64s(r.nll)));
        let counts = layers().flat_map(|r| r.counts.iter().map(|v| v.to_le_bytes()));
        out.put("counts", "U32", &[n, l, e], counts);
        out.put("gates", "F64", &[n, l, e], layers().flat_map(|r| &r.gates).map(|v| f64s(*v)));
        let probability = layers().flat_map(|r| &r.probability).map(|v| f64s(*v));
        out.put("probability", "F64", &[n, l, e], probability);
        out.put("sums", "F64", &[n, l, SUMS], layers().flat_map(|r| r.sums).map(f64s));
        let heads = layers().flat_map(|r| &r.heads).map(|v| f64s(*v));
        out.put("heads", "F64", &[n, l, s.num_heads], heads);
        let margins = self.margins.iter().flatten().map(|v| v.to_le_bytes());
        out.put("margins", "U64", &[l, MARGIN_BINS], margins);
        let shape = [self.probes.len(), l, s.hidden_size];
        let hidden = self.probes.iter().flat_map(|p| &p.hidden).map(|v| v.to_le_bytes());
        out.put("probe_hidden", "F32", &shape, hidden);
        let update = self.probes.iter().flat_map(|p| &p.update).map(|v| v.to_le_bytes());
        out.put("probe_update", "F32", &shape, update);
        out.finish()
    }
}

/// Builds a safetensors file.
#[derive(Default)]
struct Writer {
    header: Map<String, Value>,
    body: Vec<u8>,
}

impl Writer {
    fn put<const W: usize>(
        &mut self,
        name: &str,
        dtype: &str,
        shape: &[usize],
        values: impl Iterator<Item = [u8; W]>,
    ) {
        let start = self.body.len();
        values.for_each(|v| self.body.extend_from_slice(&v));
        let offsets = [start, self.body.len()];
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": offsets});
        self.header.insert(name.to_owned(), entry);
    }

    fn finish(self) -> Vec<u8> {
        let mut text = Value::Object(self.header).to_string();
        while !text.len().is_multiple_of(8) {
            text.push(' ');
        }
        let mut file = (text.len() as u64).to_le_bytes().to_vec();
        file.extend_from_slice(text.as_bytes());
        file.extend_from_slice(&self.body);
        file
    }
}

/// Reads arrays of a safetensors file.
struct Reader<'a> {
    header: Map<String, Value>,
    body: &'a [u8],
}

impl<'a> Reader<'a> {
    fn new(bytes: &'a [u8]) -> Result<Self, &'static str> {
        const SHORT: &str = "the file is too short";
        let (size, rest) = bytes.split_first_chunk::<8>().ok_or(SHORT)?;
        let size = usize::try_from(u64::from_le_bytes(*size)).map_err(|_| SHORT)?;
        let (header, body) = rest.split_at_checked(size).ok_or(SHORT)?;
        let header = serde_json::from_slice(header).map_err(|_| "the header is not JSON")?;
        Ok(Self { header, body })
    }

    fn head(&self) -> Result<Head, &'static str> {
        let text = self.header.get("__metadata__").and_then(|m| m[HEAD].as_str());
        serde_json::from_str(text.ok_or("the header has no `darwin_samples`")?)
            .map_err(|_| "`darwin_samples` in the header does not make sense")
    }

    /// The values of an array that must have `count` of them.
    fn get<const W: usize, T>(
        &self,
        name: &str,
        count: usize,
        value: impl Fn([u8; W]) -> T,
    ) -> Result<Vec<T>, &'static str> {
        let offsets = self.header.get(name).map(|entry| &entry["data_offsets"]);
        let offset = |i: usize| offsets.and_then(|o| o[i].as_u64()).map(|v| v as usize);
        let span = offset(0).zip(offset(1)).ok_or("an array is missing in the header")?;
        let bytes = self.body.get(span.0..span.1).ok_or("an array leaves the file")?;
        let (values, rest) = bytes.as_chunks::<W>();
        if values.len() != count || !rest.is_empty() {
            return Err("an array has the wrong size");
        }
        Ok(values.iter().map(|v| value(*v)).collect())
    }
}

fn decode(bytes: &[u8]) -> Result<Samples, &'static str> {
    let file = Reader::new(bytes)?;
    let head = file.head()?;
    if head.schema != darwin_core::files::SCHEMA {
        return Err("written by another version of Darwin");
    }
    let s = &head.setting;
    let (n, l, e) = (head.ids.len(), s.layer_kinds.len(), s.num_experts);
    if head.domains.len() != n {
        return Err("there are not as many domains as samples");
    }
    let tokens = file.get("tokens", n, u32::from_le_bytes)?;
    let nll = file.get("nll", n, f64::from_le_bytes)?;
    let counts = file.get("counts", n * l * e, u32::from_le_bytes)?;
    let gates = file.get("gates", n * l * e, f64::from_le_bytes)?;
    let probability = file.get("probability", n * l * e, f64::from_le_bytes)?;
    let sums = file.get("sums", n * l * SUMS, f64::from_le_bytes)?;
    let heads = file.get("heads", n * l * s.num_heads, f64::from_le_bytes)?;
    let margins = file.get("margins", l * MARGIN_BINS, u64::from_le_bytes)?;
    let width = l * s.hidden_size;
    let hidden = file.get("probe_hidden", head.probes.len() * width, f32::from_le_bytes)?;
    let update = file.get("probe_update", head.probes.len() * width, f32::from_le_bytes)?;
    let layer_row = |i: usize| LayerRow {
        counts: counts[i * e..(i + 1) * e].to_vec(),
        gates: gates[i * e..(i + 1) * e].to_vec(),
        probability: probability[i * e..(i + 1) * e].to_vec(),
        sums: std::array::from_fn(|k| sums[i * SUMS + k]),
        heads: heads[i * s.num_heads..(i + 1) * s.num_heads].to_vec(),
    };
    let rows = (0..n).map(|i| SampleRow {
        id: head.ids[i].clone(),
        domain: head.domains[i].clone(),
        tokens: tokens[i],
        nll: nll[i],
        layers: (i * l..(i + 1) * l).map(layer_row).collect(),
    });
    let probes = head.probes.iter().enumerate().map(|(i, (set, id))| ProbeRow {
        set: set.clone(),
        id: id.clone(),
        hidden: hidden[i * width..(i + 1) * width].to_vec(),
        update: update[i * width..(i + 1) * width].to_vec(),
    });
    Ok(Samples {
        rows: rows.collect(),
        margins: margins.chunks(MARGIN_BINS).map(<[u64]>::to_vec).collect(),
        probes: probes.collect(),
        forward_tokens: head.forward_tokens,
        setting: head.setting,
    })
}
