//! Files beside the weights that a child takes over: those that loaders look for, and no others.
//!
//! A model's folder comes from a stranger and the child is made to be published. So there is a list
//! of what is carried instead of one of what is not: no pickles, no leftovers of a training, no
//! code but what the model's own configuration names, and nothing that a link fetches from elsewhere
//! on this disk.

mod code;

use crate::Error;
use crate::resume::SUMS;
use crate::shards::INDEX;
use darwin_core::fs::{MAX_JSON_BYTES, check_regular};
use serde_json::Value;
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// What a side file is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SideKind {
    /// The tokenizer, its vocabulary, its chat templates.
    Tokenizer,
    /// What prepares images, sound and video.
    Processor,
    /// How text is generated.
    Generation,
    /// Licences and what goes with them.
    Licence,
    /// Code that a configuration names.
    Code,
    /// Anything else that some loader reads.
    Other,
}

/// A file that is carried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SideFile {
    /// Where it lies.
    pub path: PathBuf,
    /// What it is for.
    pub kind: SideKind,
}

impl SideFile {
    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        self.path.file_name().and_then(OsStr::to_str).unwrap_or("")
    }
}

/// The side files of a folder.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SideFiles {
    /// What is carried, sorted by name.
    pub files: Vec<SideFile>,
    /// What is not, with the reason where it is not plain; sorted by name, folders with a `/`
    /// behind. Weights, what a child has anew and hidden files are not listed.
    pub left_out: Vec<(String, Option<&'static str>)>,
}

/// What transformers, tokenizers, mistral-common, vLLM and llama.cpp read, by name.
const NAMES: [(&str, SideKind); 44] = [
    ("added_tokens.json", SideKind::Tokenizer),
    ("bpe.codes", SideKind::Tokenizer),
    ("bpe.model", SideKind::Tokenizer),
    ("chat_template.json", SideKind::Tokenizer),
    ("dict.txt", SideKind::Tokenizer),
    ("emoji.json", SideKind::Tokenizer),
    ("encoder.json", SideKind::Tokenizer),
    ("ice_text.model", SideKind::Tokenizer),
    ("merges.txt", SideKind::Tokenizer),
    ("normalizer.json", SideKind::Tokenizer),
    ("sentencepiece.bpe.model", SideKind::Tokenizer),
    ("sentencepiece.model", SideKind::Tokenizer),
    ("source.spm", SideKind::Tokenizer),
    ("special_tokens_map.json", SideKind::Tokenizer),
    ("spiece.model", SideKind::Tokenizer),
    ("spm.model", SideKind::Tokenizer),
    ("target.spm", SideKind::Tokenizer),
    ("tekken.json", SideKind::Tokenizer),
    ("tokenizer.json", SideKind::Tokenizer),
    ("tokenizer.model", SideKind::Tokenizer),
    ("tokenizer_config.json", SideKind::Tokenizer),
    ("tool_chat_template.json", SideKind::Tokenizer),
    ("vocab.bpe", SideKind::Tokenizer),
    ("vocab.json", SideKind::Tokenizer),
    ("vocab.model", SideKind::Tokenizer),
    ("vocab.spm", SideKind::Tokenizer),
    ("vocab.txt", SideKind::Tokenizer),
    ("audio_processor_config.json", SideKind::Processor),
    ("feature_extractor_config.json", SideKind::Processor),
    ("image_processor_config.json", SideKind::Processor),
    ("preprocessor_config.json", SideKind::Processor),
    ("processor_config.json", SideKind::Processor),
    ("video_preprocessor_config.json", SideKind::Processor),
    ("generation_config.json", SideKind::Generation),
    ("configuration.json", SideKind::Other),
    ("COPYING", SideKind::Licence),
    ("COPYRIGHT", SideKind::Licence),
    ("LICENCE", SideKind::Licence),
    ("LICENSE", SideKind::Licence),
    ("NOTICE", SideKind::Licence),
    ("PATENTS", SideKind::Licence),
    ("POLICY", SideKind::Licence),
    ("TERMS", SideKind::Licence),
    ("USE_POLICY", SideKind::Licence),
];

/// Endings of licences.
const TEXT_ENDS: [&str; 6] = ["", "txt", "md", "rst", "html", "pdf"];

/// Files that a child has anew, or that speak of the parent alone.
const ANEW: [&str; 7] = [
    "README.md",
    SUMS,
    "config.json",
    "manifest.json",
    "mergekit_config.yml",
    "mergekit_config.shares",
    INDEX,
];

impl SideKind {
    /// What a file of this name is for, where it is carried; code is not known by its name.
    #[must_use]
    pub fn of(name: &str) -> Option<Self> {
        let known = NAMES.iter().find(|(known, _)| *known == name);
        if let Some((_, kind)) = known {
            return Some(*kind);
        }
        let version = name.strip_prefix("tokenizer.model.v");
        if [".jinja", ".tiktoken"].iter().any(|end| name.ends_with(end))
            || version
                .is_some_and(|v| !v.is_empty() && v.bytes().all(|b| b.is_ascii_alphanumeric()))
        {
            return Some(Self::Tokenizer);
        }
        let (stem, end) = name.rsplit_once('.').unwrap_or((name, ""));
        let licences = NAMES.iter().filter(|(_, kind)| *kind == Self::Licence);
        // LICENSE-APACHE, Notice.txt, and such names with a language or another ending
        let named = licences.into_iter().any(|(word, _)| {
            let start = stem.get(..word.len()).is_some_and(|s| s.eq_ignore_ascii_case(word));
            start && stem[word.len()..].bytes().next().is_none_or(|b| b"-_ .".contains(&b))
        });
        (named && TEXT_ENDS.iter().any(|known| end.eq_ignore_ascii_case(known)))
            .then_some(Self::Licence)
    }
}

/// The side files of a model with this config.
pub(crate) fn of_folder(folder: &Path, config: &Value) -> Result<SideFiles, Error> {
    let io = |e| Error::io("read", folder, e);
    let home = Home::of(folder).map_err(io)?;
    let mut found = SideFiles::default();
    let mut scripts = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let Some(name) = path.file_name().and_then(OsStr::to_str).map(str::to_owned) else {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            found.left_out.push((name, Some("its name is not UTF-8")));
            continue;
        };
        if is_expected(&name) {
            continue;
        }
        let script = name.ends_with(".py");
        match (SideKind::of(&name), home.refuses(&path)) {
            (_, Some(reason)) => found.left_out.push((name, Some(reason))),
            _ if script => scripts.push(path),
            (Some(kind), None) if path.is_file() => found.files.push(SideFile { path, kind }),
            (_, None) if path.is_dir() => found.left_out.push((format!("{name}/"), None)),
            (_, None) => found.left_out.push((name, None)),
        }
    }
    let (named, others) = code::named(&found.files, config, scripts);
    found.files.extend(named.into_iter().map(|path| SideFile { path, kind: SideKind::Code }));
    for path in others {
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        found.left_out.push((name, Some("code that no `auto_map` names")));
    }
    found.files.sort_by(|a, b| a.path.cmp(&b.path));
    found.left_out.sort();
    Ok(found)
}

/// Whether nobody expects to find a file of this name in the child, or it is there anew.
fn is_expected(name: &str) -> bool {
    name.starts_with('.')
        || ANEW.contains(&name)
        || [".safetensors", ".gguf", ".index.json"].iter().any(|end| name.ends_with(end))
}

/// Where the files of a model may lie: in its folder, or among the blobs of the same repository in
/// the Hub's cache, which the links of a snapshot lead to.
struct Home {
    folder: PathBuf,
    blobs: Option<PathBuf>,
}

impl Home {
    fn of(folder: &Path) -> std::io::Result<Self> {
        let folder = folder.canonicalize()?;
        let snapshots = folder.parent().filter(|parent| parent.ends_with("snapshots"));
        let blobs = snapshots.and_then(Path::parent).map(|repository| repository.join("blobs"));
        Ok(Self { folder, blobs })
    }

    /// Why a file is not taken whatever it is called; `None` for folders within this one.
    fn refuses(&self, path: &Path) -> Option<&'static str> {
        let Ok(found) = path.canonicalize() else { return Some("a link to nothing") };
        let inside = |home: &PathBuf| found.starts_with(home);
        if !inside(&self.folder) && !self.blobs.as_ref().is_some_and(inside) {
            return Some("a link out of the folder");
        }
        let Ok(about) = std::fs::metadata(&found) else { return Some("it cannot be read") };
        if about.is_dir() {
            return None;
        }
        if check_regular(&about).is_err() {
            return Some("no regular file");
        }
        (about.len() > MAX_JSON_BYTES).then_some("larger than 64 MiB")
    }
}

#[cfg(test)]
#[allow(clippy::disallowed_methods, reason = "tests may be plain")]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::symlink;

    fn names(found: &SideFiles) -> String {
        found.files.iter().map(SideFile::name).collect::<Vec<_>>().join(" ")
    }

    fn left_out(found: &SideFiles) -> String {
        let each = found.left_out.iter().map(|(name, why)| match why {
            Some(why) => format!("{name} ({why})"),
            None => name.clone(),
        });
        each.collect::<Vec<_>>().join(", ")
    }

    #[test]
    fn what_loaders_read_is_carried_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let carried = [
            "LICENSE-MODEL.txt",
            "Notice",
            "USE_POLICY.md",
            "added_tokens.json",
            "chat_template.jinja",
            "configuration.json",
            "generation_config.json",
            "merges.txt",
            "preprocessor_config.json",
            "qwen.tiktoken",
            "rag.jinja",
            "special_tokens_map.json",
            "tekken.json",
            "tokenizer.json",
            "tokenizer.model",
            "tokenizer.model.v3",
            "tokenizer_config.json",
            "video_preprocessor_config.json",
            "vocab.json",
        ];
        let anew = [".gitattributes", "README.md", "config.json", "a.safetensors", INDEX, SUMS];
        let others = [
            "LICENSE.py.bin",
            "Licenses.txt",
            "notes.txt",
            "optimizer.pt",
            "pytorch_model.bin",
            "rng_state.pth",
            "trainer_state.json",
            "training_args.bin",
            "x.ckpt",
            "x.pkl",
        ];
        for name in carried.iter().chain(&anew).chain(&others) {
            std::fs::write(dir.path().join(name), "{}").unwrap();
        }
        std::fs::create_dir(dir.path().join("tokenizer.json.d")).unwrap();
        std::fs::create_dir(dir.path().join("vocab.txt")).unwrap();
        let found = of_folder(dir.path(), &json!({})).unwrap();
        assert_eq!(names(&found), carried.join(" "));
        let mut expected = others.to_vec();
        expected.extend(["tokenizer.json.d/", "vocab.txt/"]);
        expected.sort_unstable();
        assert_eq!(left_out(&found), expected.join(", "));
    }

    #[test]
    fn links_lead_into_the_folder_or_to_the_blobs_of_the_cache() {
        let dir = tempfile::tempdir().unwrap();
        let repository = dir.path().join("models--a--b");
        let folder = repository.join("snapshots/0a1b");
        for made in [&folder, &repository.join("blobs"), &dir.path().join("models--a--c/blobs")] {
            std::fs::create_dir_all(made).unwrap();
        }
        let outside = dir.path().join("secret");
        for file in [&repository.join("blobs/1f"), &folder.join("vocab.json"), &outside] {
            std::fs::write(file, "{}").unwrap();
        }
        std::fs::write(dir.path().join("models--a--c/blobs/2f"), "{}").unwrap();
        for (target, name) in [
            ("../../blobs/1f", "tokenizer.json"),
            ("vocab.json", "added_tokens.json"),
            ("../../../secret", "special_tokens_map.json"),
            ("../../../models--a--c/blobs/2f", "merges.txt"),
            ("/dev/zero", "vocab.txt"),
            ("nowhere", "spiece.model"),
            ("../../../models--a--c", "figures"),
            ("../../../secret", "modeling_a.py"),
        ] {
            symlink(target, folder.join(name)).unwrap();
        }
        symlink(&outside, folder.join("chat_template.jinja")).unwrap();
        let config = json!({"auto_map": {"AutoModel": "modeling_a.A"}});
        let found = of_folder(&folder, &config).unwrap();
        assert_eq!(names(&found), "added_tokens.json tokenizer.json vocab.json");
        let out = "(a link out of the folder)";
        assert_eq!(
            left_out(&found),
            format!(
                "chat_template.jinja {out}, figures {out}, merges.txt {out}, modeling_a.py {out}, \
                 special_tokens_map.json {out}, spiece.model (a link to nothing), vocab.txt {out}"
            )
        );
        // The same by way of a link to the snapshot.
        let link = dir.path().join("model");
        symlink(&folder, &link).unwrap();
        assert_eq!(names(&of_folder(&link, &config).unwrap()), names(&found));
        // Without a cache around it there are no blobs.
        std::fs::rename(repository.join("snapshots"), repository.join("other")).unwrap();
        let found = of_folder(&repository.join("other/0a1b"), &config).unwrap();
        assert_eq!(names(&found), "added_tokens.json vocab.json");
    }

    #[test]
    fn pipes_and_what_is_too_large_are_left_where_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let pipe = dir.path().join("vocab.txt");
        let made = std::process::Command::new("mkfifo").arg(&pipe).status();
        assert!(made.is_ok_and(|status| status.success()), "mkfifo makes a pipe");
        let large = std::fs::File::create(dir.path().join("tokenizer.json")).unwrap();
        large.set_len(MAX_JSON_BYTES + 1).unwrap();
        let found = of_folder(dir.path(), &json!({})).unwrap();
        assert_eq!(names(&found), "");
        assert_eq!(
            left_out(&found),
            "tokenizer.json (larger than 64 MiB), vocab.txt (no regular file)"
        );
    }

    #[test]
    fn code_is_carried_where_a_configuration_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &str| std::fs::write(dir.path().join(name), text).unwrap();
        write(
            "modeling_a.py",
            "import torch\nfrom .configuration_a import A\nfrom .ops import x\n",
        );
        write("configuration_a.py", "    from . import ops, shared\n");
        write("ops.py", "from .modeling_a import B\nfrom ..etc import passwd\n");
        write("shared.py", "");
        write("tokenization_a.py", "");
        write("train.py", "from .ops import x\n");
        write("elsewhere.py", "");
        write(
            "tokenizer_config.json",
            r#"{"auto_map": {"AutoTokenizer": ["tokenization_a.T", null]}}"#,
        );
        let config = json!({"auto_map": {
            "AutoModel": "modeling_a.A",
            "AutoConfig": "other/repository--elsewhere.C",
            "AutoImageProcessor": "../../etc/passwd.P",
            "AutoProcessor": 7,
        }});
        let found = of_folder(dir.path(), &config).unwrap();
        let code: Vec<&str> =
            found.files.iter().filter(|f| f.kind == SideKind::Code).map(SideFile::name).collect();
        assert_eq!(
            code,
            ["configuration_a.py", "modeling_a.py", "ops.py", "shared.py", "tokenization_a.py"]
        );
        let why = "(code that no `auto_map` names)";
        assert_eq!(left_out(&found), format!("elsewhere.py {why}, train.py {why}"));
        assert_eq!(
            names(&of_folder(dir.path(), &json!([])).unwrap()),
            "tokenization_a.py tokenizer_config.json"
        );
    }
}
