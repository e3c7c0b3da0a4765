//! Files of several documents, as of `mergekit-multi`: each is a recipe, one with a
//! `name` is a model of the others, the one without is the result.

use super::yaml::{self, Mark, Node, NodeKind};
use super::{Recipe, parse};
use crate::{Error, RecipeProblem};
use std::collections::BTreeSet;
use std::path::{Component, Path};

/// One document.
#[derive(Clone, Debug)]
pub struct Step {
    /// The name under which later steps use it; `None` for the result.
    pub name: Option<String>,
    /// What is merged.
    pub recipe: Recipe,
}

/// The recipes of one file, in an order in which they can be merged; the result is the last.
#[derive(Clone, Debug)]
pub struct Sequence {
    steps: Vec<Step>,
}

/// What is wrong where, and what to do.
type Found = (Mark, String, &'static str);

impl Sequence {
    /// Reads a file of one or more documents.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Recipe`] with every problem of every document, each with line and
    /// column.
    pub fn load(path: &Path) -> Result<Self, Error> {
        let file = path.display().to_string();
        let text = super::read_text(&file, path)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let mut sequence = Self::read(&file, folder, &text)?;
        for step in &mut sequence.steps {
            step.recipe.folder = path.parent().map(Path::to_owned);
        }
        Ok(sequence)
    }

    /// Reads text of one or more documents; relative model paths start from the working directory.
    ///
    /// # Errors
    /// [`Error::Recipe`] with every problem of every document, each with line and column.
    pub fn parse(text: &str) -> Result<Self, Error> {
        Self::read("<recipe>", Path::new(""), text)
    }

    /// The steps, each behind those that it uses.
    #[must_use]
    pub fn steps(&self) -> &[Step] {
        &self.steps
    }

    /// The same recipes, changed one by one.
    #[must_use]
    pub fn map(mut self, mut change: impl FnMut(Option<&str>, Recipe) -> Recipe) -> Self {
        for step in &mut self.steps {
            step.recipe = change(step.name.as_deref(), step.recipe.clone());
        }
        self
    }

    fn read(file: &str, folder: &Path, text: &str) -> Result<Self, Error> {
        let problem = |(at, text, hint): Found| RecipeProblem {
            file: file.to_owned(),
            at: Some(at),
            text,
            hint: hint.to_owned(),
        };
        let documents = match yaml::parse_all(text) {
            Ok(documents) => documents,
            Err((at, text, hint)) => {
                let at = Some(at);
                let problem = RecipeProblem { file: file.to_owned(), at, text, hint };
                return Err(Error::Recipe(vec![problem]));
            }
        };
        let mut problems = Vec::new();
        let mut steps: Vec<(Mark, Step)> = Vec::new();
        let several = documents.len() > 1;
        for mut document in documents {
            let named = take_name(&mut document);
            match parse::root(file, folder, &document, text) {
                Ok(recipe) => steps.push((document.mark, Step { name: None, recipe })),
                Err(Error::Recipe(found)) => problems.extend(found),
                Err(error) => return Err(error),
            }
            match named {
                Ok(name) => {
                    if let Some((_, step)) = steps.last_mut() {
                        step.name = name.filter(|_| several);
                    }
                }
                Err(found) => problems.push(problem(found)),
            }
        }
        if problems.is_empty() {
            if steps.iter().any(|(_, step)| step.recipe.groups_apart) {
                // the text that all documents have names a file
                steps.iter_mut().for_each(|(_, step)| step.recipe.groups_apart = true);
            }
            let (sorted, found) = sorted(steps);
            problems.extend(found.into_iter().map(problem));
            if problems.is_empty() {
                return Ok(Self { steps: sorted });
            }
        }
        problems.sort_by_key(|problem| problem.at);
        Err(Error::Recipe(problems))
    }
}

/// Takes the name out of a document, so that a recipe is left.
fn take_name(document: &mut Node) -> Result<Option<String>, Found> {
    let NodeKind::Mapping(entries) = &mut document.kind else { return Ok(None) };
    let Some(at) = entries.iter().position(|(key, ..)| key == "name") else { return Ok(None) };
    let (_, _, node) = entries.remove(at);
    if node.is_null() {
        return Ok(None);
    }
    let name = node.text().unwrap_or_default();
    let mut parts = Path::new(name).components();
    match (parts.next(), parts.next()) {
        (Some(Component::Normal(_)), None) if !name.contains(['@', '+']) => {
            Ok(Some(name.to_owned()))
        }
        _ => {
            let text = format!("`name` is {}, allowed is the name of a folder", node.describe());
            Err((node.mark, text, "write letters, digits, `-`, `_` and `.`"))
        }
    }
}

/// Puts every step behind those that it uses, the result last.
fn sorted(mut left: Vec<(Mark, Step)>) -> (Vec<Step>, Vec<Found>) {
    let mut found: Vec<Found> = Vec::new();
    for (i, (at, step)) in left.iter().enumerate() {
        let again = left[..i].iter().any(|(_, other)| other.name == step.name);
        match &step.name {
            Some(name) if again => {
                let text = format!("two documents are called `{name}`");
                found.push((*at, text, "give each a name of its own"));
            }
            None if again => {
                let text = "a second document without a `name`".to_owned();
                found.push((*at, text, "the result alone has none: name the others"));
            }
            _ => {}
        }
    }
    if let (Some((at, _)), true) = (left.first(), left.iter().all(|(_, step)| step.name.is_some()))
    {
        let text = "every document has a `name`".to_owned();
        found.push((*at, text, "the result has none: remove its name"));
    }
    let used = |step: &Step| -> BTreeSet<String> {
        step.recipe.models().into_iter().map(str::to_owned).collect()
    };
    let mut uses: Vec<BTreeSet<String>> = left.iter().map(|(_, step)| used(step)).collect();
    let all: BTreeSet<String> = uses.iter().flatten().cloned().collect();
    let mut steps: Vec<Step> = Vec::new();
    while found.is_empty() && !left.is_empty() {
        let ready = left.iter().zip(&uses).position(|((_, step), used)| {
            let waits = |(_, other): &(Mark, Step)| {
                other.name.as_ref().is_some_and(|name| used.contains(name))
            };
            // The result comes last, whatever it uses.
            !left.iter().any(waits) && (step.name.is_some() || left.len() == 1)
        });
        match ready {
            Some(at) => {
                uses.remove(at);
                steps.push(left.remove(at).1);
            }
            None => {
                let (at, step) = left.iter().find(|(_, s)| s.name.is_some()).unwrap_or(&left[0]);
                let name = step.name.as_deref().unwrap_or("the result");
                let text = format!("`{name}` is made of itself, by way of the other documents");
                found.push((*at, text, "use a document only in those that it does not use"));
            }
        }
    }
    let unused: Vec<String> = steps
        .iter()
        .filter_map(|step| step.name.clone())
        .filter(|name| !all.contains(name))
        .collect();
    if let Some(result) = steps.last_mut() {
        let note = |name: String| format!("no document uses `{name}`");
        result.recipe.notes.extend(unused.into_iter().map(note));
    }
    (steps, found)
}
