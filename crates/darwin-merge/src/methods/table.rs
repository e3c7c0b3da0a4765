//! The table of methods.

use super::{Kind, Method, Parameter, Rule, Sparsifier};

const fn shared(name: &'static str, default: f64, switch: bool) -> Parameter {
    Parameter { name, per_model: false, default: Some(default), switch }
}

const WEIGHT: Parameter =
    Parameter { name: "weight", per_model: true, default: None, switch: false };
const DENSITY: Parameter =
    Parameter { name: "density", per_model: true, default: Some(1.0), switch: false };

const GAMMA: Parameter =
    Parameter { name: "gamma", per_model: true, default: Some(0.01), switch: false };
const EPSILON: Parameter =
    Parameter { name: "epsilon", per_model: true, default: Some(0.15), switch: false };
/// Accepted, without effect: it only changes how mergekit stores signs.
const INT8_MASK: Parameter = shared("int8_mask", 0.0, true);

/// The parameters of a task-vector method with these defaults (mergekit 0.1.5, generalized_task_arithmetic.py), in brackets the
/// one that only its sparsifier has.
macro_rules! task_vector_parameters {
    ($([$margin:expr],)? normalize: $normalize:expr, rescale: $rescale:expr) => {
        &[
            WEIGHT,
            DENSITY,
            $($margin,)?
            shared("normalize", $normalize, true),
            shared("rescale", $rescale, true),
            shared("lambda", 1.0, false),
            INT8_MASK,
        ]
    };
}

/// All methods.
pub static METHODS: &[Method] = &[
    Method {
        name: "passthrough",
        about: "one model's tensor, scaled by `scale`",
        source: "mergekit 0.1.5, passthrough.py",
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
        source: "arXiv 2203.05482; mergekit 0.1.5, linear.py",
        kind: Kind::Linear,
        parameters: &[WEIGHT, shared("normalize", 1.0, true)],
    },
    Method {
        name: "slerp",
        about: "along the arc from the base to the other model, `t` of the way",
        source: "Shoemake, SIGGRAPH 1985; mergekit 0.1.5, slerp.py",
        kind: Kind::Slerp,
        parameters: &[Parameter { name: "t", per_model: false, default: None, switch: false }],
    },
    Method {
        name: "task_arithmetic",
        about: "the base plus weighted task vectors",
        source: "arXiv 2212.04089; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::None, consensus: false },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 0.0),
    },
    Method {
        name: "ties",
        about: "task vectors trimmed by magnitude, the majority's sign elected",
        source: "arXiv 2306.01708; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Magnitude, consensus: true },
        parameters: task_vector_parameters!(normalize: 1.0, rescale: 0.0),
    },
    Method {
        name: "dare_linear",
        about: "task vectors thinned out by chance and rescaled",
        source: "arXiv 2311.03099; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Random, consensus: false },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 1.0),
    },
    Method {
        name: "dare_ties",
        about: "task vectors thinned out by chance and rescaled, the majority's sign elected",
        source: "arXiv 2311.03099, 2306.01708; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Random, consensus: true },
        parameters: task_vector_parameters!(normalize: 0.0, rescale: 1.0),
    },
    Method {
        name: "breadcrumbs",
        about: "task vectors without their smallest and their very largest elements",
        source: "arXiv 2312.06795; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Outliers, consensus: false },
        parameters: task_vector_parameters!([GAMMA], normalize: 0.0, rescale: 0.0),
    },
    Method {
        name: "breadcrumbs_ties",
        about: "breadcrumbs, the majority's sign elected",
        source: "arXiv 2312.06795, 2306.01708; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Outliers, consensus: true },
        parameters: task_vector_parameters!([GAMMA], normalize: 0.0, rescale: 0.0),
    },
    Method {
        name: "della",
        about: "task vectors thinned out by chance, large elements of a row likelier to stay, the majority's sign elected",
        source: "arXiv 2406.11617; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Ranked, consensus: true },
        parameters: task_vector_parameters!([EPSILON], normalize: 1.0, rescale: 1.0),
    },
    Method {
        name: "della_linear",
        about: "task vectors thinned out by chance, large elements of a row likelier to stay",
        source: "arXiv 2406.11617; mergekit 0.1.5, generalized_task_arithmetic.py",
        kind: Kind::TaskVectors { sparsifier: Sparsifier::Ranked, consensus: false },
        parameters: task_vector_parameters!([EPSILON], normalize: 0.0, rescale: 1.0),
    },
    Method {
        name: "model_stock",
        about: "from the base towards the mean of the models, the farther the smaller their angles",
        source: "arXiv 2403.19522; mergekit 0.1.5, model_stock.py",
        kind: Kind::Formula(Rule::ModelStock),
        parameters: &[shared("filter_wise", 0.0, true)],
    },
    Method {
        name: "nuslerp",
        about: "along the arc between two models, or between their differences from a base",
        source: "Shoemake, SIGGRAPH 1985; mergekit 0.1.5, nuslerp.py",
        kind: Kind::Formula(Rule::Nuslerp),
        parameters: &[
            WEIGHT,
            shared("nuslerp_row_wise", 0.0, true),
            shared("nuslerp_flatten", 1.0, true),
        ],
    },
    Method {
        name: "multislerp",
        about: "the weighted mean of directions in the tangent space at their mean, times the mean length",
        source: "mergekit 0.1.5, multislerp.py",
        kind: Kind::Formula(Rule::Multislerp),
        parameters: &[WEIGHT, shared("normalize_weights", 1.0, true), shared("eps", 1e-8, false)],
    },
    Method {
        name: "sce",
        about: "where task vectors vary most, their mean weighted by energy, minority signs erased",
        source: "arXiv 2408.07990; mergekit 0.1.5, sce.py",
        kind: Kind::Formula(Rule::Sce),
        parameters: &[shared("select_topk", 1.0, false), INT8_MASK],
    },
    Method {
        name: "nearswap",
        about: "towards the other model where it is near the base",
        source: "alchemonaut, QuartetAnemoi-70B, 2024; mergekit 0.1.5, nearswap.py",
        kind: Kind::Formula(Rule::NearSwap),
        parameters: &[Parameter { name: "t", per_model: false, default: None, switch: false }],
    },
    Method {
        name: "karcher",
        about: "the Riemannian mean of the models' directions, times their mean length",
        source: "arXiv 2603.04972; mergekit 0.1.5, karcher.py",
        kind: Kind::Formula(Rule::Karcher),
        parameters: &[shared("max_iter", 10.0, false), shared("tol", 1e-5, false)],
    },
    Method {
        name: "ram",
        about: "task vectors averaged where several act, whole where one does",
        source: "arXiv 2601.13572; mergekit 0.1.5, ram.py",
        kind: Kind::Formula(Rule::Ram),
        parameters: &[shared("epsilon", 1e-5, false)],
    },
    Method {
        name: "ramplus_tl",
        about: "ram, what one model alone changes reinforced by how much it shares",
        source: "arXiv 2601.13572; mergekit 0.1.5, ram.py",
        kind: Kind::Formula(Rule::RamPlus),
        parameters: &[
            shared("r", 0.1, false),
            shared("alpha", 0.2, false),
            shared("epsilon", 1e-5, false),
        ],
    },
    Method {
        name: "arcee_fusion",
        about: "the other model's elements where they matter most, else the base's",
        source: "arcee.ai, 2024; mergekit 0.1.5, arcee_fusion.py",
        kind: Kind::Formula(Rule::Fusion),
        parameters: &[],
    },
    Method {
        name: "regmean",
        about: "each linear map closest to both parents' on their own inputs, by least squares",
        source: "arXiv 2212.09849; docs/method.md 2.3",
        kind: Kind::Solved,
        parameters: &[],
    },
];
