//! RegMean's children in a search (method 2.3, 3.2): solved from the calibration items when somebody
//! asks for them.

use crate::job::{FATHER, MOTHER};
use crate::run::Ui;
use crate::{Error, Parents, RunConfig};
use darwin_core::{Cancel, Domain, Progress};
use darwin_engine::{LayerSource, Room, ScoreItem};
use darwin_eval::Encoded;
use darwin_merge::{Merge, Recipe, RegMean};
use darwin_regmean::{Options, Side, Sides, SolvedTensors, sides, solve};
use std::collections::{BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};

/// Solutions are kept up to this many bytes, at least one.
pub(crate) const KEPT_BYTES: u64 = 1 << 30;

/// What a search must know of RegMean's children.
#[derive(Clone, Debug, PartialEq)]
pub struct Solvable {
    /// The settings of all of them: which domains are whose, which items.
    pub settings: RegMean,
    /// Forward tokens behind the settings: whose domains are whose.
    pub measured: u64,
    /// Forward tokens of a solution.
    pub tokens: u64,
}

/// Solves the maps of recipes.
pub(crate) struct Solver {
    items: [Vec<ScoreItem>; 2],
    solvable: Solvable,
    /// The newest last.
    known: Mutex<VecDeque<(String, Arc<SolvedTensors>)>>,
    most: usize,
}

impl Solver {
    /// Measures on which domains each parent is the stronger one. Where one is so on none, both are
    /// run on all: a search goes on where a merge asks its user.
    pub(crate) fn new(
        config: &RunConfig,
        parents: &Parents,
        calibration: &Encoded,
        ui: Ui<'_>,
    ) -> Result<Self, Error> {
        let source = |name| parents.sources.get(name).expect("both parents were opened").as_ref();
        let room = Room::default();
        let both = [source(FATHER), source(MOTHER)];
        let per_domain = Some(config.calibration.per_domain);
        let settings = RegMean { per_domain, ..RegMean::default() };
        let sides = match sides(&settings, calibration, both, &room, ui.progress, ui.cancel) {
            Ok(sides) => sides,
            Err(darwin_regmean::Error::Cancelled) => return Err(Error::Cancelled),
            Err(darwin_regmean::Error::Unfit { .. }) => {
                let domains = calibration.items().iter().map(|item| item.domain.clone());
                let all: Vec<Domain> = domains.collect::<BTreeSet<_>>().into_iter().collect();
                Sides { father: all.clone(), mother: all, measured: Vec::new() }
            }
            Err(error) => return Err(Error::below(error)),
        };
        let items = sides.items(calibration);
        let solvable = Solvable {
            settings: RegMean {
                father: sides.father,
                mother: sides.mother,
                items: Some(calibration.sha256().to_owned()),
                ..settings
            },
            measured: 2 * calibration.tokens(),
            tokens: items.iter().flatten().map(ScoreItem::fed_tokens).sum::<usize>() as u64,
        };
        let bytes: u64 = parents.father.tensor_bytes().max(1);
        let most = (KEPT_BYTES / bytes).clamp(1, 64) as usize;
        Ok(Self { items, solvable, known: Mutex::default(), most })
    }

    pub(crate) fn solvable(&self) -> &Solvable {
        &self.solvable
    }

    /// A merge with its solved values.
    pub(crate) fn solve(
        &self,
        parents: [&dyn LayerSource; 2],
        recipe: &Recipe,
        merge: Merge,
        progress: &dyn Progress,
        cancel: &Cancel,
    ) -> Result<Merge, Error> {
        let key = recipe.logical_yaml();
        let found = {
            let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
            known.iter().find(|(other, _)| *other == key).map(|(_, solved)| solved.clone())
        };
        let solved = match found {
            Some(solved) => solved,
            None => {
                let settings = recipe.darwin().regmean.clone().unwrap_or_default();
                let room = Room::default();
                let options = Options { room: &room, folder: None, progress, cancel };
                let side = |i: usize| Side { model: parents[i], items: &self.items[i] };
                let solved = solve(&merge, &settings, [side(0), side(1)], &options);
                let solved = Arc::new(solved.map_err(|error| match error {
                    darwin_regmean::Error::Cancelled => Error::Cancelled,
                    error => Error::below(error),
                })?);
                let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
                while known.len() >= self.most {
                    known.pop_front();
                }
                known.push_back((key, solved.clone()));
                solved
            }
        };
        merge.with_solved(solved).map_err(Error::below)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::items::Items;
    use crate::recipe::regmean_recipe;
    use darwin_checkpoint::{HashCache, TensorSource, read_tensor};
    use darwin_core::{NoProgress, Split};
    use darwin_eval::ItemSet;
    use darwin_testkit::{ExpertLayout, sibling, tiny_qwen35, write_model};
    use std::path::Path;

    /// Parents, and items of two domains with words of their own.
    fn setting(folder: &Path) -> RunConfig {
        let father = tiny_qwen35(1);
        write_model(&folder.join("father"), &father, ExpertLayout::Fused, 1 << 20);
        let mother = sibling(&father, "mother", 2, 0.3);
        write_model(&folder.join("mother"), &mother, ExpertLayout::Fused, 1 << 20);
        std::fs::create_dir(folder.join("items")).expect("create");
        for split in ["calibration", "proxy", "search", "selection", "test"] {
            let line = |domain: &str, i: usize| {
                format!(
                    r#"{{"id":"{split}{domain}{i}","domain":"{domain}","family":"f","question":"{split} {domain} {i} and a few words more to be read by both","target":"{i}","formats":["direct"]}}"#
                )
            };
            let lines: Vec<String> = (0..16).map(|i| line(["math", "code"][i % 2], i)).collect();
            let path = folder.join(format!("items/{split}.jsonl"));
            darwin_core::fs::write_atomic(&path, lines.join("\n").as_bytes()).expect("write");
        }
        let path = folder.join("run.yaml");
        let text = format!(
            "title: tiny\nfather: {0}/father\nmother: {0}/mother\nitems: {0}/items\nout: {0}/run\n\
             calibration: {{ per_domain: 6 }}\nproxy: {{ per_domain: 4, steps: 26 }}\n\
             real: {{ per_domain: 2, steps: 14 }}\nselection: {{ per_domain: 2, top: 1 }}\n\
             test: {{ per_domain: 3 }}\narms: [regmean]\n",
            folder.display()
        );
        darwin_core::fs::write_atomic(&path, text.as_bytes()).expect("write");
        RunConfig::read(&path).expect("valid")
    }

    fn values(source: &dyn TensorSource, name: &str) -> Vec<u32> {
        let id = source.manifest().find(name).expect("there");
        read_tensor(source, id).expect("reads").into_iter().map(f32::to_bits).collect()
    }

    /// The recipe alone says how its child is made: with the same items the same child comes out
    /// of another solver, and of the same one after it forgot.
    #[test]
    fn a_solution_depends_on_its_recipe_alone() {
        const NAME: &str = "layers.3.self_attn.o_proj.weight";
        let folder = tempfile::tempdir().expect("tempdir");
        let config = setting(folder.path());
        let (never, hashes) = (Cancel::default(), HashCache::default());
        let ui = Ui::silent(&never, &hashes);
        let mut parents = Parents::open(&config, ui).expect("two parents");
        let items = Items::open(&config, &parents.text).expect("items");
        parents.solve_from(&config, &items.calibration, ui).expect("solvable");
        let solvable = parents.solvable().expect("just now").clone();
        let own = ItemSet::open(&config.items_of(Split::Calibration), Split::Calibration);
        let own = own.expect("items").take(|_| solvable.settings.per_domain.expect("said"));
        let own = Encoded::new(&own, &parents.text).expect("encodes");
        assert_eq!(solvable.settings.items.as_deref(), Some(own.sha256()));
        assert!(solvable.tokens > 0 && solvable.measured == 2 * own.tokens());
        let made = |parents: &Parents, b: f64| {
            let recipe = regmean_recipe(&config, &solvable.settings, b, 0.5).expect("valid");
            let merge = parents.merge(&recipe, &NoProgress, &never).expect("solved");
            assert!(merge.is_solved());
            values(&merge, NAME)
        };
        let (little, much) = (made(&parents, 0.1), made(&parents, 10.0));
        assert_ne!(little, much);
        parents.solver.as_mut().expect("there").most = 1;
        assert_eq!(made(&parents, 0.1), little);
        assert_eq!(made(&parents, 10.0), much);
        let path = folder.path().join("best.yaml");
        let recipe = regmean_recipe(&config, &solvable.settings, 0.1, 0.5).expect("valid");
        let located = crate::parents::located(&config, &recipe);
        located.save(&path).expect("written");
        let read = Recipe::load(&path).expect("reads back");
        assert_eq!(read.logical_yaml(), recipe.logical_yaml());
        let merge = Merge::new(&read, &parents.sources).expect("plans");
        let sides = Sides {
            father: solvable.settings.father.clone(),
            mother: solvable.settings.mother.clone(),
            measured: Vec::new(),
        };
        let (room, both) = (Room::default(), sides.items(&own));
        let models: [&dyn LayerSource; 2] = [&parents.father_model, &parents.mother_model];
        let side = |i: usize| Side { model: models[i], items: &both[i] };
        let options = Options { room: &room, folder: None, progress: &NoProgress, cancel: &never };
        let settings = read.darwin().regmean.clone().expect("written");
        let solved = solve(&merge, &settings, [side(0), side(1)], &options).expect("solved");
        let merge = merge.with_solved(Arc::new(solved)).expect("fits");
        assert_eq!(values(&merge, NAME), little);
    }
}
