//! Model references (mergekit.md 1.7): `path[@revision][+lora]`, or the same as a mapping.

use super::parse::Reader;
use super::yaml::{Mark, Node, NodeKind};

const MAPPING: &str = "write a path with `@` or `+` in it as `{model: {path: PATH}}`";

impl Reader<'_> {
    /// A model's folder. Revisions, adapters and other architectures are read and refused, each
    /// with its own sentence.
    pub(super) fn model(&mut self, node: &Node, key: &str) -> Option<String> {
        if matches!(node.kind, NodeKind::Mapping(_)) {
            return self.model_mapping(node, key);
        }
        let text = self.string(node, key)?;
        let mut parts = text.split('+');
        let path = parts.next().unwrap_or_default();
        if let Some(lora) = parts.next() {
            if parts.next().is_some() {
                let problem = format!("`{key}` is `{text}`, allowed is at most one `+`");
                self.problem(node.mark, problem, MAPPING);
                return None;
            }
            self.adapter(node.mark, key, &text, lora);
        }
        self.path(node.mark, key, path)
    }

    fn model_mapping(&mut self, node: &Node, key: &str) -> Option<String> {
        let known = ["model", "lora", "override_architecture", "path", "revision"];
        let fields = self.fields(node, &format!("`{key}`"), &known);
        let given = |name: &str| fields.get(name).copied().filter(|node| !node.is_null());
        let path = match (given("model"), given("path")) {
            (Some(model), None) => match &model.kind {
                NodeKind::Mapping(_) => self.path_mapping(model, key),
                _ => self.string(model, key).and_then(|text| self.path(model.mark, key, &text)),
            },
            (None, Some(path)) => self.folder(path, key),
            (Some(_), Some(path)) => {
                let text = format!("both `model` and `path` are given in `{key}`");
                self.problem(path.mark, text, "keep one of them");
                None
            }
            (None, None) => {
                let hint = "write the folder: `{model: {path: FOLDER}}`";
                self.problem(node.mark, format!("`{key}` names no `path`"), hint);
                None
            }
        };
        let shown = path.as_deref().unwrap_or("?");
        if let Some(revision) = given("revision") {
            self.revision(revision.mark, key, shown, &revision.describe());
        }
        if let Some(lora) = given("lora") {
            let named = match &lora.kind {
                NodeKind::Mapping(_) => self.path_mapping(lora, "lora"),
                _ => self.string(lora, "lora"),
            };
            self.adapter(lora.mark, key, shown, named.as_deref().unwrap_or("?"));
        }
        if let Some(other) = given("override_architecture") {
            let text = format!("`override_architecture` is {}", other.describe());
            let text = format!("{text}: the architecture is read from config and tensor names");
            self.problem(other.mark, text, "remove it, or change `architectures` in config.json");
        }
        path
    }

    /// `{path, revision}`; here a path is taken as it stands.
    fn path_mapping(&mut self, node: &Node, key: &str) -> Option<String> {
        let fields = self.fields(node, &format!("`{key}`"), &["path", "revision"]);
        let Some(path) = fields.get("path") else {
            self.problem(node.mark, format!("`{key}` names no `path`"), "write the folder");
            return None;
        };
        let path = self.folder(path, key)?;
        if let Some(revision) = fields.get("revision").filter(|node| !node.is_null()) {
            self.revision(revision.mark, key, &path, &revision.describe());
        }
        Some(path)
    }

    fn folder(&mut self, node: &Node, key: &str) -> Option<String> {
        let path = self.string(node, key)?;
        self.not_empty(node.mark, key, path)
    }

    /// `path[@revision]`.
    fn path(&mut self, at: Mark, key: &str, text: &str) -> Option<String> {
        let mut parts = text.split('@');
        let path = parts.next().unwrap_or_default();
        if let Some(revision) = parts.next() {
            if parts.next().is_some() {
                let problem = format!("`{key}` is `{text}`, allowed is at most one `@`");
                self.problem(at, problem, MAPPING);
                return None;
            }
            self.revision(at, key, path, &format!("`{revision}`"));
        }
        self.not_empty(at, key, path.to_owned())
    }

    fn not_empty(&mut self, at: Mark, key: &str, path: String) -> Option<String> {
        if path.is_empty() {
            self.problem(at, format!("`{key}` names no folder"), "write the model's folder");
            return None;
        }
        Some(path)
    }

    fn revision(&mut self, at: Mark, key: &str, path: &str, revision: &str) {
        let text = format!("`{key}` asks for revision {revision} of `{path}`");
        let text = format!("{text}: models are folders on this disk, which have no revisions");
        let hint = format!("download that revision and name its folder; {MAPPING}");
        self.problem(at, text, hint);
    }

    fn adapter(&mut self, at: Mark, key: &str, model: &str, lora: &str) {
        let text = format!("`{key}` puts the adapter `{lora}` on `{model}`");
        let text = format!("{text}: adapters (LoRA) are not supported yet");
        let hint = format!("merge the adapter into the model and name the result; {MAPPING}");
        self.problem(at, text, hint);
    }
}
