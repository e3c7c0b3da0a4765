//! Statistics of counts, scores and ranks (method 1.1 and 6).
//!
//! Proportions: [`wilson`], [`clopper_pearson_upper`], [`clopper_pearson_lower`],
//! [`mcnemar_exact`], [`minimum_detectable_effect`]. Means: [`mean_se`], [`paired_bootstrap`],
//! [`equivalence_p`], [`quantile`]. Clusters: [`design_effect`], [`pooled_design_effect`].
//! Ranks and several tests at once: [`spearman`], [`holm`]. Others: [`entropy_bits`],
//! [`normal_cdf`], [`two_sided_p`], [`assignment`], [`sigmoid`], [`logit`].
//!
//! What is undefined is `None` or not a number, never 0; a value that is not a number is written
//! to JSON as `null` and read back as what it was.

mod assignment;
mod clusters;
mod means;
mod proportions;
mod ranks;

pub use assignment::assignment;
pub use clusters::{design_effect, pooled_design_effect};
pub use means::{
    Difference, Estimate, entropy_bits, equivalence_p, logit, mean_se, normal_cdf,
    paired_bootstrap, quantile, sigmoid, two_sided_p,
};
pub use proportions::{
    Interval, Z95, clopper_pearson_lower, clopper_pearson_upper, mcnemar_exact,
    minimum_detectable_effect, wilson,
};
pub use ranks::{holm, spearman};

/// Serde of an `f64` that may be undefined: NaN is `null` in JSON and `null` is NaN.
pub(crate) mod nullable {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature serde asks for")]
    pub(crate) fn serialize<S: Serializer>(value: &f64, to: S) -> Result<S::Ok, S::Error> {
        (!value.is_nan()).then_some(*value).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<f64, D::Error> {
        Ok(Option::deserialize(from)?.unwrap_or(f64::NAN))
    }
}
