//! The merge methods, one entry of [`METHODS`] each.

pub(crate) mod axis;
pub(crate) mod formula;
mod fusion;
pub(crate) mod kernels;
mod ram;
pub(crate) mod rank;
mod sce;
pub(crate) mod slerp;
pub(crate) mod span;
pub(crate) mod sparsify;
mod table;
pub(crate) mod task_vectors;
pub(crate) mod torch_sum;

pub use table::METHODS;

/// A merge method: what it is called, where it comes from, which parameters it takes.
#[derive(Debug)]
pub struct Method {
    /// The name in recipes, mergekit's.
    pub name: &'static str,
    /// One sentence.
    pub about: &'static str,
    /// Where it comes from.
    pub source: &'static str,
    /// How it computes.
    pub(crate) kind: Kind,
    /// The parameters that it reads.
    pub parameters: &'static [Parameter],
}

impl PartialEq for Method {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Method {
    /// The method of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<&'static Self> {
        METHODS.iter().find(|method| method.name == name)
    }

    /// Whether it merges differences from a base model.
    #[must_use]
    pub fn uses_task_vectors(&self) -> bool {
        matches!(self.kind, Kind::TaskVectors { .. })
    }

    /// Whether it cannot do without a base model.
    #[must_use]
    pub fn needs_base(&self) -> bool {
        match self.kind {
            Kind::Passthrough | Kind::Linear | Kind::Solved => false,
            Kind::Slerp | Kind::TaskVectors { .. } => true,
            Kind::Formula(rule) => {
                !matches!(rule, Rule::Nuslerp | Rule::Multislerp | Rule::Karcher)
            }
        }
    }

    /// Whether a base model is one of the inputs and has parameters as they have.
    pub(crate) fn weighs_base(&self) -> bool {
        matches!(self.kind, Kind::Passthrough | Kind::Linear | Kind::Slerp)
    }

    /// Whether it blends two parents by shares (`darwin.t`).
    #[must_use]
    pub fn takes_shares(&self) -> bool {
        !matches!(self.kind, Kind::Passthrough | Kind::Formula(_))
    }

    /// Whether it computes as mergekit does where `numerics: mergekit` is asked for.
    #[must_use]
    pub fn follows_mergekit(&self) -> bool {
        !matches!(
            self.kind,
            Kind::Formula(_)
                | Kind::Solved
                | Kind::TaskVectors { sparsifier: Sparsifier::Ranked, .. }
        )
    }

    /// Whether it needs activations of the parents, from which its values are solved.
    #[must_use]
    pub fn needs_activations(&self) -> bool {
        self.kind == Kind::Solved
    }

    /// Whether a base, where there is one, is not a model among others.
    pub(crate) fn anchored(&self) -> bool {
        match self.kind {
            Kind::TaskVectors { .. } => true,
            Kind::Formula(rule) => rule != Rule::Karcher,
            _ => false,
        }
    }

    /// The parameter that its sparsifier has beside the density.
    pub(crate) fn margin(&self) -> Option<&'static str> {
        match self.kind {
            Kind::TaskVectors { sparsifier: Sparsifier::Outliers, .. } => Some("gamma"),
            Kind::TaskVectors { sparsifier: Sparsifier::Ranked, .. } => Some("epsilon"),
            _ => None,
        }
    }

    pub(crate) fn parameter(&self, name: &str) -> Option<&'static Parameter> {
        self.parameters.iter().find(|p| p.name == name)
    }
}

/// A parameter of a method.
#[derive(Debug)]
pub struct Parameter {
    /// Its name in recipes.
    pub name: &'static str,
    /// Whether each model has its own value.
    pub per_model: bool,
    /// The default; `None` where a value must be given.
    pub default: Option<f64>,
    /// Whether it is a switch, in recipes true or false.
    pub switch: bool,
}

/// How a method computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// One model, scaled.
    Passthrough,
    /// Weighted mean.
    Linear,
    /// Along the arc between two models.
    Slerp,
    /// Base plus weighted task vectors.
    TaskVectors { sparsifier: Sparsifier, consensus: bool },
    /// All models at once.
    Formula(Rule),
    /// By values that somebody else computes from activations.
    Solved,
}

/// The methods of [`Kind::Formula`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    ModelStock,
    Nuslerp,
    Multislerp,
    Karcher,
    NearSwap,
    Ram,
    RamPlus,
    Sce,
    Fusion,
}

impl Rule {
    /// Whether models have weights.
    pub(crate) fn weighs(self) -> bool {
        matches!(self, Self::Nuslerp | Self::Multislerp)
    }
}

/// How a task vector is thinned out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sparsifier {
    /// Not at all.
    None,
    /// The largest magnitudes stay.
    Magnitude,
    /// Elements stay by chance.
    Random,
    /// The largest magnitudes stay, but for the very largest.
    Outliers,
    /// Elements stay by chance, the larger ones of a row more likely.
    Ranked,
}
