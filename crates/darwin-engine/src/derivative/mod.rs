//! Derivatives of items' losses by the share of each part of a model, in one backward pass.
//!
//! A share `c` of a group `g` moves the group's weights along a direction `D`: `W + c D_g`. What is
//! computed is `dNLL / dc_g = <dNLL / dW, D_g>` at `c = 0`, for every group and every item
//! (`docs/method.md` 1.6). For a linear map `y = W x` this is the sum over tokens of the gradient of
//! `y` times `D x`, so the direction is applied to the inputs, and no gradient of a weight is ever
//! made. Each token belongs to one item, so values of items cost nothing more, and with them come
//! standard errors and the derivative of mean probabilities ([`Derivatives::of_probability`]).
//!
//! The backward pass is reverse mode, layer by layer, in float32 with sums over tokens in float64.
//! A router's choice of experts is held fixed; its gates have their derivative. Rounding of merged
//! weights is not looked at.

mod direction;
mod full;
mod groups;
mod head;
mod inputs;
mod layered;
mod linear;
mod maps;
mod mlp;
mod moe;
mod resident;
pub(crate) mod step;

pub use darwin_core::Group;
pub use direction::Direction;
pub(crate) use inputs::Inputs;

use crate::config::RouterForm;
use crate::score::{check_items, fed};
use crate::{Batch, Config, Error, LayerSource, QkNorm, Room, ScoreItem, Sequence, SharedForm};
use darwin_checkpoint::Problem;
use darwin_core::{Cancel, Progress};
use groups::Tally;
use head::Asked;

/// What a backward pass keeps of the forward pass.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub enum Keep {
    /// Everything, for the sequences that a thread is at: 3.9 forward passes were measured. The point
    /// and the direction are in memory as a whole, and the point's weights a second time, transposed.
    #[default]
    Activations,
    /// What goes into each layer; a layer is computed again on the way back: 4.5 to 4.7 forward
    /// passes were measured. One layer of the point and of the direction is in memory at a time, and hidden states
    /// of all items and layers as far as the room allows; its `prefetch` holds for both ways. The
    /// head is in memory as a whole.
    Inputs(Room),
}

impl Keep {
    /// What a pass with derivatives counts in a budget, in forward passes of the same tokens: what it
    /// was measured to take, rounded up.
    #[must_use]
    pub fn passes(&self) -> u64 {
        match self {
            Self::Activations => 4,
            Self::Inputs(_) => 5,
        }
    }
}

/// Derivatives of items' losses by shares.
#[derive(Clone, Debug, PartialEq)]
pub struct Derivatives {
    /// The groups, in the order of [`Direction::groups`].
    pub groups: Vec<Group>,
    /// The loss of each item: the negative log-likelihood of its whole answer, nats.
    pub nll: Vec<f64>,
    /// The derivative of each item's loss by each group's share (items, groups), row-major, nats for
    /// a share of 1.
    pub values: Vec<f64>,
    /// Tokens that went through the layers, all items together.
    pub tokens: u64,
}

impl Derivatives {
    /// The derivatives of an item's loss (groups), nats for a share of 1.
    ///
    /// # Panics
    /// If there is no such item.
    #[must_use]
    pub fn item(&self, item: usize) -> &[f64] {
        let n = self.groups.len();
        &self.values[item * n..(item + 1) * n]
    }

    /// The derivatives of the sum of all losses (groups), nats for a share of 1.
    #[must_use]
    pub fn total(&self) -> Vec<f64> {
        self.weighted(|_| 1.0)
    }

    /// The derivatives of the mean probability of the answers, `J = mean exp(-nll)` (groups), for a
    /// share of 1 (method 1.6).
    #[must_use]
    pub fn of_probability(&self) -> Vec<f64> {
        let n = self.nll.len().max(1) as f64;
        self.weighted(|nll| -(-nll).exp() / n)
    }

    /// Sums over items of their derivatives times a weight that depends on their loss.
    fn weighted(&self, weight: impl Fn(f64) -> f64) -> Vec<f64> {
        let mut sums = vec![0.0; self.groups.len()];
        for (item, nll) in self.nll.iter().enumerate() {
            let weight = weight(*nll);
            sums.iter_mut().zip(self.item(item)).for_each(|(sum, v)| *sum += weight * v);
        }
        sums
    }
}

/// The derivatives of items' losses at a point, along a direction of the same shape. The same bits
/// whatever the number of threads, whatever else is in the call, and whatever is kept. Progress is
/// in tokens times layers, each twice: forwards and back.
///
/// # Errors
/// [`Error::Shapes`] where point and direction are of different shapes; what
/// [`score`](crate::score) finds wrong with items; [`Error::Weights`], [`Error::Scratch`],
/// [`Error::Cancelled`]; [`Error::NotFinite`], its sequence being the item, also for gradients.
pub fn derivatives(
    point: &dyn LayerSource,
    direction: &Direction<'_>,
    items: &[ScoreItem],
    keep: &Keep,
    progress: &dyn Progress,
    cancel: &Cancel,
) -> Result<Derivatives, Error> {
    let config = point.config();
    supported(config, "derivatives by share")?;
    if !direction.fits(config) {
        return Err(Error::Shapes);
    }
    check_items(config, items)?;
    let mut result = Derivatives {
        groups: direction.groups().to_vec(),
        nll: vec![0.0; items.len()],
        values: vec![0.0; items.len() * direction.groups().len()],
        tokens: items.iter().map(|item| fed(item).len() as u64).sum(),
    };
    let pass = Pass { point, direction, items, progress, cancel };
    match keep {
        Keep::Activations => pass.resident(&mut result)?,
        Keep::Inputs(room) => pass.layered(room, &mut result)?,
    }
    Ok(result)
}

/// What both ways to derivatives need.
struct Pass<'a> {
    point: &'a dyn LayerSource,
    direction: &'a Direction<'a>,
    items: &'a [ScoreItem],
    progress: &'a dyn Progress,
    cancel: &'a Cancel,
}

/// Items whose sequences go through together.
#[derive(Debug)]
pub(crate) struct Bundle {
    /// The first item.
    pub(crate) first: usize,
    /// Where each sequence starts (n + 1).
    pub(crate) offsets: Vec<usize>,
    /// The item of each token, counted from the first.
    owners: Vec<u32>,
    ids: Vec<u32>,
    asked: Vec<Asked>,
}

impl Bundle {
    /// Consecutive items.
    fn of(first: usize, items: &[ScoreItem]) -> Self {
        let (mut offsets, mut owners, mut ids, mut asked) =
            (vec![0], Vec::new(), Vec::new(), Vec::new());
        for (i, item) in items.iter().enumerate() {
            let row = ids.len() + item.prompt.len() - 1;
            asked.extend(
                item.answer.iter().enumerate().map(|(j, id)| Asked { row: row + j, id: *id }),
            );
            ids.extend(fed(item));
            owners.resize(ids.len(), i as u32);
            offsets.push(ids.len());
        }
        Self { first, offsets, owners, ids, asked }
    }

    /// All items, cut where a thread has enough.
    pub(crate) fn cut(first: usize, items: &[ScoreItem], tokens: usize) -> Vec<Self> {
        let (mut bundles, mut start, mut count) = (Vec::new(), 0, 0);
        for (i, item) in items.iter().enumerate() {
            count += item.fed_tokens();
            if count >= tokens || i + 1 == items.len() {
                bundles.push(Self::of(first + start, &items[start..=i]));
                (start, count) = (i + 1, 0);
            }
        }
        bundles
    }

    fn items(&self) -> usize {
        self.offsets.len() - 1
    }

    pub(crate) fn tokens(&self) -> usize {
        self.ids.len()
    }

    /// As a batch of a sequence for each item.
    fn sequences(&self) -> impl Iterator<Item = Sequence> + '_ {
        self.offsets.windows(2).map(|ends| Sequence::new(self.ids[ends[0]..ends[1]].to_vec()))
    }

    fn tally<'a>(&'a self, sums: &'a mut [f64]) -> Tally<'a> {
        let groups = sums.len() / self.items();
        Tally { items: &self.owners, sums, groups }
    }
}

/// All sequences of bundles.
pub(crate) fn batch(bundles: &[Bundle]) -> Batch {
    Batch::new(bundles.iter().flat_map(Bundle::sequences).collect())
}

impl Pass<'_> {
    /// Adds the inner products of the embedding, given the gradients before the first layer.
    fn embedding(
        &self,
        bundle: &Bundle,
        rows: &crate::embedding::Table,
        grad: &[f32],
        tally: &mut Tally<'_>,
    ) {
        let group = self.direction.table().of_tensor("embed_tokens.weight");
        let hidden = self.point.config().hidden_size;
        for (t, (id, grad)) in bundle.ids.iter().zip(grad.chunks_exact(hidden)).enumerate() {
            if let Some(row) = rows.row(*id) {
                tally.add_one(group, t, crate::kernels::dot(grad, row));
            }
        }
    }
}

/// Consecutive parts of values, as many for each bundle as it has items times `each`.
fn parts<'v, T>(mut values: &'v mut [T], bundles: &[Bundle], each: usize) -> Vec<&'v mut [T]> {
    let cut = bundles.iter().map(|bundle| {
        let (now, later) = std::mem::take(&mut values).split_at_mut(bundle.items() * each);
        values = later;
        now
    });
    cut.collect()
}

/// Checks that the passes of this module, which `what` needs, are there for a model of these numbers.
pub(crate) fn supported(config: &Config, what: &str) -> Result<(), Error> {
    let mut missing = Vec::new();
    if config.latent.is_some() {
        missing.push("latent attention");
    }
    if config.attention.qk_norm == QkNorm::Whole {
        missing.push("norms over all heads of queries and keys");
    }
    if config.attention.clip_qkv.is_some() {
        missing.push("clipped queries, keys and values");
    }
    if config.num_experts > 0 && config.router != RouterForm::softmax(config.router.normalised) {
        missing.push("routers with groups, biases or sigmoid scores");
    }
    if config.shared == SharedForm::Plain {
        missing.push("shared experts without a gate");
    }
    if missing.is_empty() {
        return Ok(());
    }
    let model = &config.model_type;
    Err(Error::Model(vec![Problem::new(
        format!("{model}: there are no {what} for {}", missing.join(", ")),
        format!(
            "{what} are there for Qwen3.5, Qwen3-Next, Qwen3, Llama, and what is built of the same parts"
        ),
    )]))
}
