//! Whose rounding: ours, once, or mergekit's, after every step.

use darwin_checkpoint::Dtype;

/// How a merge computes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Numerics {
    /// f32 throughout, rounded once to the dtype written; masks keyed by seed, tensor, model and
    /// element; tensors in f32 beside bfloat16 ones stay so.
    #[default]
    Native,
    /// As mergekit 0.1.5 on one CPU thread: every step rounded to the tensors' dtype
    /// (mergekit 0.1.5, `merge_methods/`), one MT19937 stream for all masks, L1 norms added up in torch's
    /// order (2.4), and its reading of `dtype` and `out_dtype`.
    Mergekit,
}

impl Numerics {
    /// All modes with the names used in recipes.
    pub const ALL: [(Self, &'static str); 2] =
        [(Self::Native, "native"), (Self::Mergekit, "mergekit")];

    /// The name used in recipes.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Native => "native",
            Self::Mergekit => "mergekit",
        }
    }

    /// The mode of a name.
    #[must_use]
    pub fn find(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known)| *known == name).map(|(numerics, _)| *numerics)
    }
}

/// What happens to the values of one output tensor after each step of its computation
/// (R_D in the comments of `compute/stepwise.rs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rounding {
    /// Nothing: they are rounded once, when they are written.
    Once,
    /// They are rounded to the working dtype.
    EachStep(Dtype),
}

impl Rounding {
    /// Rounds a tile after a step.
    pub(crate) fn round(self, values: &mut [f32]) {
        if let Self::EachStep(dtype) = self {
            dtype.round(values);
        }
    }

    /// Rounds one number, such as a weight or a norm.
    pub(crate) fn number(self, value: f32) -> f32 {
        let mut value = [value];
        self.round(&mut value);
        value[0]
    }

    /// The rounding of chance's own steps: torch draws and rescales in bfloat16 or in f32
    /// (mergekit 0.1.5, `bernoulli` in `sparsify.py`).
    pub(crate) fn of_chance(self) -> Self {
        match self {
            Self::EachStep(dtype) if dtype != Dtype::Bf16 => Self::EachStep(Dtype::F32),
            other => other,
        }
    }
}

/// The dtype that holds the values of both, as torch promotes them.
pub(crate) fn promoted(a: Dtype, b: Dtype) -> Dtype {
    if a == b { a } else { Dtype::F32 }
}
