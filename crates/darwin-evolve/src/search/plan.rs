//! What a search will cost, and how items are shared out.

use super::{DIAGNOSED, arm, setting, slopes_cost};
use crate::deck::Deck;
use crate::{Error, RunConfig};
use darwin_core::files::ArmName;
use darwin_core::{Domain, Split};

/// The split of each phase.
pub(super) const PHASES: [Split; 3] = [Split::Proxy, Split::Search, Split::Selection];

/// What a search will cost, from its configuration and items alone, in forward tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// A candidate on the first items: the unit of budgets.
    pub(crate) unit: u64,
    /// An arm's proxy phase.
    pub(crate) proxy: u64,
    /// An arm's last comparison on the proxy.
    pub(crate) last: u64,
    /// The line's grid.
    pub(crate) line: u64,
    /// Derivatives at two points.
    pub(crate) diagnosis: u64,
    /// A candidate in the real phase and on `selection`, answers as long as the references.
    pub(crate) real: u64,
    pub(crate) selection: u64,
}

impl Plan {
    /// Of the first replicate.
    pub(crate) fn of(config: &RunConfig, items: &[Vec<(Domain, u64)>; 3]) -> Self {
        Self::of_decks(config, &decks(config, items, 0))
    }

    /// Of a replicate's items.
    pub(super) fn of_decks(config: &RunConfig, [proxy, real, selection]: &[Deck; 3]) -> Self {
        let unit = proxy.mean_tokens(setting::first(config)).max(1);
        Self {
            unit,
            proxy: unit * config.proxy.steps as u64,
            last: arm::COMPARED * proxy.mean_tokens(|_| config.proxy.final_per_domain),
            line: 11 * proxy.mean_tokens(setting::both(config)),
            diagnosis: 3 * slopes_cost(proxy.mean_tokens(|_| DIAGNOSED)),
            real: real.mean_tokens(|_| config.real.per_domain),
            selection: selection.mean_tokens(|_| config.selection.per_domain),
        }
    }

    /// Refuses arms whose tokens do not cover what they must know, as far as that can be foretold;
    /// `calibration` is a pass over its items.
    pub(crate) fn check(&self, arms: &[ArmName], calibration: u64) -> Result<(), Error> {
        let enough = |arm: &ArmName| self.enough(*arm, self.begins(*arm, calibration), calibration);
        arms.iter().try_for_each(enough)
    }

    /// Refuses an arm whose tokens do not cover what it pays before it begins, one candidate and the
    /// last comparison; `solution` is what each of RegMean's candidates costs beside its score.
    pub(super) fn enough(&self, arm: ArmName, begins: u64, solution: u64) -> Result<(), Error> {
        let solutions = if arm == ArmName::RegMean { (arm::COMPARED + 1) * solution } else { 0 };
        let (needs, budget) = (begins + self.last + self.unit + solutions, self.proxy);
        if needs <= budget { Ok(()) } else { Err(Error::Budget { arm, needs, budget }) }
    }

    /// What an arm pays before it begins; a profile costs about two passes over its items.
    pub(crate) fn begins(&self, arm: ArmName, calibration: u64) -> u64 {
        self.line
            + match arm {
                arm if arm.ascends() => self.diagnosis + 4 * calibration,
                ArmName::Card | ArmName::RegMean => 2 * calibration,
                _ => 0,
            }
    }
}

/// One replicate's items of each phase.
pub(super) fn decks(
    config: &RunConfig,
    items: &[Vec<(Domain, u64)>; 3],
    replicate: usize,
) -> [Deck; 3] {
    let replicates = config.seeds.replicates;
    let of = |i: usize| {
        let wanted = |domain: &Domain| config.wants(domain);
        Deck::new(PHASES[i], &items[i], wanted, (replicate, replicates))
    };
    [of(0), of(1), of(2)]
}
