//! Expert correspondence (method 1.5): for siblings of one ancestor it must be the identity.

use crate::{Error, Subject};
use darwin_checkpoint::{TensorSource, read_tensor};

/// Elements of an expert's weights that enter the similarity, taken evenly.
const SAMPLE: usize = 4096;

/// Whether the best assignment of the mother's experts to the father's is the identity; `None` in a
/// dense layer.
pub(crate) fn aligned(
    father: &Subject<'_>,
    mother: &Subject<'_>,
    layer: usize,
) -> Result<Option<bool>, Error> {
    let features = (features(father.source, layer)?, features(mother.source, layer)?);
    let (Some(f), Some(m)) = features else { return Ok(None) };
    if f.len() != m.len() {
        return Ok(None);
    }
    let cost: Vec<Vec<f64>> =
        f.iter().map(|x| m.iter().map(|y| -similarity(x, y)).collect()).collect();
    Ok(Some(assignment(&cost).into_iter().enumerate().all(|(i, j)| i == j)))
}

/// Of every expert, its router row and a sample of each of its tensors, each of norm 1.
type Features = Vec<Vec<Vec<f32>>>;

fn features(source: &dyn TensorSource, layer: usize) -> Result<Option<Features>, Error> {
    let names = ["gate.weight", "experts.gate_up_proj", "experts.down_proj"];
    let mut experts: Features = Vec::new();
    for name in names {
        let Some(id) = source.manifest().find(&format!("layers.{layer}.mlp.{name}")) else {
            return Ok(None);
        };
        let count = source.manifest().get(id).shape[0];
        experts.resize(count, Vec::new());
        let values = read_tensor(source, id)?;
        let size = values.len() / count.max(1);
        for (expert, own) in experts.iter_mut().zip(values.chunks(size.max(1))) {
            let step = size.div_ceil(SAMPLE).max(1);
            expert.push(unit(own.iter().step_by(step).copied().collect()));
        }
    }
    Ok(Some(experts))
}

fn unit(mut v: Vec<f32>) -> Vec<f32> {
    let norm = crate::profile::tap::norm(&v).max(1e-30) as f32;
    v.iter_mut().for_each(|x| *x /= norm);
    v
}

/// Sum of cosines over router row and tensors.
fn similarity(a: &[Vec<f32>], b: &[Vec<f32>]) -> f64 {
    a.iter().zip(b).map(|(x, y)| crate::profile::tap::dot(x, y)).sum()
}

/// The column assigned to each row of a square cost matrix at least total cost: the Hungarian
/// method with potentials, O(n^3) (Kuhn 1955; Jonker and Volgenant, Computing 1987). Index 0 of
/// the working arrays is a dummy row and column.
fn assignment(cost: &[Vec<f64>]) -> Vec<usize> {
    let n = cost.len();
    let (mut u, mut v) = (vec![0.0; n + 1], vec![0.0; n + 1]);
    let mut row_of = vec![0; n + 1];
    for row in 1..=n {
        row_of[0] = row;
        let way = augment(cost, &mut u, &mut v, &row_of);
        let (mut column, path) = way;
        while column != 0 {
            let before = path[column];
            row_of[column] = row_of[before];
            column = before;
        }
    }
    let mut columns = vec![0; n];
    (1..=n).for_each(|column| columns[row_of[column] - 1] = column - 1);
    columns
}

/// The shortest augmenting path from the dummy column: its free end and each column's predecessor.
fn augment(
    cost: &[Vec<f64>],
    u: &mut [f64],
    v: &mut [f64],
    row_of: &[usize],
) -> (usize, Vec<usize>) {
    let n = cost.len();
    let (mut least, mut used) = (vec![f64::INFINITY; n + 1], vec![false; n + 1]);
    let mut path = vec![0; n + 1];
    let mut column = 0;
    while row_of[column] != 0 {
        used[column] = true;
        let row = row_of[column];
        let (mut delta, mut next) = (f64::INFINITY, 0);
        for j in (1..=n).filter(|j| !used[*j]) {
            let reduced = cost[row - 1][j - 1] - u[row] - v[j];
            if reduced < least[j] {
                (least[j], path[j]) = (reduced, column);
            }
            if least[j] < delta {
                (delta, next) = (least[j], j);
            }
        }
        for j in 0..=n {
            if used[j] {
                u[row_of[j]] += delta;
                v[j] -= delta;
            } else {
                least[j] -= delta;
            }
        }
        if next == 0 {
            break; // a cost is not a number: nothing better can be said
        }
        column = next;
    }
    (column, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cheapest_assignment_is_found() {
        let cost = [[4.0, 1.0, 3.0], [2.0, 0.0, 5.0], [3.0, 2.0, 2.0]].map(|r| r.to_vec());
        assert_eq!(assignment(&cost), [1, 0, 2]);
        let identity = [[-1.0, 0.0], [0.0, -1.0]].map(|r| r.to_vec());
        assert_eq!(assignment(&identity), [0, 1]);
    }
}
