//! Model references (mergekit 0.1.5, `common.py`): `path[@revision][+lora[@revision]]`, or the same as a
//! mapping. A revision is one of a model on the Hub.

use super::parse::Reader;
use super::yaml::{Mark, Node, NodeKind};
use super::{AdapterRef, HubRef};

const MAPPING: &str = "write a path with `@` or `+` in it as `{model: {path: PATH}}`, an adapter's \
                       as `lora: {path: PATH}`";

impl Reader<'_> {
    /// A model's name: its folder or its name on the Hub, `name@revision`, `base+adapter`.
    pub(super) fn model(&mut self, node: &Node, key: &str) -> Option<String> {
        let (path, lora) = if matches!(node.kind, NodeKind::Mapping(_)) {
            self.model_mapping(node, key)?
        } else {
            let text = self.string(node, key)?;
            self.reference(node.mark, key, &text)?
        };
        self.register(node.mark, path, lora)
    }

    /// `path[@revision][+lora[@revision]]`.
    fn reference(&mut self, at: Mark, key: &str, text: &str) -> Option<(String, Option<String>)> {
        let mut parts = text.split('+');
        let path = parts.next().unwrap_or_default();
        let lora = parts.next();
        if parts.next().is_some() {
            let problem = format!("`{key}` is `{text}`, allowed is at most one `+`");
            self.problem(at, problem, MAPPING);
            return None;
        }
        let path = self.path(at, key, path);
        match lora {
            None => Some((path?, None)),
            Some(lora) => {
                let lora = self.path(at, &format!("{key}, its adapter"), lora);
                Some((path?, Some(lora?)))
            }
        }
    }

    /// Two meanings of one name are a problem: a folder called `a+b`, and the folder `a` with the
    /// adapter `b`.
    fn register(&mut self, at: Mark, path: String, lora: Option<String>) -> Option<String> {
        let adapter = lora.map(|lora| AdapterRef { base: path.clone(), lora });
        let name = adapter.as_ref().map_or(path, AdapterRef::name);
        match self.models.get(&name) {
            Some(known) if *known != adapter => {
                self.ambiguous(at, &name);
                None
            }
            Some(_) => Some(name),
            None => {
                self.models.insert(name.clone(), adapter);
                Some(name)
            }
        }
    }

    fn model_mapping(&mut self, node: &Node, key: &str) -> Option<(String, Option<String>)> {
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
        let path = match given("revision") {
            Some(revision) => self.revision(revision, path),
            None => path,
        };
        let lora = given("lora").map(|lora| match &lora.kind {
            NodeKind::Mapping(_) => self.path_mapping(lora, "lora"),
            _ => self.string(lora, "lora").and_then(|text| self.path(lora.mark, "lora", &text)),
        });
        if let Some(other) = given("override_architecture") {
            let text = format!("`override_architecture` is {}", other.describe());
            let text = format!("{text}: the architecture is read from config and tensor names");
            self.problem(other.mark, text, "remove it, or change `architectures` in config.json");
        }
        match lora {
            Some(lora) => Some((path?, Some(lora?))),
            None => Some((path?, None)),
        }
    }

    /// `{path, revision}`; here a path is taken as it stands.
    fn path_mapping(&mut self, node: &Node, key: &str) -> Option<String> {
        let fields = self.fields(node, &format!("`{key}`"), &["path", "revision"]);
        let Some(path) = fields.get("path") else {
            self.problem(node.mark, format!("`{key}` names no `path`"), "write the folder");
            return None;
        };
        let path = self.folder(path, key);
        match fields.get("revision").filter(|node| !node.is_null()) {
            Some(revision) => self.revision(revision, path),
            None => path,
        }
    }

    fn folder(&mut self, node: &Node, key: &str) -> Option<String> {
        let path = self.string(node, key)?;
        if self.revisions.contains_key(&path) {
            self.ambiguous(node.mark, &path);
            return None;
        }
        self.not_empty(node.mark, key, path)
    }

    /// `path[@revision]`.
    fn path(&mut self, at: Mark, key: &str, text: &str) -> Option<String> {
        let mut parts = text.split('@');
        let path = parts.next().unwrap_or_default();
        let revision = parts.next();
        if parts.next().is_some() {
            let problem = format!("`{key}` is `{text}`, allowed is at most one `@`");
            self.problem(at, problem, MAPPING);
            return None;
        }
        let path = self.not_empty(at, key, path.to_owned())?;
        match revision {
            Some("") => {
                let problem = format!("`{key}` is `{text}`, which names no revision");
                self.problem(at, problem, "write a branch, tag or commit after `@`");
                None
            }
            Some(revision) => self.revised(at, path, revision.to_owned()),
            None => Some(path),
        }
    }

    fn not_empty(&mut self, at: Mark, key: &str, path: String) -> Option<String> {
        if path.is_empty() {
            self.problem(at, format!("`{key}` names no folder"), "write the model's folder");
            return None;
        }
        Some(path)
    }

    fn revision(&mut self, node: &Node, path: Option<String>) -> Option<String> {
        let revision = self.string(node, "revision")?;
        self.revised(node.mark, path?, revision)
    }

    /// The name of a revision. A folder may be called so, too: then it is a problem.
    fn revised(&mut self, at: Mark, path: String, revision: String) -> Option<String> {
        let hub = HubRef { name: path, revision };
        let name = hub.full_name();
        let known = self.revisions.get(&name).is_none_or(|known| *known == hub);
        if !known || (self.models.contains_key(&name) && !self.revisions.contains_key(&name)) {
            self.ambiguous(at, &name);
            return None;
        }
        self.revisions.insert(name.clone(), hub);
        Some(name)
    }

    fn ambiguous(&mut self, at: Mark, name: &str) {
        let text = format!("`{name}` means two things here");
        self.problem(at, text, "rename a folder, so that only one reading is left");
    }
}
