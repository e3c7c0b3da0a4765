//! The merge methods, one entry of [`METHODS`] each.

pub(crate) mod kernels;
pub(crate) mod slerp;
pub(crate) mod sparsify;
pub(crate) mod task_vectors;
pub(crate) mod torch_sum;

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
}

const fn shared(name: &'static str, default: f64, switch: bool) -> Parameter {
    Parameter { name, per_model: false, default: Some(default), switch }
}

const WEIGHT: Parameter =
    Parameter { name: "weight", per_model: true, default: None, switch: false };
const DENSITY: Parameter =
    Parameter { name: "density", per_model: true, default: Some(1.0), switch: false };

/// The parameters of a task-vector method with these defaults (mergekit.md 2.1).
macro_rules! task_vector_parameters {
    (normalize: $normalize:expr, rescale: $rescale:expr) => {
        &[
            WEIGHT,
            DENSITY,
            shared("normalize", $normalize, true),
            shared("rescale", $rescale, true),
            shared("lambda", 1.0, false),
            shared("int8_mask", 0.0, true),
        ]
    };
}

/// All methods.
pub static METHODS: &[Method] = &[
    Method {
        name: "passthrough",
        about: "one model's tensor, scaled by `scale`",
        source: "mergekit.md 2.6",
        kind: Kind::Passthrough,
        parameters: &[Parameter {
            name: "scale",
            per_model: true,
            default: Some(1.0),
            switch: false,
        }],
    },
    Method {
        name: "linear",
        about: "the weighted mean",
        source: "arXiv 2203.05482; mergekit.md 2.6",
        kind: Kind::Linear,
        parameters: &[WEIGHT, shared("normalize", 1.0, true)],
    },
    Method {
        name: "slerp",
        about: "along the arc from the base to the other model, `t` of the way",
        source: "Shoemake, SIGGRAPH 1985; mergekit.md 2.7",
        kind: Kind::Slerp,
        parameters: &[Parameter { name: "t", per_model: false, default: None, switch: false }],
    },
    Method {
        name: "task_arithmetic",
        about: "the base plus weighted task vectors",
        source: "arXiv 2212.04089; mergekit.md 2.5",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::None, consensus: false },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 0.0),
    },
    Method {
        name: "ties",
        about: "task vectors trimmed by magnitude, the majority's sign elected",
        source: "arXiv 2306.01708; mergekit.md 2.4, 2.5",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Magnitude, consensus: true },
        parameters: task_vector_parameters!(normalize: 1.0, rescale: 0.0),
    },
    Method {
        name: "dare_linear",
        about: "task vectors thinned out by chance and rescaled",
        source: "arXiv 2311.03099; mergekit.md 2.4, 2.5",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Random, consensus: false },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 1.0),
    },
    Method {
        name: "dare_ties",
        about: "task vectors thinned out by chance and rescaled, the majority's sign elected",
        source: "arXiv 2311.03099, 2306.01708; mergekit.md 2.4, 2.5",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Random, consensus: true },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 1.0),
    },
];
